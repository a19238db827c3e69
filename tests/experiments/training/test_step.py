"""A step of a model with BatchNorm against gradients of a loss written out."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import ksam_jax
from experiments.data.examples import Batch
from experiments.methods.baselines import mean_gradient
from experiments.models.pure import pure
from experiments.training import step
from experiments.training.step import Optimizer

# What is compiled once serves several tests.
pytestmark = pytest.mark.xdist_group("step")

N, RATE, DECAY, RHO = 6, 0.3, 0.05, 0.2
# Flax's: what is kept of the running statistics, and what is added to the variance.
KEPT, EPSILON = 0.99, 1e-5


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(6, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=KEPT, epsilon=EPSILON, rngs=rngs)
        self.last = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, images):
        x = self.first(images.reshape(len(images), -1))
        return self.last(jax.nn.relu(self.norm(x)))


MODEL = pure(Network)
METHODS = {"sgd": mean_gradient(), "sam": ksam_jax.sam(RHO)}


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    images = rng.normal(1, 2, (2, N, 2, 3, 1)).astype(np.float32)
    labels = rng.integers(3, size=(2, N)).astype(np.int32)
    return [Batch(*each, np.arange(N)) for each in zip(images, labels, strict=True)]


def hidden(p, batch):
    return batch.inputs.reshape(N, -1) @ p["first"]["kernel"] + p["first"]["bias"]


def logits(p, batch, mean, var):
    x = (hidden(p, batch) - mean) / jnp.sqrt(var + EPSILON)
    x = jnp.maximum(x * p["norm"]["scale"] + p["norm"]["bias"], 0)
    return x @ p["last"]["kernel"] + p["last"]["bias"]


def losses(p, batch):
    """With this batch's own mean and variance."""
    x = hidden(p, batch)
    found = jax.nn.log_softmax(logits(p, batch, x.mean(axis=0), x.var(axis=0)))
    return -found[jnp.arange(N), batch.labels]


@jax.jit
def loss_and_gradient(p, batch):
    return jax.value_and_grad(lambda p: losses(p, batch).mean())(p)


def by_hand(p, batch, statistics, radius):
    """The next weights and statistics, and the loss."""
    mean, var = statistics
    loss, found = loss_and_gradient(p, batch)
    length = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(found)))
    if radius:
        higher = jax.tree.map(lambda p, g: p + radius * g / length, p, found)
        _, found = loss_and_gradient(higher, batch)
    # At the weights, not at the perturbed ones.
    x = np.asarray(hidden(p, batch))
    moved = (
        KEPT * mean + (1 - KEPT) * x.mean(axis=0),
        KEPT * var + (1 - KEPT) * x.var(axis=0),
    )
    return jax.tree.map(lambda p, g: p - RATE * (g + DECAY * p), p, found), moved, loss


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_with_batch_normalization(method, batches):
    base = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE))
    optimizer = Optimizer(METHODS[method], base)
    state = step.start(optimizer, MODEL.init(jax.random.key(3)))
    params = nnx.to_pure_dict(state.params)
    statistics = (np.zeros(5), np.ones(5))
    taken = jax.jit(partial(step.train_step, optimizer, MODEL))
    for batch in batches:
        state, note = taken(state, batch)
        radius = RHO if method == "sam" else 0
        params, statistics, loss = by_hand(params, batch, statistics, radius)
        np.testing.assert_allclose(note.loss, loss, rtol=1e-5)
        _assert_close(nnx.to_pure_dict(state.params), params)
        rest = nnx.to_pure_dict(state.rest)["norm"]
        _assert_close((rest["mean"], rest["var"]), statistics)
    # In use the running statistics count, not those of the batch, and stay.
    found = MODEL.logits(state.params, jnp.asarray(batches[0].inputs), state.rest)
    _assert_close(found, logits(params, batches[0], *statistics))


