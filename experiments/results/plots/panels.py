"""Panels of one size beside and below each other, with room for titles above."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.results.plots import style

# Of a panel's title: below what is written above, and below another panel.
ABOVE, BETWEEN = 0.2, 0.6


class Grid(NamedTuple):
    """Where panels are; all sizes in inches.

    Attributes:
      panels: how many.
      columns: at most so many in a row.
      height: of a panel; None: as wide as it is.
      left, right, bottom: around the panels.
      beside: between two in a row.
      most: how wide a panel is at most.
    """

    panels: int
    columns: int
    height: float | None
    left: float
    right: float
    bottom: float
    beside: float
    most: float


class Panel(NamedTuple):
    """Axes, and whether they are the first of their row, and the lowest of their column."""

    axes: Axes
    is_first: bool
    is_lowest: bool


def panels(grid: Grid, note: str, width: float = 11) -> tuple[Figure, list[Panel]]:
    """An empty picture of so many panels, from the upper left to the right.

    Args:
      grid: where they are.
      note: what is to be written below the heading.
      width: of the picture in inches; its height follows.
    """
    rows = math.ceil(grid.panels / grid.columns)
    columns = math.ceil(grid.panels / rows)
    wide = (width - grid.left - grid.right + grid.beside) / columns - grid.beside
    wide = min(wide, grid.most)
    high = grid.height or wide
    head = style.head(note) + ABOVE
    height = head + rows * (high + BETWEEN) - BETWEEN + grid.bottom
    figure = style.figure(width, height)

    def made() -> Iterator[Panel]:
        for number in range(grid.panels):
            row, column = divmod(number, columns)
            left = grid.left + column * (wide + grid.beside)
            bottom = height - head - high - row * (high + BETWEEN)
            box = left / width, bottom / height, wide / width, high / height
            axes = figure.add_axes(box)
            yield Panel(axes, not column, number + columns >= grid.panels)

    return figure, list(made())
