"""Base optimizers and schedules against loops in NumPy."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.configs.experiment import Experiment
from experiments.models import pure
from experiments.models.text import TextTransformer
from experiments.training import optimizers
from experiments.training.harness import updates

SGD = Experiment(
    dataset="digits",
    model="mlp",
    method="sgd",
    epochs=2,
    learning_rate=0.4,
    weight_decay=0.25,
    batch_size=2,
)
ADAMW = replace(SGD, method="adamw", optimizer="adamw", decay_all=False)
EXAMPLES = 10  # 10 steps
PARAMS = {
    "embedding": {"embedding": np.array([[1.5, -2.0], [0.5, 3.0]])},
    "layer": {"kernel": np.array([[0.5], [-1.25]]), "bias": np.array([2.0])},
    "norm": {"scale": np.array([1.0, -3.0]), "bias": np.array([0.75, 1.0])},
}
DECAYED = {"embedding", "kernel"}


# ---------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("falls", ["cosine", "linear"])
@pytest.mark.parametrize(("warmup", "rising"), [(0.0, 0), (0.1, 1), (0.34, 3), (0.8, 8)])
def test_rates_by_hand(falls, warmup, rising):
    rate = optimizers.schedule(0.4, 10, falls, warmup)
    expected = []
    for step in range(11):
        if step < rising:
            # One more than there are, since no step is lost to 0.
            expected.append(0.4 * (step + 1) / (rising + 1))
            continue
        gone = (step - rising) / (10 - rising)
        left = {"linear": 1 - gone, "cosine": (1 + math.cos(math.pi * gone)) / 2}
        expected.append(0.4 * left[falls])
    found = [float(np.asarray(rate(jnp.int32(step)))) for step in range(11)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    assert min(found[:10]) > 0
    assert found[rising] == pytest.approx(0.4)
    # Behind the last step, where nothing is trained any more.
    assert found[10] == pytest.approx(0, abs=1e-8)


def test_a_rate_is_the_same_in_a_program():
    rate: Any = optimizers.schedule(0.4, 10, "linear", 0.34)
    steps = jnp.arange(10)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(rate))(steps), [*map(rate, steps)], rtol=1e-6
    )


@pytest.mark.parametrize("falls", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_short_training_that_only_rises_has_rates(falls, steps):
    # 0.9 of two steps are two: the last one is at the height.
    rate = optimizers.schedule(0.4, steps, falls, 0.9)
    found = [float(np.asarray(rate(step))) for step in range(steps)]
    np.testing.assert_allclose(found, [0.2, 0.4][2 - steps :], rtol=1e-6)


def test_steps_are_counted_in_whole_batches():
    rate = updates.rate(replace(SGD, batch_size=3), 11)  # 2 epochs of 3 steps
    np.testing.assert_allclose(float(np.asarray(rate(3))), 0.2, rtol=1e-6)
    np.testing.assert_allclose(float(np.asarray(rate(6))), 0, atol=1e-8)


# --------------------------------------------------------------------------- optimizers


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), PARAMS)


def trained(experiment, steps=3):
    """The weights after some steps with those gradients."""
    base = updates.optimizer(experiment, EXAMPLES, 0).base
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
    state = base.init(params)

    @jax.jit
    def step(params, state, gradient):
        update, state = base.update(gradient, state, params)
        return jax.tree.map(jnp.add, params, update), state

    for number in range(steps):
        gradient = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float32), gradients(number)
        )
        params, state = step(params, state, gradient)
    return params


def cosine(step):
    return 0.4 * (1 + math.cos(math.pi * step / 10)) / 2


def by_name(tree):
    """(name of the layer, name) -> leaf."""
    return {(a, b): leaf for a, inner in tree.items() for b, leaf in inner.items()}


def adamw(experiment, steps=3):
    """Loshchilov and Hutter, algorithm 2, with a mask."""
    found = dict(by_name(PARAMS))
    means, squares = (dict.fromkeys(found, 0.0) for _ in range(2))
    for number in range(steps):
        for place, g in by_name(gradients(number)).items():
            means[place] = 0.9 * means[place] + 0.1 * g
            squares[place] = 0.999 * squares[place] + 0.001 * g**2
            mean = means[place] / (1 - 0.9 ** (number + 1))
            square = squares[place] / (1 - 0.999 ** (number + 1))
            decay = experiment.weight_decay * (experiment.decay_all or place[1] in DECAYED)
            step = mean / (np.sqrt(square) + 1e-8) + decay * found[place]
            found[place] = found[place] - cosine(number) * step
    return found


def sgd(experiment, steps=3):
    """Weight decay is added to the gradient, and so goes through the momentum."""
    found = dict(by_name(PARAMS))
    trace = dict.fromkeys(found, 0.0)
    for number in range(steps):
        g = by_name(gradients(number))
        length = math.sqrt(sum((leaf**2).sum() for leaf in g.values()))
        shorter = min(1, experiment.clip / length) if experiment.clip else 1
        for place in found:
            decay = experiment.weight_decay * (experiment.decay_all or place[1] in DECAYED)
            step = shorter * g[place] + decay * found[place]
            trace[place] = experiment.momentum * trace[place] + step
            found[place] = found[place] - cosine(number) * trace[place]
    return found


def assert_close(found, expected):
    for place, leaf in by_name(found).items():
        np.testing.assert_allclose(
            leaf, expected[place], rtol=2e-5, atol=2e-5, err_msg=str(place)
        )


@pytest.mark.parametrize("decay_all", [False, True])
def test_adamw_is_the_papers(decay_all):
    experiment = replace(ADAMW, decay_all=decay_all)
    assert_close(trained(experiment), adamw(experiment))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"decay_all": False},
        {"momentum": 0.0},
        {"clip": 0.5},  # far below the gradients' lengths
        {"clip": 1e6},
    ],
    ids=str,
)
def test_sgd_decays_within_the_momentum_and_clips_before(changed):
    experiment = replace(SGD, **changed)
    assert_close(trained(experiment), sgd(experiment))


def test_all_gradients_are_clipped_together():
    experiment = replace(SGD, momentum=0.0, weight_decay=0.0, clip=0.5)
    moved = jax.tree.map(lambda a, b: a - b, trained(experiment, 1), PARAMS)
    squares = sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(moved))
    # The first step's rate times the longest gradient.
    assert math.sqrt(squares) == pytest.approx(0.4 * 0.5, rel=1e-5)


# ------------------------------------------------------------------------------ the mask


def test_neither_biases_nor_scales_of_a_model_are_decayed():
    def build(rngs):
        return TextTransformer(5, 7, 2, width=4, depth=1, heads=1, rngs=rngs)

    params: Any = jax.eval_shape(pure(build).init, jax.random.key(0)).params
    mask = nnx.to_pure_dict(optimizers.matrices(params))
    found = {}
    for path, decayed in jax.tree_util.tree_leaves_with_path(mask):
        found["/".join(str(key.key) for key in path)] = decayed
    assert found["embedding/embedding"]
    assert found["segments/embedding"]
    assert found["encoder/positions"]
    assert found["head/kernel"]
    assert found["encoder/blocks/0/attention/query/kernel"]
    left = {name for name, decayed in found.items() if not decayed}
    assert left == {
        "head/bias",
        "encoder/norm/bias",
        "encoder/norm/scale",
        *(f"encoder/blocks/0/norm{n}/{kind}" for n in (1, 2) for kind in ("bias", "scale")),
        *(f"encoder/blocks/0/{name}/bias" for name in ("up", "down")),
        *(
            f"encoder/blocks/0/attention/{name}/bias"
            for name in ("query", "key", "value", "out")
        ),
    }
