"""Work in a process of its own that ends when its time is over, or its parent is gone."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

# From being told to stop, to save, until the end.
GRACE = 15.0

DONE, CUT, FAILED = "done", "cut", "failed"


class Budget:
    """How many seconds are left of so many."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._start = time.monotonic()

    def until(self, share: float) -> float:
        """Seconds until that share of the whole is used; 0 if it is."""
        return max(0.0, share * self.seconds - (time.monotonic() - self._start))


def within(seconds: float, work: Callable[..., int], *args: Any) -> str:
    """Does the work in a new process, and says what became of it.

    Args:
      seconds: after which it is told to stop, and killed if it doesn't in `GRACE` seconds.
      work: of a module that can be imported; returns the process's status.
      *args: for it.

    Returns:
      DONE, CUT, or FAILED if it ended by itself with another status than 0.
    """
    # Not forked: JAX has threads, and no two processes share an accelerator's memory.
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_alone, args=(work, args), daemon=True)
    process.start()
    process.join(seconds)
    if process.exitcode is not None:
        return FAILED if process.exitcode else DONE
    process.terminate()
    process.join(GRACE)
    process.kill()
    process.join()
    return CUT


def _alone(work: Callable[..., int], args: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    raise SystemExit(work(*args))


def _end_with_parent() -> None:
    """Stops this process when the one that wants its work has been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
