"""`ksam_jax.nnx`: whole steps of NNX models, against steps written out by hand."""

import functools
from typing import Any

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import BATCHES, MOMENTUM, RATE, N, Net
from flax import nnx
from problems import assert_close, cross_entropy, slow_but

import ksam_jax
import ksam_jax.nnx

pytestmark = pytest.mark.xdist_group("nnx")

METHODS = {
    "sam": functools.partial(ksam_jax.sam, rho=0.1),
    "k_sam": functools.partial(ksam_jax.k_sam, rho=0.1, k=4),
    "k_momentum_sam": functools.partial(ksam_jax.k_momentum_sam, rho=0.1, k=4),
    "esam": functools.partial(ksam_jax.esam, rho=0.1, beta=1.0, gamma=4),
}
methods = pytest.mark.parametrize("method", slow_but(("k_sam", "k_momentum_sam"), METHODS))


class Network(nnx.Module):
    """What `by_hand` has written out."""

    norm: Any
    dropout: Any

    def __init__(self, rngs, has_norm=False, has_dropout=False):
        self.hidden = nnx.Linear(3, 6, rngs=rngs)
        norm = nnx.BatchNorm(6, momentum=by_hand.NORM_MOMENTUM, rngs=rngs)
        self.norm = norm if has_norm else None
        self.dropout = nnx.Dropout(0.5, rngs=rngs) if has_dropout else None
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = self.hidden(x)
        x = nnx.tanh(x if self.norm is None else self.norm(x))
        return self.out(x if self.dropout is None else self.dropout(x))


def losses_of(model, batch):
    return jax.vmap(cross_entropy)(model(batch["x"]), batch["y"])


LOSS = ksam_jax.nnx.loss(losses_of)


def chain(method):
    return optax.chain(METHODS[method](), optax.sgd(RATE, momentum=MOMENTUM))


def optimizer_of(model, method="k_sam", wrt=nnx.Param):
    return nnx.Optimizer(model, chain(method), wrt=wrt)


def trained(model, optimizer, loss=LOSS, batches=BATCHES):
    @nnx.jit
    def train_step(model, optimizer, batch):
        return loss.update(model, optimizer, batch)

    return [train_step(model, optimizer, batch) for batch in batches]


def weights_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def net_of(model):
    """The weights and statistics as they are now, for the steps by hand."""
    stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)).get("norm")
    return jax.tree.map(jnp.copy, Net(weights_of(model), stats))


def masks_of(model, steps=3):
    """What each example keeps, by its own key of those that the stream would give next."""
    stream = model.dropout.rngs
    key, first = stream.key[...], int(stream.count[...])

    def mask(key):
        return jax.random.bernoulli(jax.random.fold_in(key, 0), 0.5, (1, 6))[0]

    keys = [jax.random.fold_in(key, first + t) for t in range(steps)]
    return [jax.vmap(mask)(jax.random.split(key, N)) for key in keys]


def assert_trained_as(model, expected, tol=3e-6):
    assert_close(weights_of(model), expected.weights, tol, tol)
    if expected.stats is not None:
        stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))["norm"]
        assert_close(stats, expected.stats, 1e-6, 1e-6)


# The whole step, of every kind of model.


@methods
def test_a_model_of_dense_layers(method):
    model = Network(nnx.Rngs(0))
    expected = by_hand.train(method, net_of(model))
    optimizer = optimizer_of(model, method)
    infos = trained(model, optimizer)
    assert_trained_as(model, expected)
    assert int(optimizer.step[...]) == 3
    known = ksam_jax.get_info(nnx.as_pure(optimizer.opt_state))
    assert_close(infos[-1], known, 0, 0)


@methods
def test_batchnorm_has_the_statistics_of_the_clean_pass(method):
    model = Network(nnx.Rngs(1), has_norm=True)
    expected = by_hand.train(method, net_of(model))
    trained(model, optimizer_of(model, method))
    assert_trained_as(model, expected)
    assert float(jnp.abs(model.norm.mean[...]).max()) > 0.1  # It was 0.


@methods
def test_dropout_has_one_mask_per_example_and_step(method):
    model = Network(nnx.Rngs(2), has_dropout=True)
    masks = masks_of(model)
    expected = by_hand.train(method, net_of(model), masks)
    trained(model, optimizer_of(model, method))
    assert_trained_as(model, expected)
    assert int(model.dropout.rngs.count[...]) == 3
    assert not (masks[0] == masks[1]).all()
    assert len({tuple(row) for row in np.asarray(masks[0])}) > 5


@methods
def test_batchnorm_and_dropout_in_one_model(method):
    model = Network(nnx.Rngs(3), has_norm=True, has_dropout=True)
    expected = by_hand.train(method, net_of(model), masks_of(model))
    trained(model, optimizer_of(model, method))
    assert_trained_as(model, expected)
    assert int(model.dropout.rngs.count[...]) == 3
    assert model.norm.axis_name is None


