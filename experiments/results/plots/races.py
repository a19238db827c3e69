"""A race: accuracy on held-out examples against time."""

from collections.abc import Sequence
from pathlib import Path

from experiments.results.plots import lines, style
from experiments.results.plots.lines import Curve


def race(curves: Sequence[Curve], path: Path, *, title: str, note: str, y: str) -> None:
    """Writes a PNG.

    Args:
      curves: of the methods; `at` in shares of the baseline's time, the baseline first.
        A line at the height of its end shows who is there before it.
      path: where to write.
      title: the heading.
      note: lines below it.
      y: what is drawn.
    """
    figure, axes = lines.beside_names(note)
    style.frame(axes, f"share of {curves[0].label}'s time", y)
    axes.set_xlim(0, max(float(curve.at[-1]) for curve in curves))
    goal = float(curves[0].values[-1])
    low, high = lines.limits(curves)
    # What is slow in coming up from a guess would press the rest together.
    low = max(low, goal - 3 * (high - goal) - 0.2 * (goal - low))
    room = 0.05 * (high - low)
    axes.set_ylim(low - room, high + room)
    axes.axhline(goal, color=style.GREY, lw=1.2, ls=style.DASHES, zorder=1)
    axes.axvline(1, color=style.GREY, lw=1.2, ls=style.DASHES, zorder=1)
    lines.draw(axes, curves)
    for line in axes.lines:
        line.set_clip_on(True)
    lines.name(axes, curves)
    style.titles(figure, title, note)
    style.save(figure, path)
