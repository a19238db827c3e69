"""A row divides by what its label says, whatever the library does by default."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import METHODS
from experiments.methods.method import gradient

SLOPE = jnp.asarray([3.0, -4.0])
BATCH = {"index": jnp.arange(16)}
FIXED = [name for name, row in METHODS.items() if "follows" not in row.label]
# What takes less than half of the examples, or half; all others take all.
SHARES = {", k = 1/4": 0.25, ", k = 1/2": 0.5, "ESAM, over": 0.5}


def loss_fn(weights, batch):
    """Whose gradient is the same for each example, at all weights."""
    return weights @ SLOPE + 0.0 * batch["index"]


def divided_by(label):
    if "over the batch" not in label:
        return 1.0
    return next(share for mark, share in SHARES.items() if mark in label)


@pytest.mark.parametrize("name", FIXED)
def test_equal_gradients_are_their_mean_unless_it_says_over_the_batch(name):
    row, weights = METHODS[name], jnp.ones(2)
    own = {given: 0.1 for given in ("rho", "decay") if given in row.takes}
    tx: Any = gradient(row, own, seed=0, num_examples=16, num_steps=4)
    args = tx.init(weights), weights
    updates, _ = tx.update(None, *args, loss_fn=loss_fn, batch=BATCH)
    expected = divided_by(row.label) * SLOPE
    np.testing.assert_allclose(np.asarray(updates), np.asarray(expected), rtol=1e-6)
