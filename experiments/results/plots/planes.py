"""The loss over the plane through three solutions."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from experiments.results.plots import maps, style
from experiments.results.plots.maps import Map

TITLE = "Training loss over the plane through three solutions"


class Solution(NamedTuple):
    """A point of the plane; colour and marker as in `experiments.methods.METHODS`."""

    label: str
    colour: str
    marker: str
    x: float
    y: float


def loss_plane(
    solutions: Sequence[Solution],
    xs: Float[np.ndarray, " w"],
    ys: Float[np.ndarray, " h"],
    losses: Float[np.ndarray, "h w"],
    path: Path,
    *,
    title: str = TITLE,
    note: str = "",
) -> None:
    """Writes a PNG: a map with the solutions marked and named.

    Args:
      solutions: the three.
      xs, ys: ascending, along orthonormal directions.
      losses: mean training loss at each point; NaN where there is none.
      path: where to write.
      title: the heading.
      note: lines below it.
    """
    figure = style.figure()
    left, bottom, right = 0.07, 0.1, 0.875
    size = right - left, style.below(figure, note) - bottom
    axes = figure.add_axes((left, bottom, *size), anchor="W")
    drawn = maps.draw(axes, xs, ys, losses, maps.levels([losses]))
    _solutions(axes, solutions, drawn)
    axes.set_xlabel("distance between weights, Euclidean norm", fontsize=12)
    axes.set_ylabel("distance between weights", fontsize=12)
    maps.bar(figure, [axes], drawn)
    style.titles(figure, title, note)
    style.save(figure, path)


def _solutions(axes: Axes, solutions: Sequence[Solution], drawn: Map) -> None:
    """Marks and names them; contours' values make way."""
    middle = sum(solution.y for solution in solutions) / len(solutions)
    names = [_solution(axes, each, above=each.y >= middle) for each in solutions]
    drawn.make_way([name.get_window_extent() for name in names])


def _solution(axes: Axes, solution: Solution, *, above: bool) -> Annotation:
    axes.plot(
        solution.x,
        solution.y,
        marker=solution.marker,
        color=solution.colour,
        ms=13,
        mec="white",
        mew=1.8,
    )
    return axes.annotate(
        solution.label,
        (solution.x, solution.y),
        xytext=(0, 12 if above else -12),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        fontsize=13,
        fontweight="bold",
        color=style.TEXT,
        path_effects=style.edge(),
    )
