"""Where all steps of a method are of one kind, each costs what it does among others."""

import jax
import jax.numpy as jnp
import pytest

import ksam_jax
from experiments.costs import timing
from experiments.methods import METHODS

BATCH = jnp.ones((64, 32))
PARAMS = {"hidden": [jnp.ones((32, 32))] * 6}
FOLLOWING = ["k_sam_following", "k_momentum_following", "coverage_without_climb"]


def loss_and_statistics(params, x):
    """Whose statistics are of the whole batch, so that aux is as well."""
    for weights in params["hidden"]:
        x = jnp.tanh(x @ weights)
    return jnp.sum(x * x, axis=1), jnp.mean(x)


def alike(name, share, climbs):
    made = METHODS[name].at
    assert made is not None
    return made(share, climbs)()


def counted(tx):
    def step(params):
        return tx.update(
            None,
            tx.init(params),
            params,
            loss_fn=loss_and_statistics,
            batch=BATCH,
            has_aux=True,
        )

    return timing.operations(jax.jit(step).lower(PARAMS).compile())


@pytest.mark.parametrize("name", FOLLOWING)
@pytest.mark.parametrize(("share", "most"), [(0.25, 0.65), (0.5, 0.9), (1.0, 1.05)])
def test_without_a_climb_statistics_are_of_the_pass_that_chooses(name, share, most):
    """One forward pass of all, and a step of the chosen: (1 + 3k)/3; or SGD's, of all."""
    assert (
        counted(alike(name, share, climbs=False)) / counted(ksam_jax.mean_gradient()) < most
    )


def test_with_a_climb_k_sam_has_two_gradients_more_than_the_pass_that_chooses():
    alone = alike("k_sam_following", 0.25, climbs=True)
    assert 0.8 < counted(alone) / counted(ksam_jax.mean_gradient()) < 0.95
