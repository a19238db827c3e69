"""Runs of the command line in this process, and what they leave behind."""

import contextlib
import dataclasses
import functools
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train
from experiments.configs import rows
from experiments.data.augment import Augmentation
from experiments.processes import watch
from experiments.shell import cli
from experiments.training.harness import curves, job
from experiments.training.harness.checkpoints import Checkpoints

# A method with random numbers in its state; all runs compile the same.
NAME, EPOCHS, STEPS = "digits_esam", 6, 18
EXPERIMENT = dataclasses.replace(
    rows.ROWS[NAME].experiment,
    epochs=EPOCHS,
    augmentation=Augmentation(crop=1, flip=True),
)
COMMAND = ("--config", NAME, "--epochs", str(EPOCHS))
COMMAND += ("--augmentation.crop", "1", "--augmentation.flip")
PACE = ("--evaluate-every", "3", "--log-every", "1", "--checkpoint-every", "5")
KINDS = ("train", "evaluation")
FOLDER = tempfile.TemporaryDirectory()


class Ended(NamedTuple):
    """How a run ended, and its text."""

    status: int
    out: str
    err: str


def run(folder: Path, *options: str, command=COMMAND, pace=PACE, done: Any = None) -> Ended:
    """The program with this output folder; `done` is told after each step."""
    # JAX would look for a cluster, which it can't once it has computed anything.
    argv = [*command, *pace, "--num-processes", "1", "--out", str(folder), *options]
    return ended(argv, done)


def ended(argv, done: Any = None) -> Ended:
    with pytest.MonkeyPatch.context() as patch, captured() as said:
        # Takes most of the time; `test_run_report` is on it.
        patch.setattr(curves, "draw", lambda *content: None)
        if done:
            patch.setattr(watch.Alone, "done", lambda self, step: done(step))
        status = cli.run(train.main, argv)
    return Ended(status, *(text.getvalue() for text in said))


@contextlib.contextmanager
def captured():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


def at(step, number):
    """Sends this process a signal after that step."""
    return lambda now: os.kill(os.getpid(), number) if now == step else None


@functools.cache
def whole() -> Path:
    """The folder of a run that nothing happened to."""
    folder = Path(FOLDER.name) / "whole"
    found = run(folder)
    assert found.status == 0, found.err
    return folder


def state(folder, step=STEPS, experiment=EXPERIMENT, name=NAME):
    """What was saved after that step, each array by its name."""
    like = job.prepare(name, experiment, None, None).like()
    with Checkpoints(folder / "checkpoints") as checkpoints:
        found = checkpoints.read(step, like)
    leaves = jax.tree_util.tree_leaves_with_path(found.state)
    return {jax.tree_util.keystr(path): _bits(leaf) for path, leaf in leaves}


def _bits(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def assert_same_state(folder, other, step=STEPS):
    """Bit by bit: weights, the method's state and the optimizer's."""
    here, there = state(folder, step), state(other, step)
    assert here.keys() == there.keys()
    for part in ("params", "gradient", "base"):
        assert any(name.startswith(f".{part}") for name in here), part
    for name, array in here.items():
        assert array.dtype == there[name].dtype
        np.testing.assert_array_equal(array, there[name], err_msg=name)


def records(folder):
    """The lines of metrics.jsonl, without how fast it went."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in one.items() if k != "examples_per_second"} for one in found]


def assert_same_numbers(folder, other):
    """What was measured on the way and at the end."""
    assert records(folder) == records(other)
    here, there = (json.loads((run / "result.json").read_text()) for run in (folder, other))
    for name in ("last", "best", "sharpness", "steps"):
        assert here[name] == there[name]


def kept(folder):
    """The steps of the checkpoints that there are, without unfinished ones."""
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


def assert_one_line(found, status):
    assert found.status == status, found
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert found.err.endswith("\n")


def evaluations(folder):
    """The records of training, and those of evaluations."""
    found = records(folder)
    kinds = [[one for one in found if one["kind"] == kind] for kind in KINDS]
    return [
        [{k: v for k, v in one.items() if k != "kind"} for one in ones] for ones in kinds
    ]
