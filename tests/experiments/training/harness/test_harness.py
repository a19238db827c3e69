"""Steps, devices and judging against calculations of their own."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import rows
from experiments.configs.experiment import Experiment
from experiments.data.normalization import Normalization
from experiments.methods import METHODS
from experiments.processes import sharded
from experiments.shell.cli import UsageError
from experiments.training import step
from experiments.training.harness import folder, job, judging, programs
from experiments.training.harness.programs import Kind
from experiments.training.step import Note

pytestmark = pytest.mark.xdist_group("harness")

SGD = dataclasses.replace(
    rows.ROWS["digits_sgd"].experiment,
    epochs=2,
    learning_rate=0.1,
    weight_decay=0.01,
)
SAM = dataclasses.replace(SGD, method="sam", rho=0.2)
TAKEN = 4


def prepared(experiment):
    return job.prepare("digits", experiment, None, None)


def trained(mine, steps=TAKEN):
    """The state and notes of some steps."""
    state, notes = mine.start(), []
    seed = jnp.int32(mine.experiment.seed)
    size = mine.experiment.batch_size
    batches = mine.batches()
    with jax.set_mesh(mine.mesh):
        for _ in range(steps):
            batch = sharded.global_batch(mine.mesh, size, next(batches))
            state, note = mine.programs.step(state, batch, seed)
            notes.append(note)
    return state, step.stacked(notes)


def layers(params):
    """(kernel, bias) of each layer in float64."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = {
        jax.tree_util.keystr(path): np.asarray(leaf, np.float64) for path, leaf in leaves
    }
    kernels = [leaf for name, leaf in sorted(named.items()) if "kernel" in name]
    biases = [leaf for name, leaf in sorted(named.items()) if "bias" in name]
    return list(zip(kernels, biases, strict=True))


def pixels(images):
    """The digits' go to 16."""
    return (images / 16.0).reshape(len(images), -1)


def forward(network, x):
    inner = [x]
    for kernel, bias in network[:-1]:
        inner.append(np.maximum(inner[-1] @ kernel + bias, 0))
    kernel, bias = network[-1]
    return inner, inner[-1] @ kernel + bias


def cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


def gradient(network, x, labels):
    """Of the mean cross-entropy, by the chain rule."""
    inner, logits = forward(network, x)
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = raised / raised.sum(axis=1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    found = []
    for (kernel, _), values in zip(network[::-1], inner[::-1], strict=True):
        found.append((values.T @ error, error.sum(axis=0)))
        error = error @ kernel.T * (values > 0)
    return found[::-1]


def moved(network, direction, length):
    return [
        tuple(p + length * d for p, d in zip(ps, ds, strict=True))
        for ps, ds in zip(network, direction, strict=True)
    ]


def norm(network):
    return math.sqrt(sum((leaf**2).sum() for layer in network for leaf in layer))


# ------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    "experiment",
    [pytest.param(SGD, marks=pytest.mark.slow), SAM],
    ids=["sgd", "sam"],
)
def test_steps_on_eight_devices_are_those_worked_out_in_numpy(experiment):
    mine = prepared(experiment)
    assert (mine.mesh.size, mine.steps) == (8, 6)
    network = layers(mine.start().params)
    trace = [tuple(np.zeros_like(leaf) for leaf in layer) for layer in network]
    losses, batches = [], mine.batches()
    for number in range(TAKEN):
        batch = next(batches)
        x, labels = pixels(batch.inputs), batch.labels
        losses.append(cross_entropy(forward(network, x)[1], labels).mean())
        found = gradient(network, x, labels)
        if experiment.rho:
            higher = moved(network, found, experiment.rho / norm(found))
            found = gradient(higher, x, labels)
        # Weight decay is added behind the method, and goes through the momentum.
        found = moved(found, network, experiment.weight_decay)
        trace = moved(found, trace, experiment.momentum)
        rate = experiment.learning_rate * (1 + math.cos(math.pi * number / 6)) / 2
        network = moved(network, trace, -rate)
    state, notes = trained(mine)
    for ours, theirs in zip(layers(state.params), network, strict=True):
        for leaf, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(notes.loss, losses, rtol=1e-4)


