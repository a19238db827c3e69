"""The loss along a line through each solution, all side by side in one picture."""

from collections.abc import Sequence
from pathlib import Path

from experiments.results.plots import lines, style
from experiments.results.plots.lines import Curve

TITLE = "Training loss around the solutions"
AXIS = "distance from the solution, in units of its own filters' norms"


def loss_slice(
    curves: Sequence[Curve], path: Path, *, title: str = TITLE, note: str = ""
) -> None:
    """Writes a PNG: loss against the distance along a filter-normalized direction.

    Args:
      curves: of the solutions; `at` from -radius to radius, a band over directions or
        seeds.
      path: where to write.
      title: the heading.
      note: lines below it: of what, and over what the bands are.
    """
    figure, axes = lines.beside_names(note)
    style.frame(axes, AXIS, "mean training loss")
    axes.set_xlim(curves[0].at[0], curves[0].at[-1])
    axes.axvline(0, color=style.GREY, lw=1.2, ls=style.DASHES, zorder=1)
    lines.scale(axes, *lines.limits(curves))
    lines.draw(axes, curves)
    lines.name(axes, curves)
    style.titles(figure, title, note)
    style.save(figure, path)
