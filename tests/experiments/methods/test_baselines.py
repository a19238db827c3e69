"""The two baselines against gradients worked out by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from experiments.methods.baselines import (
    GradientState,
    highest_loss_gradient,
    mean_gradient,
)
from experiments.processes import sharded

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


def with_aux(w, batch):
    x, _ = batch
    return loss_fn(w, batch), {"seen": x.mean(axis=0)}


LOSSES = np.array([1.28, 0.06125, 2.88, 0.0003125, 7.22], np.float32)
BASELINES = {"mean": mean_gradient, "highest": partial(highest_loss_gradient, 0.4)}


@pytest.mark.parametrize("name", BASELINES)
def test_the_loss_and_what_is_beside_it_are_of_the_whole_batch(name):
    tx = BASELINES[name]()
    batch = (jnp.asarray(X), jnp.asarray(Y))
    found, state = tx.update(
        None, tx.init(W), W, loss_fn=with_aux, batch=batch, has_aux=True
    )
    np.testing.assert_allclose(found, update(tx), rtol=1e-6)
    np.testing.assert_allclose(state.loss, LOSSES.mean(), rtol=1e-5)
    np.testing.assert_allclose(state.aux["seen"], X.mean(axis=0), rtol=1e-6)
    _, state = tx.update(None, tx.init(W), W, loss_fn=loss_fn, batch=batch)
    assert state.aux is None
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(W))


@pytest.mark.parametrize("name", BASELINES)
def test_losses_in_bfloat16_are_told_in_float32(name):
    tx = BASELINES[name]()
    batch = (jnp.asarray(X, jnp.bfloat16), jnp.asarray(Y, jnp.bfloat16))
    w = jnp.asarray(W, jnp.bfloat16)
    found, state = tx.update(None, tx.init(w), w, loss_fn=loss_fn, batch=batch)
    assert (found.dtype, state.loss.dtype) == (jnp.bfloat16, jnp.float32)


@jax.custom_vjp
def narrow(x):
    """The identity, back through which numbers below 1 vanish and above 1e5 overflow."""
    return x


def _back(_, g):
    return (jnp.where(jnp.abs(g) < 1, 0.0, jnp.where(jnp.abs(g) > 1e5, jnp.inf, g)),)


narrow.defvjp(lambda x: (x, None), _back)


@pytest.mark.parametrize(("name", "rows"), [("mean", range(5)), ("highest", [4, 2])])
def test_the_loss_is_scaled_on_the_way_back_alone(name, rows):
    tx = BASELINES[name]()
    batch = (jnp.asarray(X), jnp.asarray(Y))

    def loss(w, batch):
        return narrow(loss_fn(w, batch))

    @jax.jit
    def step(scale=None):
        return tx.update(None, tx.init(W), W, loss_fn=loss, batch=batch, loss_scale=scale)

    assert not step()[0].any()
    found, state = step(jnp.float32(2.0**15))
    np.testing.assert_allclose(found, by_hand(rows), rtol=1e-5)
    np.testing.assert_allclose(state.loss, LOSSES.mean(), rtol=1e-5)
    found, state = step(jnp.float32(2.0**20))
    assert not np.isfinite(found).any()
    np.testing.assert_allclose(state.loss, LOSSES.mean(), rtol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_losses_in_float16_take_a_scale_that_is_no_number_in_float16(name):
    tx, n = BASELINES[name](), 2**10

    def loss(w, x):
        return (x * w).astype(jnp.float16)

    update = partial(tx.update, None, GradientState(jnp.zeros(())), jnp.ones(1))
    found, _ = update(loss_fn=loss, batch=jnp.full(n, 0.5), loss_scale=jnp.float32(2.0**22))
    # 2**22 / 410 is rounded to eleven bits.
    np.testing.assert_allclose(found, [0.5], rtol=2**-11)


@pytest.mark.parametrize(
    # Of the first two rows and the last two, each device's own hardest one.
    ("name", "rows"),
    [("mean", [0, 1, 3, 4]), ("highest", [0, 4])],
)
def test_over_two_devices(name, rows):
    four = [0, 1, 3, 4]
    make = {"mean": mean_gradient, "highest": partial(highest_loss_gradient, 0.5)}[name]
    tx = make(axis_name="data")

    def step(w, batch):
        options = {"loss_fn": with_aux, "batch": batch, "has_aux": True}
        return tx.update(None, tx.init(w), w, **options)

    mesh = sharded.data_mesh(2)
    spread = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data")), out_specs=(P(), P()))
    found, state = jax.jit(spread)(
        jnp.asarray(W), (jnp.asarray(X[four]), jnp.asarray(Y[four]))
    )
    np.testing.assert_allclose(found, by_hand(rows), rtol=1e-5)
    np.testing.assert_allclose(state.loss, LOSSES[four].mean(), rtol=1e-5)
    np.testing.assert_allclose(state.aux["seen"], X[four].mean(axis=0), rtol=1e-6)