@pytest.mark.parametrize(
    "experiment",
    [pytest.param(SGD, marks=pytest.mark.slow), SAM],
    ids=["sgd", "sam"],
)
def test_one_device_and_eight_find_the_same_weights(experiment, monkeypatch):
    many, _ = trained(prepared(experiment))
    one_mesh = sharded.data_mesh(1)
    monkeypatch.setattr(sharded, "data_mesh", lambda: one_mesh)
    mine = prepared(experiment)
    assert mine.mesh.size == 1
    one, _ = trained(mine)
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_seed_decides_everything():
    mine = prepared(SGD)
    other = job.seeded(mine, 5)
    assert other.programs is mine.programs
    (first, _), (again, _), (different, _) = map(trained, (mine, mine, other))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [layers(state.params)[0][0] for state in (mine.start(), other.start())]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1
    assert not np.array_equal(next(mine.batches()).index, next(other.batches()).index)
    assert not np.array_equal(layers(first.params)[0][0], layers(different.params)[0][0])


def test_the_state_is_given_away():
    mine = prepared(SGD)
    state = mine.start()
    batch = sharded.global_batch(mine.mesh, 128, next(mine.batches()))
    mine.programs.step(state, batch, jnp.int32(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


# ----------------------------------------------------------------------------- judging


@pytest.fixture(scope="module")
def judged():
    mine = prepared(SGD)
    return mine, trained(mine)[0]


def test_accuracies_and_losses_are_those_of_numpy(judged):
    mine, state = judged
    # Neither 897 nor 516 is a multiple of 8: rows that only fill up would be noticed.
    found = judging.evaluate(mine, state)
    for purpose, size in (("train", 384), ("validation", 516), ("test", 897)):
        dataset = mine.inputs.judged[purpose]
        examples = dataset.fetch(np.arange(size))
        assert dataset.size == size
        _, logits = forward(layers(state.params), pixels(examples.inputs))
        right = (logits.argmax(axis=1) == examples.labels).mean()
        assert found[f"{purpose}_accuracy"] == right
        loss = cross_entropy(logits, examples.labels).mean()
        assert found[f"{purpose}_loss"] == pytest.approx(loss, rel=1e-5)


def test_sharpness_is_the_rise_along_the_gradient(judged):
    mine, state = judged
    examples = mine.inputs.judged["train"].fetch(np.arange(384))
    x, labels = pixels(examples.inputs), examples.labels
    network = layers(state.params)
    uphill = gradient(network, x, labels)
    higher = moved(network, uphill, 0.05 / norm(uphill))
    low, high = (cross_entropy(forward(n, x)[1], labels).mean() for n in (network, higher))
    assert high > low
    assert judging.sharpness(mine, state) == pytest.approx(high - low, rel=1e-3)


def test_judging_leaves_the_state(judged):
    mine, state = judged
    before = jax.tree.map(np.array, state.params)
    judging.evaluate(mine, state)
    jax.tree.map(np.testing.assert_array_equal, before, state.params)


def test_the_best_is_never_chosen_on_test(judged):
    mine, _ = judged
    assert judging.judged_by(mine) == "validation accuracy"
    score = partial(judging.score, metric="accuracy")
    record = {"validation_accuracy": 0.5, "train_loss": 2.0, "test_accuracy": 0.9}
    assert score(record) == 0.5
    without = {**record, "validation_accuracy": None}
    assert score(without) == score(without | {"test_accuracy": 0.1}) == -2
    assert score(without | {"train_loss": None}) == -math.inf
    assert score(without | {"train_loss": 0.1}) > score(without)
    kept = {k: v for k, v in mine.inputs.judged.items() if k != "validation"}
    alone = mine._replace(inputs=mine.inputs._replace(judged=kept))
    assert judging.judged_by(alone) == "training loss"


# --------------------------------------------------------------- all methods, in shapes


def shapes(experiment, image_shape):
    """The state before and behind a step, and its note, without computing them."""
    job.check(experiment)
    mesh = sharded.data_mesh()
    depth = image_shape[-1]
    normalization = Normalization((0.5,) * depth, (0.2,) * depth)
    kind = Kind(image_shape, 10, 96, normalization)
    functions = programs.programs(experiment, mesh, kind)
    n = experiment.batch_size
    numbers = jax.ShapeDtypeStruct((n,), jnp.int32)
    images = jax.ShapeDtypeStruct((n, *image_shape), jnp.uint8)
    batch = programs.Rows(images, numbers, numbers, numbers)
    variables = jax.eval_shape(functions.init, jnp.int32(0))
    state = jax.eval_shape(functions.start, variables, jnp.int32(0))
    return state, *jax.eval_shape(functions.step, state, batch, jnp.int32(0))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_step(method):
    some = {"rho": 0.1, "beta": 0.6, "sigma": 1.0, "decay": 0.9}
    own = {name: some[name] for name in METHODS[method].own}
    optimizer = METHODS[method].optimizer or "sgd"
    experiment = dataclasses.replace(
        SGD, method=method, optimizer=optimizer, batch_size=32, **own
    )
    before, after, note = shapes(experiment, (4, 4, 1))
    assert jax.tree.map(_kind, before) == jax.tree.map(_kind, after)
    assert {(leaf.shape, str(leaf.dtype)) for leaf in note} == {((), "float32")}


@pytest.mark.parametrize("method", ["sgd", "highest_loss", "esam"])
def test_with_batch_normalization_in_bfloat16_the_state_is_float32(method):
    own: dict[str, Any] = {"rho": 0.1} if "rho" in METHODS[method].own else {}
    experiment = Experiment(
        "digits", "resnet8", method, 2, 0.1, 0.0, batch_size=32, dtype="bfloat16", **own
    )
    before, after, _ = shapes(experiment, (8, 8, 3))
    assert jax.tree.leaves(before.rest)
    assert jax.tree.map(_kind, before) == jax.tree.map(_kind, after)
    kept = jax.tree.leaves((after.params, after.rest, after.base))
    assert {str(leaf.dtype) for leaf in kept} <= {"float32", "int32"}


def _kind(leaf):
    return leaf.shape, str(leaf.dtype)


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({}, None),
        # What a method doesn't know is infinite.
        ({"loss": [math.inf] * 4, "perturbed_loss": [math.inf] * 4}, None),
        ({"cosine": [math.nan] * 4, "sharpness": [math.nan] * 4}, None),
        ({"loss": [1, 1, math.nan, math.nan]}, 2),
        ({"perturbed_loss": [math.nan, 1, 1, 1]}, 0),
        ({"gradient_norm": [1, math.inf, 1, math.nan]}, 1),
        ({"loss": [1, 1, math.nan, 1], "gradient_norm": [1, 1, 1, math.inf]}, 2),
    ],
)
def test_the_first_failure_of_several_steps(changed, place):
    told: dict[str, Any] = dict.fromkeys(Note._fields, [1.0] * 4) | changed
    notes = Note(**jax.tree.map(np.array, told, is_leaf=lambda x: isinstance(x, list)))
    assert step.first_failure(notes) == place


