"""How well the gradient of a batch's hardest examples points along the whole batch's."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from experiments.methods.palette import BLUE, VERMILLION
from experiments.results.plots import style
from experiments.results.plots.panels import Grid, panels

TITLE = "Gradient of a part of the batch, against that of the whole batch"
AXES = "k, share of the batch", "cosine of the two gradients"
DOTS = (0, (1, 1.2))
COLUMNS = 3
HARDEST = {"color": VERMILLION, "marker": "D", "label": "highest losses"}
RANDOM = {"color": BLUE, "marker": "o", "ls": (0, (5, 2)), "label": "random examples"}


class Aligned(NamedTuple):
    """Cosines at one solution; see `ksam_jax.sharpness.gradient_alignment`.

    Attributes:
      label: what the panel is called.
      ks: shares of the batch, ascending: (K,).
      hardest: of the gradient of the k examples with the highest losses with the whole
        batch's, for each batch: (B, K).
      random: the same of k random examples.
      recommended: the share to take.
      least: the mean cosine that it reaches.
    """

    label: str
    ks: Sequence[float]
    hardest: Float[np.ndarray, "B K"]
    random: Float[np.ndarray, "B K"]
    recommended: float
    least: float


def alignment(
    solutions: Sequence[Aligned], path: Path, *, title: str = TITLE, note: str = ""
) -> None:
    """Writes a PNG: one panel per solution, medians over batches, bands from 10% to 90%.

    Args:
      solutions: one panel each.
      path: where to write.
      title: the heading.
      note: lines below it.
    """
    high = 4.3 if len(solutions) <= COLUMNS else 2.8
    grid = Grid(len(solutions), COLUMNS, high, 0.85, 0.3, 0.7, beside=0.3, most=7)
    figure, every = panels(grid, note)
    lowest = min(np.quantile(each.random, 0.1, axis=0).min() for each in solutions)
    for number, (panel, solution) in enumerate(zip(every, solutions, strict=True)):
        axes, is_first, is_lowest = panel
        style.frame(axes, AXES[0] * is_lowest, AXES[1] * is_first)
        axes.set_title(solution.label, fontsize=12, color=style.TEXT, loc="left")
        axes.set_ylim(min(0.0, lowest - 0.03), 1.04)
        axes.tick_params(labelleft=is_first)
        _draw(axes, solution)
        if not number:
            axes.legend(loc="lower right", fontsize=12, framealpha=0.85, edgecolor="none")
    style.titles(figure, title, note)
    style.save(figure, path)


def _draw(axes: Axes, solution: Aligned) -> None:
    _shares(axes, solution.ks, solution.recommended)
    _cosines(axes, solution.ks, solution.random, RANDOM)
    _cosines(axes, solution.ks, solution.hardest, HARDEST)
    axes.axhline(solution.least, color=style.GREY, lw=1.2, ls=style.DASHES, zorder=1)
    axes.axvline(solution.recommended, color=style.TEXT, lw=1.8, ls=DOTS, zorder=1)


def _cosines(
    axes: Axes, ks: Sequence[float], cosines: Float[np.ndarray, "B K"], look: Any
) -> None:
    low, middle, high = np.quantile(cosines, (0.1, 0.5, 0.9), axis=0)
    axes.fill_between(ks, low, high, color=look["color"], alpha=0.15, lw=0)
    marks = {"ms": 8, "mec": "white", "mew": 0.7}
    axes.plot(ks, middle, lw=2.2, clip_on=False, zorder=3, **marks, **look)


def _shares(axes: Axes, ks: Sequence[float], recommended: float) -> None:
    """A log axis with the shares as fractions, the recommended one in bold."""
    axes.set_xscale("log")
    axes.set_xlim(ks[0] / 1.12, ks[-1] * 1.12)
    axes.xaxis.set_major_locator(FixedLocator(list(ks)))
    axes.xaxis.set_minor_locator(NullLocator())
    texts = [str(Fraction(k).limit_denominator(64)) for k in ks]
    for k, label in zip(ks, axes.set_xticklabels(texts), strict=True):
        label.set_fontweight("bold" if k == recommended else "normal")
