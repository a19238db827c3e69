"""What Orbax leaves to others: which checkpoint is the best, full disks, and quiet."""

import contextlib
import errno
import gc
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

# Bytes that a checkpoint takes besides its numbers.
BESIDES = 2**17
# What TensorStore says where the system's own number isn't told.
CODES = {
    "NOT_FOUND": errno.ENOENT,
    "PERMISSION_DENIED": errno.EACCES,
    "RESOURCE_EXHAUSTED": errno.ENOSPC,
}
# Seconds in which the other reads and writes end, after one has failed.
ECHO = 0.2


class Best:
    """Preserves the checkpoint with the highest score, among equals the last one.

    Orbax's own policy forgets the scores of earlier processes; if told to keep them in
    files, it fails with one that is damaged before any checkpoint can be read.
    """

    def __init__(self):
        self._scores: dict[int, float] = {}

    def note(self, step: int, score: float | None) -> None:
        """Takes note of a checkpoint's score; None if it has none."""
        self._scores.pop(step, None)
        if score is not None:
            self._scores[step] = score

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which of the checkpoints to keep, as Orbax asks its policies."""
        del context
        judged = [one.step for one in checkpoints if one.step in self._scores]
        best = max(judged, key=lambda step: (self._scores[step], step), default=None)
        return [one.step == best for one in checkpoints]


def check_room(folder: Path, state: PyTree) -> None:
    """Raises an OSError if the disk is too full, before half of a checkpoint is there."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    if shutil.disk_usage(folder).free < size + BESIDES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def as_os_error() -> Iterator[None]:
    """Turns TensorStore's errors about files into Python's."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number is None or isinstance(error, OSError):
            raise
        raise OSError(number, os.strerror(number)) from error


def _error_number(error: Exception) -> int | None:
    found = re.search(r"os_error_code='(\d+)'", str(error))
    if found:
        return int(found[1])
    code, _, _ = str(error).partition(":")
    return CODES.get(code)


@contextlib.contextmanager
def without_echoes() -> Iterator[None]:
    """Drops what Orbax's other reads and writes say, a page each, when one has failed.

    They end after it, some in threads, some in the garbage collector; see `let_end`.
    """
    before = sys.unraisablehook
    sys.unraisablehook = lambda said: None if _is_echo(said) else before(said)
    try:
        yield
    except OSError:
        let_end()
        raise
    finally:
        sys.unraisablehook = before


def _is_echo(said: Any) -> bool:
    code = getattr(said.object, "cr_code", None)
    is_orbax = code is not None and "orbax" in code.co_filename
    return is_orbax or str(said.exc_value) == "Event loop is closed"


def let_end() -> None:
    """Waits for those that haven't ended."""
    time.sleep(ECHO)
    gc.collect()
