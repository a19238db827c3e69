"""The two baselines against gradients worked out by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.baselines import highest_loss_gradient, mean_gradient

X = np.array([[1.0, 2.0], [-1.0, 0.5], [3.0, -1.0], [0.5, 0.25], [-2.0, 1.0]], np.float32)
Y = np.array([0.5, -1.0, 4.0, 0.0, 2.5], np.float32)
W = np.array([0.3, -0.7], np.float32)


def loss_fn(w, batch):
    x, y = batch
    return (x @ w - y) ** 2 / 2


def by_hand(rows):
    """The gradient of the mean loss over these rows: residual times input."""
    x, y = X[rows].astype(np.float64), Y[rows].astype(np.float64)
    return ((x @ W - y)[:, None] * x).mean(axis=0)


def update(tx):
    batch = (jnp.asarray(X), jnp.asarray(Y))
    step = jax.jit(partial(tx.update, loss_fn=loss_fn, other=1))
    updates, _ = step(None, tx.init(W), W, batch=batch)
    return np.asarray(updates)


def test_mean_gradient():
    np.testing.assert_allclose(update(mean_gradient()), by_hand(range(5)), rtol=1e-5)


@pytest.mark.parametrize(
    ("k", "rows"), [(0.01, [4]), (0.4, [4, 2]), (0.6, [4, 2, 0]), (1.0, range(5))]
)
def test_highest_loss_gradient(k, rows):
    # Residuals -1.6, 0.35, -2.4, -0.025, -3.8: the order is 4, 2, 0, 1, 3.
    tx = highest_loss_gradient(k)
    np.testing.assert_allclose(update(tx), by_hand(rows), rtol=1e-5)
