"""Several processes on this machine train as one does; mistakes and losses cost a line.

Devices are virtual CPU devices: 8 in one process, 4 in each of two, 2 in each of four; and
two of a single device each for texts.
"""

import contextlib
import functools
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_tfds

from experiments import train
from experiments.configs import rows
from experiments.processes import coordinator, distributed, sharded, watch
from experiments.shell import cli
from experiments.training.harness import job, metrics
from experiments.training.harness.checkpoints import Checkpoints

ROOT = Path(__file__).parents[3]
DEVICES, STEPS, BATCH, CONFIG = 8, 6, 128, "digits_k_sam"
TRAINING = ("--config", CONFIG, "--epochs", "2", "--seed", "3", "--log-every", "1")
HEARTBEAT = 4
SECONDS = 300  # For anything: far more than it takes.
CACHE = tempfile.TemporaryDirectory()

# So that the cache serves all of them.
pytestmark = pytest.mark.xdist_group("processes")


# -------------------------------------------------------------------- many processes


def environment(devices):
    """That of the tests, without what tells JAX of devices, clusters and proxies."""
    told = re.compile(r"(XLA|JAX|SLURM|OMPI|TPU|KUBERNETES)_.*|.*_proxy", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not told.fullmatch(name)}
    given = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        # Most of what a process compiles another one has compiled before.
        "JAX_COMPILATION_CACHE_DIR": CACHE.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
        "PYTHONPATH": str(ROOT),
    }
    return kept | given


@pytest.fixture(scope="module", autouse=True)
def _compiled_as_the_others():
    """Quickly, and so that the results are comparable."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def told(i, count, port):
    which = {"num-processes": count, "process-id": i, "coordinator": f"127.0.0.1:{port}"}
    return [word for name, x in which.items() for word in (f"--{name}", str(x))]


def told_by_slurm(i, count, port):
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(i),
        "SLURM_LOCALID": str(i),
        "JAX_COORDINATOR_PORT": str(port),
    }


class Processes:
    """Some processes that train, their output in files, which never fill up."""

    def __init__(
        self, folder, count, *options, port=None, ids=None, slurm=False, devices=DEVICES
    ):
        port = port or free_port()
        self._files = {i: folder / f"said-{i}.txt" for i in ids or range(count)}
        self.running = {}
        for i, path in self._files.items():
            which = () if slurm else told(i, count, port)
            command = [sys.executable, "-m", "experiments.train", *which, *options]
            with path.open("w") as file:
                self.running[i] = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment(devices // count)
                    | (told_by_slurm(i, count, port) if slurm else {}),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.running.values():
            process.kill()
            process.wait(SECONDS)

    def said(self, i):
        return self._files[i].read_text()

    def wait(self, i):
        """The exit status."""
        try:
            return self.running[i].wait(SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"process {i} is still running, and said:\n{self.said(i)[-3000:]}")

    def wait_for(self, i, happened):
        until = time.monotonic() + SECONDS
        while not happened():
            assert self.running[i].poll() is None, self.said(i)[-3000:]
            assert time.monotonic() < until, self.said(i)[-3000:]
            time.sleep(0.05)

    def last_words(self, i):
        """The line after JAX's own, which comes from a child and so a moment later."""
        until = time.monotonic() + SECONDS
        while "error: " not in self.said(i) and time.monotonic() < until:
            time.sleep(0.05)
        return [line for line in self.said(i).splitlines() if line.startswith("error: ")]