@pytest.mark.parametrize(
    ("has_norm", "has_dropout"), [(False, False), (True, False), (True, True)]
)
def test_without_a_climb_both_passes_give_the_same_losses(has_norm, has_dropout):
    model = Network(nnx.Rngs(4), has_norm, has_dropout)
    tx = optax.chain(ksam_jax.sam(rho=0.0), optax.sgd(RATE))
    for info in trained(model, nnx.Optimizer(model, tx, wrt=nnx.Param)):
        assert abs(float(info.sharpness)) < 1e-7


def test_a_model_in_evaluation_mode_writes_and_draws_nothing():
    model = Network(nnx.Rngs(3), has_norm=True, has_dropout=True)
    model.eval()
    rest = jax.tree.map(jnp.copy, nnx.state(model, nnx.Not(nnx.Param)))
    first = net_of(model)
    trained(model, optimizer_of(model))
    assert_close(nnx.state(model, nnx.Not(nnx.Param)), rest, 0, 0)
    assert not np.allclose(first.weights["out"]["bias"], weights_of(model)["out"]["bias"])


# What is trained.


class LoRANetwork(nnx.Module):
    def __init__(self, rngs):
        self.base = nnx.Linear(3, 6, rngs=rngs)
        self.lora = nnx.LoRA(3, 2, 6, base_module=self.base, rngs=rngs)
        self.lora.lora_b[...] = 0.3 * jax.random.normal(rngs.params(), (2, 6))
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.lora(x)))


def lora_losses(ab, frozen, batch):
    base, out = frozen["base"], frozen["out"]
    kernel = base["kernel"] + ab["lora_a"] @ ab["lora_b"]
    hidden = jnp.tanh(batch["x"] @ kernel + base["bias"])
    return jax.vmap(cross_entropy)(hidden @ out["kernel"] + out["bias"], batch["y"])


LORA_ONLY = {
    "a type": nnx.LoRAParam,
    "a function": lambda path, value: "lora_a" in path or "lora_b" in path,
    "any of": nnx.Any(nnx.PathContains("lora_a"), nnx.PathContains("lora_b")),
}


@pytest.mark.parametrize("wrt", LORA_ONLY.values(), ids=LORA_ONLY)
def test_only_what_wrt_says_is_perturbed_and_trained(wrt):
    model = LoRANetwork(nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, weights_of(model))
    ab = {name: before["lora"][name] for name in ("lora_a", "lora_b")}
    gradient = jax.grad(lambda ab: lora_losses(ab, before, BATCHES[0]).mean())
    descent = gradient(by_hand.moved(ab, gradient(ab), 0.1))
    expected = jax.tree.map(lambda w, u: w - RATE * u, ab, descent)
    trained(model, optimizer_of(model, "sam", wrt), batches=BATCHES[:1])
    after = weights_of(model)
    assert_close({name: after["lora"][name] for name in ab}, expected)
    for name in ("base", "out"):
        assert_close(after[name], before[name], 0, 0)


class Tied(nnx.Module):
    """One matrix, there and back."""

    def __init__(self, rngs):
        self.first = nnx.Linear(3, 3, rngs=rngs)
        self.second = nnx.Linear(3, 3, rngs=rngs)
        self.second.kernel = self.first.kernel

    def __call__(self, x):
        return self.second(nnx.tanh(self.first(x)))


def test_tied_weights_are_one_parameter():
    model = Tied(nnx.Rngs(0))
    w = jax.tree.map(jnp.copy, weights_of(model))

    def losses(w, batch):
        kernel = w["first"]["kernel"]
        hidden = jnp.tanh(batch["x"] @ kernel + w["first"]["bias"])
        logits = hidden @ kernel + w["second"]["bias"]
        return jax.vmap(cross_entropy)(logits, batch["y"]).mean()

    gradient = jax.grad(losses)
    descent = gradient(by_hand.moved(w, gradient(w, BATCHES[0]), 0.1), BATCHES[0])
    expected = jax.tree.map(lambda w, u: w - RATE * u, w, descent)
    trained(model, optimizer_of(model, "sam"), batches=BATCHES[:1])
    assert_close(weights_of(model), expected)
    assert model.second.kernel is model.first.kernel


def test_weights_in_bfloat16_stay_so():
    model = Network(nnx.Rngs(0))
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.state(model)))
    start = jax.tree.map(lambda x: x.astype(jnp.float32), net_of(model))
    tx = optax.chain(
        ksam_jax.k_sam(rho=0.1, k=4, perturbed_dtype=jnp.float32),
        optax.sgd(RATE, momentum=MOMENTUM),
    )
    with jax.numpy_dtype_promotion("standard"):  # Flax promotes by itself.
        trained(model, nnx.Optimizer(model, tx, wrt=nnx.Param))
    found = weights_of(model)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    expected = by_hand.train("k_sam", start).weights
    far = jax.tree.map(
        lambda a, b: jnp.abs(a.astype(jnp.float32) - b).max(), found, expected
    )
    assert max(map(float, jax.tree.leaves(far))) < 0.03
