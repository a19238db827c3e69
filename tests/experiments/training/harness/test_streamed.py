"""ImageNet's path through the harness: images that are decoded as they are needed."""

import dataclasses
import functools
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import runs
import tiny_images
import tiny_tfds

from experiments import train
from experiments.data import imagenet, streamed
from experiments.data.batches import Batches
from experiments.data.examples import Dataset
from experiments.models import zoo
from experiments.models.resnet50 import BottleneckResNet
from experiments.processes import sharded
from experiments.training.harness import inputs, job, judging
from experiments.training.harness.checkpoints import Checkpoints

pytestmark = [pytest.mark.xdist_group("train"), pytest.mark.slow]

SIZE, TRAIN, JUDGED, BATCH, EPOCHS = 32, 13, 6, 4, 2
STEPS = EPOCHS * (TRAIN // BATCH)
DATA = tempfile.TemporaryDirectory()
TFDS = Path(DATA.name) / "tfds"
COMMAND = ("--config", "imagenet_resnet50_k_sam_half", "--batch-size", str(BATCH))
COMMAND += ("--epochs", str(EPOCHS), "--learning-rate", "0.1", "--data-dir", str(TFDS))
PACE = ("--log-every", "1", "--evaluate-every", "1", "--checkpoint-every", "2")


class KilledError(BaseException):
    """Nothing catches it, so that nothing is saved."""


class Fetched(NamedTuple):
    """What was decoded: which images of which split; the epoch of random parts."""

    split: str
    numbers: tuple[int, ...]
    epoch: int | None


FETCHED: list[Fetched] = []


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Two devices, a small network and small images, and a note of what is decoded."""
    pictures = [tiny_images.noise(60 + 4 * i, 48, seed=i) for i in range(TRAIN + JUDGED)]
    files = [tiny_images.file(picture) for picture in pictures]
    examples = tiny_images.examples(files, "image")
    splits = {"train": examples[:TRAIN], "validation": examples[TRAIN:]}
    tiny_tfds.write(TFDS, "imagenet2012", "5.1.0", tiny_images.FEATURES, splits)
    two = sharded.data_mesh(2)
    make = functools.partial(BottleneckResNet, blocks=(1,), width=4)
    model = zoo.Architecture("tiny ResNet", make, grouped="tiny ResNet, GroupNorm")
    streamed.streamed.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharded, "data_mesh", lambda devices=None: two)
        patch.setitem(zoo.MODELS, "resnet50", model)
        patch.setattr(imagenet, "load", noting(imagenet.load))
        patch.setattr(judging, "BATCH", BATCH)
        yield
    # A model and images of that name are other ones from now on.
    streamed.streamed.cache_clear()
    job.programs._programs.cache_clear()


def noting(load):
    def loaded(data_dir, split) -> Dataset:
        dataset = load(data_dir, split, SIZE)

        def fetch(indices):
            FETCHED.append(Fetched(split, tuple(indices.tolist()), None))
            return dataset.fetch(indices)

        def random_fetch(indices, epoch, seed):
            assert seed == 0
            FETCHED.append(Fetched(split, tuple(indices.tolist()), epoch))
            return dataset.random_fetch(indices, epoch, seed)

        return dataclasses.replace(dataset, fetch=fetch, random_fetch=random_fetch)

    return loaded


class Whole(NamedTuple):
    folder: Path
    out: str
    fetched: tuple[Fetched, ...]


@functools.cache
def whole():
    """A run that nothing happened to."""
    FETCHED.clear()
    folder = Path(DATA.name) / "whole"
    found = runs.run(folder, command=COMMAND, pace=PACE)
    assert found.status == 0, found.err
    return Whole(folder, found.out, tuple(FETCHED))


@pytest.mark.slow
def test_it_ends_with_a_result_and_a_report():
    folder, out, _ = whole()
    result = json.loads((folder / "result.json").read_text())
    data = result["dataset"]
    assert (data["train"], data["validation"], data["test"]) == (TRAIN, 0, JUDGED)
    assert (data["source"], data["things"]) == (
        "tensorflow_datasets imagenet2012/5.1.0",
        "images",
    )
    assert (result["steps"], result["last"]["step"]) == (STEPS, STEPS)
    assert result["last"]["train_loss"] > 0
    quoted = f"{result['last']['test_accuracy']:.2%} at the last step"
    assert f"ImageNet validation accuracy {quoted}" in out
    assert "# ImageNet, tiny ResNet, K-SAM, k = 1/2" in (folder / "report.md").read_text()


def test_training_sees_random_parts_and_evaluation_whole_images():
    fetched = whole().fetched
    drawn = [one for one in fetched if one.epoch is not None]
    assert {one.split for one in drawn} == {"train"}
    for epoch in range(EPOCHS):
        numbers = [n for one in drawn if one.epoch == epoch for n in one.numbers]
        # All whole batches of an epoch, no image in two of them.
        assert len(numbers) == len(set(numbers)) == TRAIN - TRAIN % BATCH
    looked_at = [one for one in fetched if one.epoch is None]
    # As many training examples as there are test examples; the last batch is filled up.
    for split in ("train", "test"):
        numbers = {n for one in looked_at if one.split == split for n in one.numbers}
        assert numbers == set(range(JUDGED))


def test_images_are_decoded_batch_by_batch():
    assert {len(one.numbers) for one in whole().fetched} == {BATCH}
    # And none at all before they are needed.
    FETCHED.clear()
    streamed.streamed.cache_clear()
    inputs.load(prepared().experiment, TFDS, None)
    assert not FETCHED


def test_held_out_images_are_not_trained_on():
    row, config = train._parse([*COMMAND, "--validation-examples", "4"])
    assert row
    found = inputs.load(config.experiment, TFDS, None)
    FETCHED.clear()
    held = found.judged["validation"]
    held.fetch(np.arange(held.size))
    (looked_at,) = FETCHED
    FETCHED.clear()
    with Batches(found.train, 3, 0) as batches:
        for _ in range(6):
            next(batches)
    trained_on = {number for one in FETCHED for number in one.numbers}
    assert len(looked_at.numbers) == 4
    assert trained_on == set(range(TRAIN)) - set(looked_at.numbers)
    assert all(one.epoch is not None for one in FETCHED)


def test_a_run_that_was_killed_ends_bit_by_bit_as_one_that_was_not(tmp_path):
    def done(step):
        # Within the second epoch; images of later steps are decoded by then.
        if step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        runs.run(tmp_path, command=COMMAND, pace=PACE, done=done)
    assert max(runs.kept(tmp_path)) == 4
    found = runs.run(tmp_path, command=COMMAND, pace=PACE)
    assert found.status == 0, found.err
    assert f"goes on after step 4 of {STEPS}" in found.out
    here, there = (saved(folder) for folder in (tmp_path, whole().folder))
    assert here.keys() == there.keys()
    # BatchNorm's statistics, too.
    assert any(name.startswith(".rest") for name in here)
    for name, array in here.items():
        np.testing.assert_array_equal(array, there[name], err_msg=name)
    runs.assert_same_numbers(tmp_path, whole().folder)


def prepared():
    row, config = train._parse(COMMAND)
    assert row
    return job.prepare(row.name, config.experiment, config.data_dir, None)


def saved(folder):
    """What was saved after the last step, each array by its name."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state = checkpoints.read(STEPS, prepared().like()).state
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): runs._bits(leaf) for path, leaf in leaves}


def test_weights_and_numbers_are_float32_in_bfloat16():
    arrays = saved(whole().folder)
    kinds = {str(array.dtype) for array in arrays.values()}
    assert kinds == {"float32", "int32", "bool"}
    assert all(np.isfinite(array).all() for array in arrays.values())
