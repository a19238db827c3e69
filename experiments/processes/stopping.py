"""Being told to stop: finish the step, save, and go."""

import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

from experiments.processes import distributed
from experiments.processes.watch import Alone, Watch
from experiments.shell.cli import RunError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(RunError):
    """The run was told to stop; everything is saved."""

    label = ""

    def __init__(self, number: int, step: int):
        self.signal = signal.Signals(number)
        # As shells have it: not 0, since a scheduler would take the run for finished.
        self.status = 128 + number
        super().__init__(
            f"stopped by {self.signal.name} after step {step}; it is saved, and the same "
            f"command goes on from there"
        )


def stoppable(options: distributed.Options, work: Callable[[Watch | Alone], object]) -> int:
    """Does the work in all processes, and returns the exit status.

    Args:
      options: which process this is.
      work: what to do; it is given who wants to know of each step.
    """
    again = "Start all processes again with the same command: it goes on."
    with distributed.start(options, again, preemption=True) as watch:
        try:
            work(watch)
        # Caught here, since all processes get here and may wait for each other.
        except StoppedError as stop:
            print(stop, file=sys.stderr)
            return stop.status
    return 0


class Signals:
    """Remembers SIGTERM (preemption) and SIGINT (Ctrl-C) instead of dying of them.

    Use as a context manager, in the main thread. A second Ctrl-C is Python's own.
    """

    def __init__(self):
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Of several processes any may be told, and all must stop after the same step: JAX
        # makes them agree, and catches SIGTERM for that (`distributed.start`).
        self._is_alone = jax.process_count() == 1
        for number in SIGNALS if self._is_alone else ():
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del kind, error, trace
        for number, before in self._before.items():
            signal.signal(number, before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    def received(self, step: int) -> int | None:
        """The signal after which to stop behind this step; the same in all processes."""
        if self._is_alone:
            return self._received
        told = multihost_utils.reached_preemption_sync_point(step)
        return int(signal.SIGTERM) if told else None
