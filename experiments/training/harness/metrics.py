"""The numbers of a run as it goes: metrics.jsonl for programs, TensorBoard for people.

A run that was killed goes on from its last checkpoint and makes the steps behind it once
more. Their numbers are taken out first, so that metrics.jsonl is in the end what it would
have been without the kill.
"""

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from experiments.shell.cli import UsageError
from experiments.shell.files import plain
from experiments.training.harness.contents import Record
from experiments.training.harness.folder import METRICS

# What says when, and isn't a number to draw.
TIMES = ("kind", "step", "epoch")


class Metrics:
    """Writes a run's numbers, each line at once. Use as a context manager:

        with Metrics(folder, after_step=0) as metrics:
            metrics.train({"step": 50, "epoch": 0.13, "loss": 2.1})

    Both files are written by the caller's thread: an `OSError`, such as that of a full
    disk, is raised where it happens.

    Args:
      folder: of the run; made if there is none.
      after_step: of the checkpoint that the run goes on from, 0 if it begins. Numbers of
        later steps are removed.

    Raises:
      UsageError: if metrics.jsonl has a line that isn't a record.
    """

    def __init__(self, folder: Path, after_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        _forget(path, after_step)
        with ExitStack() as files:
            self._lines = files.enter_context(path.open("ab"))
            self._events = _Events(folder / "tensorboard", after_step)
            files.callback(self._events.close)
            self._files = files.pop_all()

    def train(self, record: Record) -> None:
        """Adds means over some steps of training."""
        self._write("train", record)

    def evaluation(self, record: Record) -> None:
        """Adds what a whole evaluation found."""
        self._write("evaluation", record)

    def close(self) -> None:
        """Closes both files; does nothing the second time."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del kind, error, trace
        self.close()

    def _write(self, kind: str, record: Record) -> None:
        numbers = plain({"kind": kind, **{k: v for k, v in record.items() if k != "kind"}})
        # Python writes a float with as many digits as it takes to read the same one.
        line = json.dumps(numbers, ensure_ascii=False, allow_nan=False)
        self._lines.write(f"{line}\n".encode())
        self._lines.flush()
        self._events.add(kind, numbers)


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records of a metrics.jsonl: those of training, and the evaluations.

    A half-written last line is left out.

    Raises:
      UsageError: if another line isn't a record.
    """
    records = [record for _, record in _records(path)]
    return (
        [record for record in records if record["kind"] == "train"],
        [record for record in records if record["kind"] == "evaluation"],
    )


def _forget(path: Path, after_step: int) -> None:
    """Removes later steps and half a line, all in one go or not at all."""
    if not path.exists():
        return
    kept = [line + b"\n" for line, record in _records(path) if record["step"] <= after_step]
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_bytes(b"".join(kept))
    os.replace(unfinished, path)


def _records(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Each whole line, and what it says."""
    # A line is written with its end; what has none was cut off.
    *lines, _ = path.read_bytes().split(b"\n")
    return [(line, _record(path, i, line)) for i, line in enumerate(lines, start=1)]


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if record["kind"] in ("train", "evaluation") and isinstance(record["step"], int):
            return record
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError(f"line {number} of {path} isn't a record of a run: remove that line")


class _Events:
    """A file of TensorBoard's events.

    Not tensorboardX's SummaryWriter: that one writes in a thread, which dies of a full disk
    while the run waits for it for ever, and puts the host's name into the file's.
    """

    def __init__(self, folder: Path, after_step: int):
        # Here, since this import takes a fifth of a second.
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import RecordWriter

        # Their classes are made at import, where type checkers can't see them.
        events: Any = event_pb2
        summaries: Any = summary_pb2
        self._event, self._summary = events.Event, summaries.Summary
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names. Nanoseconds: a run can be
        # killed and continued within a second.
        self._file = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        self._write(file_version="brain.Event:2")
        started = events.SessionLog(status=events.SessionLog.START)
        # Makes TensorBoard forget this step and all later ones in earlier files.
        self._write(step=after_step + 1, session_log=started)
        self._file.flush()

    def add(self, kind: str, numbers: Record) -> None:
        """Writes what is known, each number under "kind/name"."""
        values = [
            self._summary.Value(tag=f"{kind}/{name}", simple_value=value)
            for name, value in numbers.items()
            if name not in TIMES and value is not None
        ]
        self._write(step=numbers["step"], summary=self._summary(value=values))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: Any) -> None:
        event = self._event(wall_time=time.time(), **content)
        self._file.write(event.SerializeToString())
