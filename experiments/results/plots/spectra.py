"""The Hessian's spectrum at each solution."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.results.plots import lines, style
from experiments.results.plots.lines import Curve

TITLE = "Spectrum of the Hessian at the solutions"
AXES = "eigenvalue of the Hessian", "share of all eigenvalues, per unit"
# So far below the highest density the picture ends.
DECADES = 7


def spectrum(
    curves: Sequence[Curve], path: Path, *, title: str = TITLE, note: str = ""
) -> None:
    """Writes a PNG: density of eigenvalues on a log scale.

    Args:
      curves: of the solutions, all with the same `at`, eigenvalues; values and bands are
        densities.
      path: where to write.
      title: the heading.
      note: lines below it: of what, and over what the bands are.
    """
    figure, axes = lines.beside_names(note)
    style.frame(axes, *AXES)
    _, high = lines.limits(curves)
    floor = high * 10.0**-DECADES
    axes.set_yscale("log")
    axes.set_ylim(floor, 2 * high)
    axes.set_xlim(curves[0].at[0], curves[0].at[-1])
    axes.axvline(0, color=style.GREY, lw=1.2, ls=style.DASHES, zorder=1)
    shown = [_above(curve, floor) for curve in curves]
    lines.draw(axes, shown)
    # All of them end below the picture.
    lines.name(axes, shown, at_ends=False)
    style.titles(figure, title, note)
    style.save(figure, path)


def _above(curve: Curve, floor: float) -> Curve:
    """The same without what is below the picture: a log scale has no zero."""
    values = np.where(curve.values > floor, curve.values, np.nan)
    low = None if curve.low is None else np.maximum(curve.low, floor)
    high = None if curve.high is None else np.maximum(curve.high, floor)
    return curve._replace(values=values, low=low, high=high)
