"""Sharpness over training: one curve for each run."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from experiments.results.plots import lines, style
from experiments.results.plots.lines import Curve

TITLE = "Sharpness over training"
AXIS = "sharpness: rise of the mean training loss"


def sharpness_over_training(
    curves: Sequence[Curve], path: Path, *, title: str = TITLE, note: str = ""
) -> None:
    """Writes a PNG: the same measure of sharpness for all, against epochs.

    Args:
      curves: of the runs; `at` in epochs.
      path: where to write.
      title: the heading.
      note: lines below it: of what, and what the measure is.
    """
    figure, axes = lines.beside_names(note)
    style.frame(axes, "epoch", AXIS)
    last = max(curve.at[-1] for curve in curves)
    axes.set_xlim(0, last)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=last > 2))
    lines.scale(axes, *lines.limits(curves))
    lines.draw(axes, curves)
    lines.name(axes, curves)
    style.titles(figure, title, note)
    style.save(figure, path)
