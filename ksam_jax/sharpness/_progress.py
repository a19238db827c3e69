"""A bar for measures that take long: on a terminal or in a notebook, never in a log."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

# (batches done, batches in all or None) -> anything.
Told = Callable[[int, int | None], Any]


@contextlib.contextmanager
def shown(title: str, total: int | None, progress: bool | Told) -> Iterator[Callable]:
    """Yields what is to be called after each batch.

    Args:
      title: of the bar.
      total: batches in all; None where nobody knows.
      progress: True for a bar, False for nothing, or a function that is told.
    """
    if not isinstance(progress, bool):
        yield _telling(progress, total)
        return
    console = Console(stderr=True)
    is_live = progress and (console.is_terminal or console.is_jupyter)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total} batches"),
        TimeRemainingColumn(),
    )
    # Several processes measure together, and one of them speaks.
    hidden = not is_live or jax.process_index() != 0
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def _telling(progress: Told, total: int | None) -> Callable[[], None]:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return advance
