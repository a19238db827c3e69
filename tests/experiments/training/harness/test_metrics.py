"""metrics.jsonl and TensorBoard's events: whole, exact, and the same after a resume."""

import errno
import json
import math
import struct
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2 as made_at_import

from experiments.shell.cli import UsageError
from experiments.training.harness.metrics import Metrics, read

event_pb2: Any = made_at_import

# No short decimal numbers: what comes back must be the same float, not a near one.
LOSSES = {1: math.pi, 2: 1 / 3, 3: float(np.float32(0.1)), 4: 5e-324, 5: 1.7e308}


def test_lines_are_exact(tmp_path):
    with Metrics(tmp_path / "new", after_step=0) as metrics:
        metrics.train({"step": 50, "epoch": 0.13, "loss": float("nan"), "kind": "other"})
        metrics.train({"step": 51, "epoch": 1, "loss": jnp.float32(0.5), "cosine": None})
        metrics.evaluation({"step": 51, "epoch": 1, "test_loss": float("inf")})
    assert (tmp_path / "new" / "metrics.jsonl").read_text() == (
        '{"kind": "train", "step": 50, "epoch": 0.13, "loss": null}\n'
        '{"kind": "train", "step": 51, "epoch": 1, "loss": 0.5, "cosine": null}\n'
        '{"kind": "evaluation", "step": 51, "epoch": 1, "test_loss": null}\n'
    )


def test_a_line_can_be_read_at_once(tmp_path):
    with Metrics(tmp_path, after_step=0) as metrics:
        metrics.train(_record(1))
        train, evaluations = read(tmp_path / "metrics.jsonl")
        assert (train, evaluations) == ([{"kind": "train", **_record(1)}], [])
        assert ("train/loss", 1, pytest.approx(math.pi)) in _scalars(tmp_path)


@pytest.mark.parametrize("half", ['{"kind": "tra', '{"kind": "train", "step": 4}', "\0\0"])
def test_a_resumed_run_leaves_the_file_of_an_uninterrupted_one(tmp_path, half):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    with Metrics(whole, after_step=0) as metrics:
        _run(metrics, 1, 5)
    with Metrics(stopped, after_step=0) as metrics:
        _run(metrics, 1, 3)
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write(half)
    with Metrics(stopped, after_step=2) as metrics:
        _run(metrics, 3, 5)
    assert _lines(stopped) == _lines(whole)
    assert [path.name for path in sorted(stopped.iterdir())] == [
        "metrics.jsonl",
        "tensorboard",
    ]
    train, evaluations = read(stopped / "metrics.jsonl")
    assert {record["step"]: record["loss"] for record in train} == LOSSES
    assert [record["step"] for record in evaluations] == [2, 4]


def test_a_run_that_begins_again_forgets_everything(tmp_path):
    with Metrics(tmp_path, after_step=0) as metrics:
        _run(metrics, 1, 5)
    with Metrics(tmp_path, after_step=0):
        assert _lines(tmp_path) == b""


def test_reading_leaves_out_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1}\n{"kind": "train", "step": 2}')
    assert read(path) == ([{"kind": "train", "step": 1}], [])


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"kind": "train"}', '{"step": 1}', ""])
def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path, line):
    text = f'{{"kind": "train", "step": 1}}\n{line}\n{{"kind": "train", "step": 2}}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UsageError, match=r"line 2 of .*metrics\.jsonl isn't a record"):
        Metrics(tmp_path, after_step=1)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_tensorboard_gets_the_same_numbers(tmp_path):
    with Metrics(tmp_path, after_step=0) as metrics:
        metrics.train({"step": 50, "epoch": 0.13, "loss": 0.5, "cosine": None})
        metrics.train({"step": 100, "epoch": 0.26, "loss": math.nan, "sharpness": 0.25})
        metrics.evaluation({"step": 391, "epoch": 1, "test_accuracy": 0.75})
    assert _scalars(tmp_path) == [
        ("train/loss", 50, 0.5),
        ("train/sharpness", 100, 0.25),
        ("evaluation/test_accuracy", 391, 0.75),
    ]


def test_tensorboard_is_told_what_to_forget(tmp_path):
    for step in (0, 2, 2):
        Metrics(tmp_path, after_step=step).close()
    first, *resumed = [_events(path) for path in _event_files(tmp_path)]
    assert len(resumed) == 2
    start = event_pb2.SessionLog.START
    for events, purged in zip((first, *resumed), (1, 3, 3), strict=True):
        assert events[0].file_version == "brain.Event:2"
        assert (events[1].step, events[1].session_log.status) == (purged, start)


def test_names_of_files_tell_no_host(tmp_path):
    Metrics(tmp_path, after_step=0).close()
    (path,) = _event_files(tmp_path)
    assert path.name.removeprefix("events.out.tfevents.").isdigit()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("which", ["lines", "events"])
def test_a_full_disk_reaches_the_caller(tmp_path, which):
    metrics = Metrics(tmp_path, after_step=0)
    with open("/dev/full", "wb") as full:
        if which == "lines":
            metrics._lines.close()
            metrics._lines = full
        else:
            file: Any = metrics._events._file
            file._writer.close()
            file._writer = full
        with pytest.raises(OSError, match="No space left") as caught:
            metrics.train(_record(1))
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match="No space left"):
            full.close()
    metrics.close()
    metrics.close()


def _run(metrics, first, last):
    for step in range(first, last + 1):
        metrics.train(_record(step))
        if step % 2 == 0:
            metrics.evaluation({"step": step, "epoch": step // 2, "test_accuracy": 0.5})


def _record(step):
    return {"step": step, "epoch": step / 2, "loss": LOSSES[step], "sharpness": None}


def _lines(folder):
    content = (folder / "metrics.jsonl").read_bytes()
    assert all(json.loads(line) for line in content.splitlines())
    return content


def _event_files(folder):
    return sorted((folder / "tensorboard").iterdir())


def _scalars(folder):
    return [
        (value.tag, event.step, value.simple_value)
        for path in _event_files(folder)
        for event in _events(path)
        for value in event.summary.value
    ]


def _events(path):
    """Reads TFRecords: length, its checksum, content, its checksum."""
    rest, events = path.read_bytes(), []
    while rest:
        (length,) = struct.unpack("<Q", rest[:8])
        events.append(event_pb2.Event.FromString(rest[12 : 12 + length]))
        rest = rest[16 + length :]
    return events