def test_a_gradient_for_judging_takes_no_more_memory_than_training(judged, monkeypatch):
    mine, state = judged
    sizes = []

    def gradient(state, rows):
        sizes.append(rows.labels.shape[0])
        return mine.programs.gradient(state, rows)

    watched = mine._replace(programs=mine.programs._replace(gradient=gradient))
    assert judging.sharpness(watched, state) == judging.sharpness(mine, state)
    assert max(sizes) <= mine.experiment.batch_size
    assert len(sizes) == math.ceil(mine.inputs.judged["train"].size / max(sizes))


@pytest.mark.parametrize(
    ("method", "own", "name"),
    [
        ("k_sam", {}, "k = 0.25"),
        ("k_sam", {"k": 0.4}, "k = 0.4"),
        ("random_sam", {}, "m = 0.25"),
        ("esam", {"beta": 0.5, "gamma": 0.3}, "gamma = 0.3"),
    ],
)
def test_a_share_of_a_devices_examples_is_at_least_one(method, own, name):
    experiment = dataclasses.replace(SGD, method=method, rho=0.1, batch_size=16, **own)
    with pytest.raises(UsageError, match=f"8 devices .* {name} of them .*; got 16"):
        job._check_parts(experiment, 8)
    job._check_parts(experiment, 4)


def test_a_setting_that_a_folder_does_not_know_was_at_its_default(tmp_path):
    saved = folder.plain("name", SGD)
    del saved["experiment"]["optimizer"], saved["experiment"]["augmentation"]
    folder.check_same(saved, SGD, tmp_path)
    with pytest.raises(UsageError, match="--optimizer sgd, and this is one with adamw"):
        folder.check_same(saved, dataclasses.replace(SGD, optimizer="adamw"), tmp_path)