def read(folder, like):
    """The numbers of each step and of each evaluation, and the last weights."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state = checkpoints.read(STEPS, like).state
    numbers = metrics.read(folder / "metrics.jsonl")
    return *numbers, jax.tree.leaves(jax.device_get(state.params))


def trained_by(count, folder, *options, slurm=False, devices=DEVICES):
    """What so many processes said that trained into `folder / "out"`."""
    options = (*options, "--out", "out")
    statuses, said = [], []
    # Between finding a free port and using it somebody else may take it.
    for _ in range(3):
        with Processes(folder, count, *options, slurm=slurm, devices=devices) as processes:
            statuses = [processes.wait(i) for i in range(count)]
            said = [processes.said(i) for i in range(count)]
        if not re.search("Failed to add port|can listen", said[0]):
            break
    assert statuses == [0] * count, "\n".join(said)[-5000:]
    result = json.loads((folder / "out" / "result.json").read_text())
    assert (result["processes"], result["devices"]) == (count, devices)
    return said


def rows_in(i, count, said):
    [found] = re.findall(
        rf"process {i} of {count}, with {DEVICES // count} of {DEVICES} devices, loads "
        rf"rows (\d+) to (\d+) of each batch of {BATCH}\n",
        said,
    )
    return range(int(found[0]), int(found[1]) + 1)


# By Slurm's variables, as JAX detects a cluster, and by the program's options.
RUNS = {"Slurm": (2, "--sync-ascent"), "options": (4, "--no-sync-ascent")}


@pytest.fixture(scope="module")
def like():
    experiment = replace(rows.ROWS[CONFIG].experiment, epochs=2, seed=3)
    return job.prepare(CONFIG, experiment, None, None).like()


@pytest.fixture(scope="module")
def alone(tmp_path_factory, like):
    """What one process with 8 devices writes for each way to climb."""
    found = {}
    for _, climb in RUNS.values():
        folder = tmp_path_factory.mktemp("alone")
        options = (*TRAINING, climb, "--num-processes", "1", "--out", str(folder))
        assert distributed.run(train.main, options) == 0
        found[climb] = read(folder, like)
    return found


def assert_same(found, expected):
    *numbers, params = found
    assert len(numbers[0]) == STEPS
    assert numbers[1]
    records, others = (list(itertools.chain(*x)) for x in (numbers, expected[:-1]))
    for record, other in zip(records, others, strict=True):
        speeds = {k: v for k, v in record.items() if k == "examples_per_second"}
        assert record == pytest.approx(other | speeds, rel=1e-6, abs=1e-6)
    for array, other in zip(params, expected[-1], strict=True):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, other, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_climbs_of_all_devices_and_of_each_are_not_the_same(alone):
    together, each = (alone[climb][0][-1]["sharpness"] for _, climb in RUNS.values())
    assert abs(together - each) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("by", RUNS)
def test_processes_train_as_one_does(tmp_path, alone, like, by):
    count, climb = RUNS[by]
    said = trained_by(count, tmp_path, *TRAINING, climb, slurm=by == "Slurm")
    assert_same(read(tmp_path / "out", like), alone[climb])
    rows = [rows_in(i, count, text) for i, text in enumerate(said)]
    # Each has loaded its own part, and together they have loaded everything once.
    assert {len(own) for own in rows} == {BATCH // count}
    assert sorted(itertools.chain(*rows)) == list(range(BATCH))


# ------------------------------------------------------------------------------- texts

TEXTS = {
    "dataset": "glue/sst2",
    "epochs": 1,
    "batch_size": 8,
    "length": 12,
    "vocabulary": 60,
}
WORDS = ("a", "dull,", "slow", "film", "but", "the", "best", "of", "all", "great", "ones")
TEXT_CONFIG = "sst2_transformer_k_sam"
ON_TEXTS = ("--config", TEXT_CONFIG, "--log-every", "1")
ON_TEXTS += tuple(
    word for k, v in TEXTS.items() for word in (f"--{k.replace('_', '-')}", str(v))
)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """As many as make the steps, and some to judge on, which don't fill a batch."""
    folder = tmp_path_factory.mktemp("tfds")
    draw = np.random.default_rng(0)
    examples = [
        {
            "sentence": " ".join(draw.choice(WORDS, size=draw.integers(1, 15))),
            "label": i % 2,
            "idx": i,
        }
        for i in range(8 * STEPS + 13)
    ]
    splits = {"train": examples[:-13], "validation": examples[-13:]}
    features = {
        "sentence": tiny_tfds.text(),
        "label": tiny_tfds.class_label(2),
        "idx": tiny_tfds.scalar("int32"),
    }
    tiny_tfds.write(folder, "glue/sst2", "2.0.0", features, splits)
    return folder


