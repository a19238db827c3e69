"""A run that was killed or stopped ends with the very weights of one that wasn't."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import runs
from problems import slow_but

from experiments.configs import rows
from experiments.data.augment import Augmentation

ROOT = Path(__file__).parents[4]
SECONDS = 100  # For anything: far more than it takes.

pytestmark = pytest.mark.xdist_group("train")


def environment():
    """That of the tests, with this process's devices."""
    given = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(ROOT)}
    return os.environ | given


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(folder, count):
    """Runs the program in a process of its own until it has written so many lines."""
    command = [sys.executable, "-m", "experiments.train", *runs.COMMAND, *runs.PACE]
    with subprocess.Popen(
        [*command, "--num-processes", "1", "--out", str(folder)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until = time.monotonic() + SECONDS
        while lines(folder) < count and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.002)
        process.kill()
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == -signal.SIGKILL, said


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_ends_bit_by_bit_as_one_that_was_not(tmp_path):
    # Of 18 steps and 2 evaluations: anywhere, but so that it can't have finished.
    count = random.SystemRandom().randint(3, 12)
    folder = tmp_path / f"killed-after-{count}-lines"
    killed(folder, count)
    assert count <= lines(folder) < runs.STEPS + 2
    assert not (folder / "result.json").exists(), count
    found = runs.run(folder)
    assert found.status == 0, (count, found.err)
    runs.assert_same_state(folder, runs.whole())
    runs.assert_same_numbers(folder, runs.whole())
    assert runs.kept(folder) == runs.kept(runs.whole()), count


def test_a_run_without_a_checkpoint_yet_begins_again(tmp_path):
    # What a kill leaves behind before the first one: numbers, and half a checkpoint.
    folder = tmp_path / "run"
    half = folder / "checkpoints" / "5.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    (half / "state").mkdir()
    line = json.dumps({"kind": "train", "step": 4, "epoch": 1.3, "loss": 7.0})
    (folder / "metrics.jsonl").write_text(line + "\n")
    found = runs.run(folder)
    assert found.status == 0, found.err
    assert "goes on" not in found.out
    runs.assert_same_numbers(folder, runs.whole())


@pytest.mark.parametrize(
    "number", slow_but((signal.SIGTERM,), (signal.SIGTERM, signal.SIGINT))
)
def test_a_run_told_to_stop_saves_and_goes_on(tmp_path, number):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    stopped = runs.run(tmp_path, done=runs.at(7, number))
    # As a shell would say it, so that no scheduler takes it for finished.
    assert stopped.status == 128 + number
    assert stopped.err == (
        f"stopped by {number.name} after step 7; it is saved, and the same command goes "
        f"on from there\n"
    )
    after = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    assert after == before
    assert runs.kept(tmp_path) == [5, 7]
    assert not (tmp_path / "result.json").exists()
    found = runs.run(tmp_path)
    assert found.status == 0, found.err
    assert "goes on after step 7 of 18" in found.out
    runs.assert_same_state(tmp_path, runs.whole())
    runs.assert_same_numbers(tmp_path, runs.whole())


@pytest.mark.slow
def test_statistics_of_a_batch_are_saved_too(tmp_path):
    # A network with BatchNorm, and a step that compiles quickly.
    command = ("--config", "digits_sgd", "--model", "resnet8", "--epochs", "2")
    command += ("--augmentation.crop", "1", "--augmentation.flip")
    experiment = dataclasses.replace(
        rows.ROWS["digits_sgd"].experiment,
        model="resnet8",
        epochs=2,
        augmentation=Augmentation(crop=1, flip=True),
    )
    folders = tmp_path / "whole", tmp_path / "stopped"
    assert runs.run(folders[0], command=command).status == 0
    stop = runs.at(4, signal.SIGTERM)
    assert runs.run(folders[1], command=command, done=stop).status == 143
    assert runs.run(folders[1], command=command).status == 0
    here, there = (runs.state(f, 6, experiment, "digits_sgd") for f in folders)
    statistics = [name for name in here if name.startswith(".rest")]
    assert len(statistics) > 10
    for name, array in here.items():
        np.testing.assert_array_equal(array, there[name], err_msg=name)


def test_told_to_stop_behind_the_last_step_a_run_finishes(tmp_path):
    found = runs.run(tmp_path, done=runs.at(runs.STEPS, signal.SIGTERM))
    assert found.status == 0, found.err
    runs.assert_same_numbers(tmp_path, runs.whole())


def test_the_second_interrupt_is_at_once(tmp_path):
    # Not Python's own where this was started in the background.
    before = signal.getsignal(signal.SIGINT)

    def done(step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    found = runs.run(tmp_path, done=done)
    assert (found.status, found.err) == (130, "stopped\n")
    assert signal.getsignal(signal.SIGINT) is before
    # Nothing of step 7 was saved, and nothing is broken.
    assert max(runs.kept(tmp_path)) < 7
    assert runs.run(tmp_path).status == 0
    runs.assert_same_state(tmp_path, runs.whole())


def test_a_finished_run_is_not_touched(tmp_path):
    folder = runs.whole()
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }
    found = runs.run(folder)
    assert found.status == 0
    assert f"{folder} is of a run that is done: nothing to do" in found.out.replace(
        "\n", " "
    )
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}
    assert after == before


def test_a_kill_between_the_last_checkpoint_and_the_result_costs_nothing(tmp_path):
    def broken(*content):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.training.harness.finish.write", broken)
        assert runs.run(tmp_path).status == 130
    assert runs.STEPS in runs.kept(tmp_path)
    found = runs.run(tmp_path, done=lambda step: pytest.fail("trained again"))
    assert found.status == 0, found.err
    runs.assert_same_numbers(tmp_path, runs.whole())
