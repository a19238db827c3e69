"""The folder of a run: whose it is, and that nobody else is writing to it."""

import dataclasses
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.configs.experiment import Experiment
from experiments.shell import cli, files
from experiments.shell.cli import UsageError
from experiments.training.harness import contents
from experiments.training.harness.contents import Result, Settings

CONFIG, LOCK = "config.json", "lock"
METRICS, RESULT, CHECKPOINTS = "metrics.jsonl", "result.json", "checkpoints"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Holds the folder for this process, until it ends in whatever way.

    Raises:
      UsageError: if it can't be written to, or another process holds it.
    """
    cli.writable(folder)
    try:
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise UsageError(f"can't write to {folder / LOCK}: {error.strerror}") from error
    with file:
        try:
            # The system lets go of it when the process ends, be it killed.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UsageError(
                f"{folder} is in use by another run (process {holder}): give another "
                f"--out, or wait until that one has ended"
            ) from None
        except OSError as error:
            raise UsageError(
                f"can't lock {folder / LOCK} ({error.strerror}): give an --out on a file "
                f"system that has locks"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def plain(name: str, experiment: Experiment) -> Settings:
    """What a run is of, for JSON."""
    return {"name": name, "experiment": files.plain(dataclasses.asdict(experiment))}


def check_same(saved: Mapping[str, Any], experiment: Experiment, where: Path) -> None:
    """Raises a UsageError if `saved`, as made by `plain`, is of another experiment."""
    mine = files.plain(dataclasses.asdict(experiment))
    theirs = saved.get("experiment")
    if not isinstance(theirs, Mapping):
        raise UsageError(f"{where} has no experiment's settings: give another --out")
    # Settings that it didn't know yet were as they are by default.
    theirs = {**_defaults(), **theirs}
    for name in mine | theirs:
        if mine.get(name) != theirs.get(name):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{where} has a run with {option} {theirs.get(name)}, and this is one with "
                f"{mine.get(name)}: give the same, or another --out"
            )


def _defaults() -> dict[str, Any]:
    fields = dataclasses.fields(Experiment)
    known = {field.name: field.default for field in fields}
    known = {k: v for k, v in known.items() if v is not dataclasses.MISSING}
    known["augmentation"] = dataclasses.asdict(known["augmentation"])
    return files.plain(known)


def check_config(folder: Path, experiment: Experiment) -> None:
    """Raises a UsageError if the folder is of another experiment, or unreadable."""
    path = folder / CONFIG
    if path.exists():
        check_same(contents.CONFIG.read(path), experiment, folder)


def result(folder: Path, experiment: Experiment) -> Result | None:
    """What a finished run has found; None if it isn't finished.

    Raises:
      UsageError: if the file is damaged, or of another experiment.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    content = contents.RESULT.read(path)
    check_same(content, experiment, folder)
    return content
