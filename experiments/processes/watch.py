"""Last words: why a process of several ended, even if it was killed.

JAX's coordination service ends a process from C++ (abort, status -6) when another one is
lost, and Python never hears of it. So a child process holds the line that would have to
be printed now, and prints it when this process is gone without having taken it back.
"""

import contextlib
import os
import subprocess
import sys
from types import TracebackType
from typing import NoReturn, Self

import jax

# Prints the last line it was sent, once nobody can send another one.
CHILD = "import sys; *_, last = ['', *sys.stdin]; sys.stderr.write(last.strip() and last)"

# What XLA says when it can't reach another process; all else is this process's own fault.
LOST_SIGNS = ("gloo", "nccl", "heartbeat", "coordination", "connection", "socket closed")
LOST_CODES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")


class Watch:
    """What a process of several says when it ends, kept up to date while it trains.

    Use as a context manager; leaving it waits for the other processes. If one of them is
    lost, the process ends here.
    """

    def __init__(self, again: str):
        self._again = again
        self._name, self._last = "this process", "before the first step"
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            # Ctrl-C is for this process; the child ends by itself.
            start_new_session=True,
        )

    def starting(self, until: str) -> None:
        """Takes note that this process waits until the others are there."""
        self._say_if_ended(f"error: {self._name} ended before {until}. {self._again}")

    def started(self, name: str) -> None:
        """Takes note that all processes are there, and that this one is called so."""
        self._name = name
        self._say_if_ended(
            f"error: {self._name} ended {self._last}: it was killed, or another process "
            f"was lost (then JAX's message is above). {self._again}"
        )

    def done(self, step: int) -> None:
        """Takes note that this step, counted from 1, is done."""
        self._last = f"after step {step}"
        self.started(self._name)

    def close(self) -> None:
        """Takes the last words back: the process goes on, or says itself why not."""
        self._say_if_ended("")
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del kind, trace
        if error is not None and is_loss(error):
            self._lost(error)
        if error is None:
            # Waits for the others: whoever ends first would look lost to them.
            jax.distributed.shutdown()
        self.close()

    def _lost(self, error: BaseException) -> NoReturn:
        reason = str(error).splitlines()[0]
        # Said by the child alone: JAX may abort this process in the middle of a line.
        self._say_if_ended(
            f"error: {self._name} stopped {self._last}, because another process was lost "
            f"({reason}). {self._again}"
        )
        self._end()
        leave(1)

    def _say_if_ended(self, words: str) -> None:
        # If somebody has killed the child, training goes on without.
        with contextlib.suppress(BrokenPipeError):
            self._pipe.write(words + "\n")
            self._pipe.flush()

    def _end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()
        self._child.wait(timeout=10)

    @property
    def _pipe(self):
        assert self._child.stdin is not None
        return self._child.stdin


class Alone:
    """The watch of the only process, which has nothing to fear."""

    def done(self, step: int) -> None:
        """Takes note of nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def is_loss(error: BaseException) -> bool:
    """Whether XLA failed because another process is gone."""
    if not isinstance(error, jax.errors.JaxRuntimeError):
        return False
    text = str(error)
    return text.startswith(LOST_CODES) or any(x in text.lower() for x in LOST_SIGNS)


def leave(status: int) -> NoReturn:
    """Ends the process at once.

    On Python's usual way out JAX would wait for the other processes, which may be waiting
    for this one; when it is gone, they notice.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
