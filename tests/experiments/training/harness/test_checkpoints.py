"""Checkpoints: which are kept, that damage is found, and that a full disk costs nothing."""

import collections
import errno
import json
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import runs
from problems import slow_but

from experiments.shell.cli import UsageError
from experiments.training.harness import storage
from experiments.training.harness.checkpoints import Checkpoints

pytestmark = pytest.mark.xdist_group("train")

STATE = {"params": {"a": jnp.arange(5, dtype=jnp.float32)}, "step": jnp.int32(7)}
OTHER = {"params": {"a": jnp.zeros(6, jnp.float32)}, "step": jnp.int32(7)}
# Steps 9 (the best of two evaluations is one of them), 15 and 16.
LAST, BEFORE = 16, 15


@pytest.fixture(scope="module")
def _stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "run"
    assert runs.run(folder, done=runs.at(LAST, signal.SIGTERM)).status == 143
    assert runs.kept(folder) == [9, BEFORE, LAST]
    return folder


@pytest.fixture
def stopped(_stopped, tmp_path):
    """A run's folder, stopped after step 16."""
    return Path(shutil.copytree(_stopped, tmp_path / "run"))


def largest(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


# ------------------------------------------------------------------------------ damage


def truncate(folder):
    os.truncate(largest(folder), largest(folder).stat().st_size // 2)


def flip(folder):
    content = bytearray(largest(folder).read_bytes())
    content[len(content) // 2] ^= 1
    largest(folder).write_bytes(content)


def empty(folder):
    (folder / "about" / "metadata").write_text("")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_used(stopped, damage):
    damage(stopped / "checkpoints" / str(LAST))
    found = runs.run(stopped)
    # No traceback of Orbax's threads either.
    assert (found.status, found.err) == (0, "")
    assert f"warning: checkpoint {stopped}/checkpoints/{LAST} is damaged (" in found.out
    assert "going back to the one before it" in found.out
    assert f"goes on after step {BEFORE} of 18" in found.out
    runs.assert_same_state(stopped, runs.whole())


def test_when_all_are_damaged_nothing_is_guessed(stopped):
    for step in runs.kept(stopped):
        truncate(stopped / "checkpoints" / str(step))
    found = runs.run(stopped)
    runs.assert_one_line(found, 2)
    assert f"all checkpoints in {stopped}/checkpoints are damaged: delete" in found.err
    assert found.out.count("is damaged") == 3


def test_a_damaged_config_is_named(stopped):
    (stopped / "config.json").write_text('{"name": "digits')
    found = runs.run(stopped)
    runs.assert_one_line(found, 2)
    assert f"{stopped}/config.json is not the settings of a run" in found.err
    assert "delete it, or give another --out" in found.err


# ----------------------------------------------------------------------- other people's


def test_checkpoints_of_another_experiment_are_refused(stopped):
    (stopped / "config.json").unlink()
    found = runs.run(stopped, "--seed", "4")
    runs.assert_one_line(found, 2)
    assert "has a run with --seed 0, and this is one with 4: give the same" in found.err


def test_checkpoints_of_another_model_are_refused(tmp_path):
    with Checkpoints(tmp_path) as mine:
        mine.save(3, STATE, {}, None)
    with (
        Checkpoints(tmp_path) as mine,
        pytest.raises(
            UsageError,
            match=r"3 is of another model, .*: params\.a is \(\(5,\), 'float32'\) there, "
            r"\(\(6,\), 'float32'\) here; start anew",
        ),
    ):
        mine.restore(OTHER, lambda about: None, pytest.fail)


# ------------------------------------------------------------------------ what is kept


def test_the_last_two_and_the_best_are_kept():
    _, evaluations = runs.evaluations(runs.whole())
    # By validation accuracy; of equals the later one.
    best = max(evaluations, key=lambda one: (one["validation_accuracy"], one["step"]))
    assert runs.kept(runs.whole()) == sorted({best["step"], 15, 18})
    result = json.loads((runs.whole() / "result.json").read_text())
    assert result["best"] == {**best, "judged_by": "validation accuracy"}
    assert result["last"] == evaluations[-1]


@pytest.mark.parametrize(
    ("scores", "left"),
    [
        ({1: 0.5, 2: 0.9, 3: 0.1, 4: None, 5: None}, [2, 4, 5]),
        ({1: 0.5, 2: 0.5, 3: 0.5, 4: 0.4, 5: None}, [3, 4, 5]),
        ({1: -0.5, 2: -2.5, 3: None, 4: None, 5: -0.75}, [1, 4, 5]),
        ({1: None, 2: None, 3: None, 4: None, 5: None}, [4, 5]),
        ({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5}, [4, 5]),
        ({1: -np.inf, 2: -1.0, 3: -np.inf, 4: -np.inf, 5: -2.0}, [2, 4, 5]),
    ],
)
@pytest.mark.parametrize("reopened", slow_but((True,), (False, True)))
def test_the_best_is_kept_in_one_process_or_several(tmp_path, scores, left, reopened):
    pieces = [[each] for each in scores.items()] if reopened else [[*scores.items()]]
    for piece in pieces:
        with Checkpoints(tmp_path) as mine:
            for step, score in piece:
                mine.save(step, STATE, {"now": step}, score)
    with Checkpoints(tmp_path) as mine:
        assert mine.steps() == left[::-1]
        found = mine.restore(STATE, lambda about: None, pytest.fail)
        assert found is not None
        assert (found.step, found.about["now"]) == (5, 5)
        np.testing.assert_array_equal(found.state["params"]["a"], STATE["params"]["a"])
        mine.forget(4)
        assert mine.steps() == left[-2::-1]


def test_nothing_is_restored_from_nothing(tmp_path):
    with Checkpoints(tmp_path) as mine:
        assert mine.restore(STATE, lambda about: None, pytest.fail) is None


def test_the_state_may_be_given_away_at_once(tmp_path):
    state = {"a": jnp.ones(100_000)}
    with Checkpoints(tmp_path) as mine:
        mine.save(1, state, {}, None)
        state["a"].delete()
        mine.wait()
        np.testing.assert_array_equal(
            mine.read(1, {"a": jnp.zeros(100_000)}).state["a"], np.ones(100_000)
        )


# --------------------------------------------------------------------------- full disks


def test_on_a_full_disk_a_run_ends_with_one_line_and_loses_nothing(stopped, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        # Fuller and fuller: the first checkpoint, of step 18, doesn't fit.
        patch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 1_000))
        found = runs.run(stopped)
    runs.assert_one_line(found, 1)
    assert f"can't write to {stopped}: No space left on device; checkpoints" in found.err
    assert runs.kept(stopped) == [9, BEFORE, LAST]
    goes_on(stopped)


def test_a_write_that_fails_half_way_loses_nothing(stopped):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The weights take 340 kB.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        found = runs.run(stopped)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    runs.assert_one_line(found, 1)
    assert f"can't write to {stopped}: File too large; checkpoints that" in found.err
    assert runs.kept(stopped) == [9, BEFORE, LAST]
    goes_on(stopped)


def goes_on(folder):
    found = runs.run(folder)
    assert (found.status, found.err) == (0, "")
    assert f"goes on after step {LAST} of 18" in found.out
    runs.assert_same_state(folder, runs.whole())


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("OUT_OF_RANGE: Failed to write [os_error_code='27']", errno.EFBIG),
        ('NOT_FOUND: Error opening "zarr" driver: a folder is gone', errno.ENOENT),
        ("RESOURCE_EXHAUSTED: No space", errno.ENOSPC),
    ],
)
def test_errors_about_files_become_pythons(said, number):
    its_own = pytest.raises(OSError, match=re.escape(os.strerror(number)))
    with its_own as found, storage.as_os_error():
        raise ValueError(said)
    assert found.value.errno == number
    with pytest.raises(ValueError, match="INVALID"), storage.as_os_error():
        raise ValueError("INVALID_ARGUMENT: something else")
