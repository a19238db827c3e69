"""Live progress on a terminal, plain lines anywhere else."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

COMPILING = "compiling"


def console() -> Console:
    """The terminal; where there is none, lines wide enough for the tables."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


class Display:
    """Shows what is being trained, how far it is, how accurate, and the time left.

    On a terminal a bar moves at the bottom and finished parts scroll by above it; else
    there is one line per finished part. Use as a context manager:

        with Display(console, parts=9) as display:
            display.begin("SAM", steps=60)
            display.advance(1, accuracy=0.91)
            display.end("validation 96.1%")
    """

    def __init__(self, console: Console, parts: int):
        self._console = console
        self._parts = parts
        self._done = 0
        self._title = ""
        self._steps = 1
        self._began = self._started = time.monotonic()
        self.live = console.is_terminal
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TextColumn("{task.fields[accuracy]}"),
            TextColumn("[dim]{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not self.live,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del kind, error, trace
        self._bar.stop()

    def begin(self, title: str, steps: int) -> None:
        """Starts the next part, which has so many steps."""
        self._title, self._steps = title, max(1, steps)
        self._began = time.monotonic()
        self._task = self._bar.add_task(
            f"{self._counter()} {title}",
            total=self._steps,
            accuracy=COMPILING,
            left=self._left(0),
        )

    def advance(self, steps: int, accuracy: float | None = None) -> None:
        """Moves on by so many steps, and shows the accuracy if there is a new one."""
        if self._task is None:
            return
        self._bar.advance(self._task, steps)
        if not self.live:
            return
        done = self._bar.tasks[-1].completed / self._steps
        shown: dict[str, Any] = {}
        if accuracy is not None:
            shown["accuracy"] = f"validation {accuracy:.1%}"
        elif self._bar.tasks[-1].fields["accuracy"] == COMPILING:
            shown["accuracy"] = ""
        self._bar.update(self._task, left=self._left(done), **shown)

    def end(self, result: str) -> None:
        """Finishes the part with a line about its result."""
        seconds = time.monotonic() - self._began
        line = f"{self._counter()} {self._title}: {result}, {seconds:.1f} s"
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self._done += 1
        left = self._left(0)
        line += f", {left}" if left else ""
        # In a log file a line stays a line, however long.
        self._console.print(line, highlight=False, soft_wrap=not self.live)

    def _counter(self) -> str:
        width = len(str(self._parts))
        return f"\\[{self._done + 1:>{width}}/{self._parts}]"

    def _left(self, part: float) -> str:
        """How long the rest takes if it goes on as so far; "" while nobody knows."""
        done = self._done + part
        if not done or done >= self._parts:
            return ""
        spent = time.monotonic() - self._started
        seconds = spent * (self._parts - done) / done
        return f"about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """Rounded, in the unit that a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
