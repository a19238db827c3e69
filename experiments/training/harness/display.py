"""What a person sees of a run: a panel on a terminal, a line per evaluation in a log."""

import math
from types import TracebackType
from typing import Self

from rich import live
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.judging.scores import SCORES
from experiments.training.harness.contents import Record
from experiments.training.harness.pace import Pace

# On a wide terminal numbers would stand too far apart to be read as one group.
WIDTH = 100
UNKNOWN = "\N{EN DASH}"


class Live:
    """Shows how far a run is, its numbers, and the time left. Use as a context manager:

        with Live(console, "CIFAR-10, ResNet-18, SAM", 78200, 391) as live:
            live.step(50, record)
            live.evaluated(record)
            live.finished("test accuracy 95.3%")

    Args:
      console: where to; without a terminal there are only lines.
      title: of the panel.
      total_steps: of the whole run.
      steps_per_epoch: the last epoch may have fewer.
      first_step: how many steps were made before, by a process that was stopped.
      metric: what evaluations are shown by, one of `experiments.judging.scores`.
      judged_on: what the examples are called that results are quoted on.
      quiet: shows nothing; for all processes but one.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        total_steps: int,
        steps_per_epoch: int,
        first_step: int = 0,
        *,
        metric: str = "accuracy",
        judged_on: str = "test",
        quiet: bool = False,
    ):
        self._console, self._title, self._quiet = console, title, quiet
        self._total, self._steps_per_epoch = total_steps, steps_per_epoch
        self._step = first_step
        self._metric = metric
        # Purpose in the records -> as shown.
        self._parts = {"train": "train", "validation": "validation", "test": judged_on}
        self._pace = Pace(total_steps)
        self._train: Record = {}
        self._evaluation: Record = {}
        self._border = "blue"
        moves = console.is_terminal and not console.is_dumb_terminal
        self._live = live.Live(console=console, get_renderable=self._panel)
        self._has_panel = moves and not quiet

    def __enter__(self) -> Self:
        if self._has_panel:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del error, trace
        if kind is not None:
            self._border = "red"
        self._live.stop()

    def _say(self, text: str, style: str = "") -> None:
        if not self._quiet:
            # In a log file a line stays a line, however long.
            wraps = self._has_panel
            line = Text(text, style)
            self._console.print(line, highlight=False, soft_wrap=not wraps)

    def step(self, step: int, record: Record) -> None:
        """Shows that so many steps are made, and the means over the last ones."""
        self._step, self._train = step, record
        self._pace.reached(step)

    def evaluated(self, record: Record) -> None:
        """Shows what an evaluation found."""
        self._evaluation = record
        if not self._has_panel:
            self._say(self._line(record))

    def finished(self, text: str) -> None:
        """Leaves the panel as it is, and says the result."""
        self._border = "green"
        self._live.stop()
        self._say(text, "bold" if self._has_panel else "")

    def _line(self, record: Record) -> str:
        """All that is known, in one line of a log."""
        where = (
            f"epoch {record['epoch']:g}/{self._epochs()}, "
            f"step {record['step']}/{self._total}"
        )
        train = self._train
        known = [
            f"{name} {shown(train[key])}"
            for name, key in (("loss", "loss"), ("sharpness", "sharpness"))
            if train.get(key) is not None
        ]
        # Of percentages alone everybody takes that for granted.
        what = "" if self._metric == "accuracy" else f"{SCORES[self._metric].title} "
        known += [
            f"{name} {what}{percent(record[f'{part}_{self._metric}'])}"
            for part, name in self._parts.items()
            if part != "train" and record.get(f"{part}_{self._metric}") is not None
        ]
        if train.get("examples_per_second") is not None:
            known.append(f"{train['examples_per_second']:,.0f} examples/s")
        known += [left] if (left := self._pace.left()) else []
        return f"{where}: {', '.join(known)}"

    def _panel(self) -> RenderableType:
        width = min(WIDTH, self._console.width)
        parts = Group(self._far(), self._bar(), "", self._numbers())
        title = Text(self._title, "bold")
        return Panel(parts, title=title, border_style=self._border, width=width)

    def _far(self) -> Table:
        """How far the run is: the line above the bar."""
        line = Table.grid(expand=True)
        line.add_column()
        line.add_column(justify="right", style="dim")
        done = (
            f"epoch {self._epoch()}/{self._epochs()}, step {self._step:,}/{self._total:,}"
        )
        # Rounded down: 100% is said at the end only.
        left = f"{100 * self._step // self._total}%"
        if self._step < self._total:
            wait = "compiling" if not self._train else ""
            left = ", ".join(filter(None, (left, self._pace.left() or wait)))
        line.add_row(done, left)
        return line

    def _bar(self) -> ProgressBar:
        return ProgressBar(total=self._total, completed=self._step)

    def _numbers(self) -> Table:
        """The last means of training, and below them what was found last."""
        train, evaluation = self._train, self._evaluation
        speed = train.get("examples_per_second")
        grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
        for _ in range(5):
            grid.add_column(ratio=1, overflow="fold")
        names = ("loss", "sharpness", "gradient norm", "learning rate", "examples/s")
        grid.add_row(*names, style="dim")
        keys = ("loss", "sharpness", "gradient_norm", "learning_rate")
        values = [_finite(train.get(key)) for key in keys]
        grid.add_row(*values, UNKNOWN if speed is None else f"{speed:,.0f}", style="bold")
        grid.add_row()
        epoch = f"epoch {evaluation['epoch']:g}" if evaluation else ""
        grid.add_row(SCORES[self._metric].title, *self._parts.values(), style="dim")
        keys = (f"{part}_{self._metric}" for part in self._parts)
        found = (percent(evaluation.get(key)) for key in keys)
        grid.add_row(Text(epoch, "not bold"), *found, style="bold")
        return grid

    def _epoch(self) -> int:
        """The epoch that the run is in, or that it has just finished."""
        return max(1, math.ceil(self._step / self._steps_per_epoch))

    def _epochs(self) -> int:
        return math.ceil(self._total / self._steps_per_epoch)


def shown(value: float | None) -> str:
    """A number of any size in few characters; a dash where there is none."""
    if value is None:
        return UNKNOWN
    if value and math.isfinite(value) and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.1e}"
    if value == 0:
        return "0"
    # With zeros at the end, so that a number keeps its width as it changes.
    return f"{value:#.{4 if abs(value) >= 1 else 3}g}".rstrip(".")


def percent(value: float | None) -> str:
    """A fraction in percent; a dash where there is none."""
    return UNKNOWN if value is None else f"{value:.1%}"


def _finite(value: float | None) -> Text:
    """A number, in red if the run has diverged."""
    diverged = value is not None and not math.isfinite(value)
    return Text(shown(value), "red" if diverged else "")