@pytest.mark.slow
def test_two_processes_train_on_texts_as_one_does(tmp_path, reviews, monkeypatch):
    """With AdamW, which can make much of a last bit; but a sum of two has no order."""
    mesh = functools.partial(sharded.data_mesh, 2)
    monkeypatch.setattr(sharded, "data_mesh", mesh)
    options = (*ON_TEXTS, "--data-dir", str(reviews))
    here = ("--num-processes", "1", "--out", str(tmp_path / "alone"))
    assert distributed.run(train.main, (*options, *here)) == 0
    trained_by(2, tmp_path, *options, devices=2)

    experiment = replace(rows.ROWS[TEXT_CONFIG].experiment, **TEXTS)
    prepared = job.prepare(TEXT_CONFIG, experiment, reviews, None)
    found, expected = (read(tmp_path / name, prepared.like()) for name in ("out", "alone"))
    assert_same(found, expected)
    # It isn't that nothing happened.
    first, *_, last = found[0]
    assert abs(first["loss"] - last["loss"]) > 1e-2


# ------------------------------------------------------------------------------ losses

LONG = ("--config", CONFIG, "--epochs", "5000", "--evaluate-every", "2500")
LONG += ("--log-every", "10", "--checkpoint-every", "30", "--out", "out")
LONG += ("--heartbeat-timeout", str(HEARTBEAT))


def kill_one_of_two(folder, victim):
    """Both start, get to some checkpoints, and end, with a line each."""
    other = 1 - victim
    with Processes(folder, 2, *LONG) as processes:
        processes.wait_for(0, lambda: len(checkpoints_in(folder / "out")) >= 2)
        processes.running[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert processes.wait(other) not in (0, 2)
        # At most one more heartbeat is on its way.
        assert time.monotonic() - killed < 2 * HEARTBEAT + 5
        words = {i: processes.last_words(i) for i in (0, 1)}
    for i, lines in words.items():
        assert len(lines) == 1
        start = rf"error: process {i} of 2 (ended|stopped) after step \d\d+\b"
        assert re.match(start, lines[0])
        assert "another process was lost" in lines[0]
        assert lines[0].endswith("again with the same command: it goes on.")


@pytest.mark.slow
def test_a_lost_process_ends_the_other(tmp_path):
    kill_one_of_two(tmp_path, victim=0)


@pytest.mark.slow
def test_after_a_loss_the_same_command_goes_on(tmp_path):
    kill_one_of_two(tmp_path, victim=1)
    saved = checkpoints_in(tmp_path / "out")
    with Processes(tmp_path, 2, *LONG) as processes:
        processes.wait_for(0, lambda: checkpoints_in(tmp_path / "out")[-1] > saved[-1])
        assert f"goes on after step {saved[-1]} of 15000" in processes.said(0)
        # Any process may be told to make room: all save the same step, and end.
        processes.running[1].send_signal(signal.SIGTERM)
        assert [processes.wait(i) for i in (0, 1)] == [143, 143]
        [stopped] = {
            int(found)
            for i in (0, 1)
            for found in re.findall(r"SIGTERM after step (\d+)", processes.said(i))
        }
    assert checkpoints_in(tmp_path / "out")[-1] == stopped


def checkpoints_in(folder):
    found = (path.name for path in (folder / "checkpoints").glob("*"))
    return sorted(int(name) for name in found if name.isdecimal())


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [::1]:7361", True),
        ("UNAVAILABLE: Failed to send RPC to coordination service", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 1234 bytes", False),
    ],
)
def test_what_counts_as_a_loss(said, lost):
    assert watch.is_loss(jax.errors.JaxRuntimeError(said)) == lost
    assert not watch.is_loss(RuntimeError(said))


# ---------------------------------------------------------------------------- mistakes

