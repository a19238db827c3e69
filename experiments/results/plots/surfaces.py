"""The loss over a plane around each solution: one panel each, all on one scale."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator

from experiments.results.plots import maps, style
from experiments.results.plots.panels import Grid, panels

TITLE = "Training loss around the solutions, in two directions"
AXIS = "distance, filters' norms"


class Surface(NamedTuple):
    """The loss around one solution.

    Attributes:
      label: what the panel is called.
      at: distances along both directions, ascending: (n,).
      losses: (n, n), the second direction first; NaN where there is none.
    """

    label: str
    at: Float[np.ndarray, " n"]
    losses: Float[np.ndarray, "n n"]


def loss_surface(
    surfaces: Sequence[Surface], path: Path, *, title: str = TITLE, note: str = ""
) -> None:
    """Writes a PNG: maps with the same levels, colours and axes.

    Args:
      surfaces: of the solutions.
      path: where to write.
      title: the heading.
      note: lines below it.
    """
    grid = Grid(len(surfaces), 4, None, 0.8, 1.35, 0.65, beside=0.22, most=4.6)
    figure, every = panels(grid, note)
    levels = maps.levels([surface.losses for surface in surfaces])
    drawn = None
    for (axes, is_first, is_lowest), surface in zip(every, surfaces, strict=True):
        drawn = maps.draw(axes, surface.at, surface.at, surface.losses, levels)
        axes.plot(0, 0, "+", color="white", ms=13, mew=2.2)
        axes.set_title(surface.label, fontsize=12, color=style.TEXT, loc="left")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4, prune="both"))
        axes.tick_params(labelleft=is_first, labelbottom=is_lowest)
        axes.set_ylabel(AXIS if is_first else "", fontsize=12)
        axes.set_xlabel(AXIS if is_lowest else "", fontsize=12)
    assert drawn is not None
    maps.bar(figure, [axes for axes, *_ in every], drawn)
    style.titles(figure, title, note)
    style.save(figure, path)