def test_what_a_method_does_not_know_is_infinite(batches):
    optimizer = Optimizer(mean_gradient(), optax.sgd(RATE))
    state = step.start(optimizer, MODEL.init(jax.random.key(3)))
    after, note = jax.jit(partial(step.train_step, optimizer, MODEL))(state, batches[0])
    on_host = step.stacked([note])._asdict()
    known = {name for name, value in on_host.items() if np.isfinite(value[0])}
    assert known == {"loss", "gradient_norm", "skipped"}
    assert note.skipped == 0
    # What the statistics were is not carried twice.
    assert after.gradient.aux is None
    assert jax.tree.structure(after) == jax.tree.structure(state)


def _scaled(method, **options):
    return Optimizer(
        ksam_jax.dynamic_loss_scale(METHODS[method], **options),
        optax.chain(optax.add_decayed_weights(DECAY), optax.adam(RATE)),
    )


class Skipping(NamedTuple):
    """A good step, three skipped ones, and a good one again.

    `states` are those after each, and `plain` what a step without a scale gives at first.
    """

    take: Any
    states: list[Any]
    notes: list[Any]
    plain: tuple[Any, Any]


@pytest.fixture(scope="module", params=METHODS)
def skipping(request, batches):
    optimizer = _scaled(request.param, initial=16.0, minimum=8.0, growth_interval=1)
    plain = optimizer._replace(gradient=METHODS[request.param])
    take, unscaled = (
        jax.jit(partial(step.train_step, one, MODEL)) for one in (optimizer, plain)
    )
    expected = unscaled(step.start(plain, MODEL.init(jax.random.key(3))), batches[0])
    states, notes = [step.start(optimizer, MODEL.init(jax.random.key(3)))], []
    bad = batches[1]._replace(inputs=batches[1].inputs + np.float32(np.inf))
    for batch in (batches[0], bad, bad, bad, batches[1]):
        state, note = take(states[-1], batch)
        states.append(state)
        notes.append(note)
    return Skipping(take, states[1:], notes, expected)


def test_a_scaled_step_is_a_plain_one(skipping):
    state, note = skipping.states[0], skipping.notes[0]
    expected, told = skipping.plain
    assert float(state.gradient.scale) == 32
    _assert_close(state._replace(gradient=()), expected._replace(gradient=()))
    _assert_close(note, told)


def test_a_skipped_step_leaves_weights_statistics_and_optimizer_alone(skipping, batches):
    good, *skipped, again = skipping.states
    for state, note in zip(skipped, skipping.notes[1:4], strict=True):
        assert jax.tree.structure(state) == jax.tree.structure(good)
        _assert_same(state._replace(gradient=()), good._replace(gradient=()))
        _assert_same(state.gradient.inner, good.gradient.inner)
        assert note.skipped == 1
    other, _ = skipping.take(good, batches[1])
    _assert_same(again._replace(gradient=()), other._replace(gradient=()))


def test_the_scale_falls_to_its_minimum_and_only_there_a_failure_shows(skipping):
    assert [float(state.gradient.scale) for state in skipping.states[1:4]] == [16, 8, 8]
    # The last of them had the smallest scale already.
    finite = [bool(np.isfinite(note.gradient_norm)) for note in skipping.notes[1:4]]
    assert finite == [True, True, False]
    notes = step.stacked(skipping.notes)
    assert step.first_failure(notes) == 3
    assert step.first_failure(jax.tree.map(lambda x: x[:3], notes)) is None


def test_means_are_over_the_steps_that_were_taken(skipping):
    notes = step.stacked(skipping.notes)
    taken = step.stacked([skipping.notes[0], skipping.notes[-1]])
    found = step.mean(notes)
    assert found.skipped == np.float32(0.6)
    for name in ("loss", "gradient_norm", "cosine"):
        ours, two = getattr(found, name), getattr(taken, name)
        np.testing.assert_allclose(ours, np.mean(two), rtol=1e-6)
    none = step.mean(jax.tree.map(lambda x: x[1:3], notes))
    assert none.skipped == 1
    assert np.isinf(list(none._replace(skipped=np.inf))).all()


def _assert_same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def _assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
