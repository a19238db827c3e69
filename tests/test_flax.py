"""Training loops with Flax: NNX, Linen, and their dropout."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState
from problems import (
    apply_dense,
    assert_close,
    batched,
    cross_entropy,
    mean_loss,
    mlp_batch,
    quick_jit,
    slow_but,
    updater,
)

import ksam_jax
from ksam_jax.trees._keys import drawn_alone

pytestmark = pytest.mark.xdist_group("flax")

BATCHES = [mlp_batch(seed) for seed in range(3)]
METHODS = {
    "sam": functools.partial(ksam_jax.sam, rho=0.1),
    "k_sam": functools.partial(ksam_jax.k_sam, rho=0.1, k=0.4),
    "esam": functools.partial(ksam_jax.esam, rho=0.1, beta=1.0),
}
methods = pytest.mark.parametrize(
    "method",
    slow_but(("k_sam",), METHODS),
)


class NNXNetwork(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x, key=None):
        hidden = nnx.tanh(self.hidden(x))
        if key is not None:
            hidden = self.dropout(hidden, rngs=nnx.Rngs(dropout=key))
        return self.out(hidden)


class LinenNetwork(linen.Module):
    @linen.compact
    def __call__(self, x, is_training=False):
        hidden = linen.tanh(linen.Dense(6, name="hidden")(x))
        hidden = linen.Dropout(0.5, deterministic=not is_training)(hidden)
        return linen.Dense(3, name="out")(hidden)


@functools.cache
def network():
    return NNXNetwork(nnx.Rngs(0))


def nnx_params_and_loss(dropout=False):
    """The parameters as an `nnx.State`, and the loss of one example."""
    graphdef, params, rest = nnx.split(network(), nnx.Param, ...)

    def example_loss(params, example):
        model = nnx.merge(graphdef, params, rest, copy=True)
        logits = model(example["x"], example["key"] if dropout else None)
        return cross_entropy(logits, example["y"])

    return params, example_loss


def plain_params():
    """The same weights as nested dictionaries, which Linen takes as well."""
    _, params, _ = nnx.split(network(), nnx.Param, ...)
    return nnx.to_pure_dict(params)


def linen_params_and_loss(dropout=False):
    """The parameters as nested dictionaries, and the loss of one example."""

    def example_loss(params, example):
        rngs = {"dropout": example["key"]} if dropout else None
        logits = LinenNetwork().apply({"params": params}, example["x"], dropout, rngs=rngs)
        return cross_entropy(logits, example["y"])

    return plain_params(), example_loss


def plain_params_and_loss():
    """The same network written out in JAX, as nested dictionaries."""

    def example_loss(params, example):
        w = {n: {"w": p["kernel"], "b": p["bias"]} for n, p in params.items()}
        hidden = jnp.tanh(apply_dense(w["hidden"], example["x"]))
        return cross_entropy(apply_dense(w["out"], hidden), example["y"])

    return plain_params(), example_loss


def optimizer(method):
    return optax.chain(METHODS[method](), optax.sgd(0.2, momentum=0.9))


def train(params, tx, loss_fn):
    """Three steps with `tx.update`: the loop that every other one must agree with."""
    update = updater(tx, loss_fn)

    @quick_jit
    def step(params, opt_state, batch):
        updates, opt_state = update(opt_state, params, batch)
        return optax.apply_updates(params, updates), opt_state

    opt_state = tx.init(params)
    for batch in BATCHES:
        params, opt_state = step(params, opt_state, batch)
    return params, opt_state


@functools.cache
def expected_params(method):
    params, example_loss = plain_params_and_loss()
    return train(params, optimizer(method), batched(example_loss))[0]


@methods
def test_linen_trains_as_the_network_written_out(method):
    params, example_loss = linen_params_and_loss()
    params, _ = train(params, optimizer(method), batched(example_loss))
    assert_close(params, expected_params(method))


@methods
def test_nnx_state_as_params_trains_as_the_network_written_out(method):
    params, example_loss = nnx_params_and_loss()
    params, opt_state = train(params, optimizer(method), batched(example_loss))
    assert_close(nnx.to_pure_dict(params), expected_params(method))
    assert float(ksam_jax.get_info(opt_state).perturbation_norm) > 0


@pytest.mark.parametrize(
    ("method", "given"),
    [("sam", None), ("sam", "gradient"), ("k_sam", None), ("k_sam", "empty")],
)
def test_nnx_optimizer_forwards_the_arguments(method, given):
    model = nnx.clone(network())
    tx = nnx.Optimizer(model, optimizer(method), wrt=nnx.Param)

    @nnx.jit
    def step(model, tx, batch):
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def example_loss(params, example):
            model = nnx.merge(graphdef, params, rest, copy=True)
            return cross_entropy(model(example["x"]), example["y"])

        loss_fn = batched(example_loss)
        gradients = {
            None: lambda: None,
            "empty": lambda: nnx.State({}),
            "gradient": lambda: jax.grad(mean_loss(loss_fn))(params, batch),
        }
        tx.update(model, gradients[given](), loss_fn=loss_fn, batch=batch)

    for batch in BATCHES:
        step(model, tx, batch)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert_close(params, expected_params(method), 5e-6, 5e-6)
    info = ksam_jax.get_info(tx.opt_state)
    assert float(info.perturbation_norm[...]) > 0
    assert int(tx.step[...]) == 3


def test_nnx_optimizer_has_no_place_for_aux_so_tx_update_is_the_way():
    model = nnx.clone(network())
    tx = nnx.Optimizer(model, optimizer("k_sam"), wrt=nnx.Param)
    params, example_loss = nnx_params_and_loss()

    def loss_fn(params, batch):
        return batched(example_loss)(params, batch), {"seen": jnp.ones(())}

    @nnx.jit
    def step(model, tx, batch):
        tx.update(model, None, loss_fn=loss_fn, batch=batch, has_aux=True)

    with pytest.raises(ValueError, match="NoneType"):
        step(model, tx, BATCHES[0])
    update = updater(tx.tx, loss_fn, has_aux=True)
    _, opt_state = quick_jit(update)(tx.tx.init(params), params, BATCHES[0])
    aux, _ = ksam_jax.take_aux(opt_state)
    assert float(aux["seen"]) == 1.0


class SharpnessAwareTrainState(TrainState):
    """A `TrainState` whose step forwards what a sharpness-aware method needs."""

    def apply_gradients(self, *, grads=None, loss_fn=None, batch=None, **kwargs):
        update: Any = self.tx.update
        updates, opt_state = update(
            grads, self.opt_state, self.params, loss_fn=loss_fn, batch=batch
        )
        return self.replace(
            step=self.step + 1,
            params=optax.apply_updates(self.params, updates),
            opt_state=opt_state,
            **kwargs,
        )


@methods
def test_a_train_state_that_forwards_its_arguments_trains(method):
    params, example_loss = linen_params_and_loss()
    state = SharpnessAwareTrainState.create(
        apply_fn=LinenNetwork().apply, params=params, tx=optimizer(method)
    )

    @quick_jit
    def step(state, batch):
        return state.apply_gradients(loss_fn=batched(example_loss), batch=batch)

    for batch in BATCHES:
        state = step(state, batch)
    assert_close(state.params, expected_params(method))
    assert int(state.step) == 3


def test_a_train_state_that_forwards_nothing_is_told_what_is_missing():
    params, _ = linen_params_and_loss()
    state = TrainState.create(apply_fn=None, params=params, tx=optimizer("sam"))
    with pytest.raises(ValueError, match=r"loss_fn is missing(.|\n)*tx\.update\(None"):
        state.apply_gradients(grads=params)


# Dropout: each example's key travels with it, through selection and both passes

DROPOUT = {"nnx": nnx_params_and_loss, "linen": linen_params_and_loss}
dropouts = pytest.mark.parametrize("library", DROPOUT)


def with_other_keys(batch):
    return batch | {"key": jax.random.split(jax.random.key(99), 10)}


@dropouts
def test_dropout_by_example_keys_is_the_same_in_both_passes(library):
    params, example_loss = DROPOUT[library](dropout=True)
    losses = quick_jit(batched(example_loss))
    # The keys matter, so a second pass with other ones would give another loss.
    other = losses(params, with_other_keys(BATCHES[0]))
    assert np.max(np.abs(losses(params, BATCHES[0]) - other)) > 0.05
    for make in (ksam_jax.sam, ksam_jax.k_sam, ksam_jax.esam):
        tx = make(rho=0.0)
        update = quick_jit(updater(tx, batched(example_loss)))
        _, state = update(tx.init(params), params, BATCHES[0])
        info = ksam_jax.get_info(state)
        assert float(info.perturbation_norm) == 0.0
        assert abs(float(info.sharpness)) < 1e-7


@dropouts
@pytest.mark.parametrize("keep", ["nothing", "all"])
def test_chosen_examples_keep_their_own_dropout_keys(library, keep):
    params, example_loss = DROPOUT[library](dropout=True)
    batch = BATCHES[1]
    tx = ksam_jax.k_sam(rho=0.0, k=3, mean_over="chosen")
    loss_fn = ksam_jax.per_example(example_loss, keep=keep)
    updates, _ = quick_jit(updater(tx, loss_fn))(tx.init(params), params, batch)

    # With keys that the step has remade, if they are of a kind that draws together.
    batch = drawn_alone(batch)
    losses = quick_jit(batched(example_loss))(params, batch)
    hardest = np.argsort(-np.asarray(losses))[:3]
    alone = [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in hardest]
    gradient = quick_jit(jax.grad(example_loss))
    gradients = [gradient(params, example) for example in alone]
    expected = jax.tree.map(lambda *g: sum(g) / 3, *gradients)
    assert_close(updates, expected)