COORDINATOR = ("--coordinator", "localhost:1234")
ALONE = ("--num-processes", "1")
NAMED = ("--config", CONFIG)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (COORDINATOR, "must be given together; add --num-processes and --process-id, or"),
        (
            ("--process-id", "0"),
            "together; add --coordinator and --num-processes, or leave",
        ),
        (("--num-processes", "3", "--process-id", "1"), "together; add --coordinator, or"),
        ((*COORDINATOR, *ALONE), "together; add --process-id, or leave out all three"),
        (
            (*COORDINATOR, "--num-processes", "2", "--process-id", "2"),
            "--process-id must be at least 0 and below --num-processes, which is 2; got 2",
        ),
        (
            (*COORDINATOR, "--num-processes", "2", "--process-id=-1"),
            "--process-id must be at least 0 and below --num-processes, which is 2; got -1",
        ),
        (("--num-processes", "0"), "--num-processes must be at least 1; got 0"),
        (("--num-processes", "two"), "Error parsing --num-processes"),
        (("--start-timeout", "0"), "--start-timeout must be at least 1; got 0"),
        (("--heartbeat-timeout", "1"), "--heartbeat-timeout must be at least 2; got 1"),
        ((*ALONE, "--method", "f_sam", "--no-sync-ascent"), "--method f_sam"),
        ((*ALONE, "--batch-size", "12"), "multiple of the number of devices, 8, and at"),
        ((*ALONE, "--out", __file__), "can't write to "),
    ],
)
def test_mistakes_cost_one_line(options, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert distributed.run(train.main, (*NAMED, *options)) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert line in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "address",
    ["localhost", "localhost:", ":1234", "localhost:0", "a:65536", "::1:80", "a:1²", " :1"],
)
def test_a_coordinator_is_a_host_and_a_port(address, capsys):
    options = ("--coordinator", address, "--num-processes", "2", "--process-id", "0")
    assert distributed.run(train.main, (*NAMED, *options)) == 2
    assert f"port from 1 to 65535, such as 10.0.0.1:1234; got {address!r}" in (
        capsys.readouterr().err
    )


def test_addresses_may_be_of_version_6():
    assert coordinator.host_and_port("[::1]:80") == ("::1", 80)


def test_a_coordinator_that_does_not_answer(capsys):
    options = (*told(1, 2, free_port()), "--start-timeout", "1")
    started = time.monotonic()
    assert distributed.run(train.main, (*NAMED, *options)) == 2
    assert time.monotonic() - started < 10
    said = capsys.readouterr().err
    assert "--coordinator must be where process 0 listens; got no answer from" in said
    assert "in --start-timeout 1 seconds (Connection refused): start process 0" in said


@pytest.mark.slow
def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Processes(tmp_path, 2, *NAMED, port=port, ids=[0]) as processes:
            assert processes.wait(0) == 2
            assert (
                "(Address already in use): choose another one" in processes.last_words(0)[0]
            )


@pytest.mark.parametrize(
    ("error", "is_alone"),
    [
        (ValueError("coordinator_address should be defined."), True),
        (ValueError("Number of processes must be defined."), False),
        (RuntimeError("Kubernetes API Error: 403"), False),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_not_trained_on_alone(
    error, is_alone, monkeypatch
):
    def initialize(**options):
        del options
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    expected = (
        contextlib.nullcontext()
        if is_alone
        else pytest.raises(cli.UsageError, match=f"can't join .*{error}.*--num-processes 1")
    )
    with expected:
        assert isinstance(distributed.start(distributed.Options()), watch.Alone)
    jax.config.update("jax_enable_preemption_service", True)


@pytest.mark.slow
def test_without_options_and_cluster_a_process_is_alone(tmp_path):
    [line] = subprocess.run(
        [
            sys.executable,
            "-c",
            "from experiments.processes import distributed as d; "
            "print(type(d.start(d.Options())).__name__)",
        ],
        env=environment(1),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
        cwd=tmp_path,
    ).stdout.splitlines()
    assert line == "Alone"


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        distributed.run(train.main, ["--help"])
    said = capsys.readouterr().out
    for name in ("coordinator", "process-id", "sync-ascent", "out"):
        assert f"--{name}" in said
