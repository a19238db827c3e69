"""A race: accuracy on held-out examples against time."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from experiments.results.plots import lines, panels, style
from experiments.results.plots.lines import Curve

# Panels that can be read on a telephone: few, and the picture isn't wide.
NARROW = 7.2
TOGETHER = panels.Grid(
    4, columns=2, height=1.55, left=0.6, right=0.15, bottom=1.5, beside=0.55, most=4.0
)


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
    figure, axes = lines.beside_names(note, curves)
    style.frame(axes, f"share of {curves[0].label}'s time", y)
    _run(axes, curves)
    lines.name(axes, curves)
    style.titles(figure, title, note)
    style.save(figure, path)


def together(
    races: Sequence[tuple[str, Sequence[Curve]]],
    path: Path,
    *,
    title: str,
    note: str,
    source: str,
) -> None:
    """Writes a PNG of races beside each other, with the names below.

    Args:
      races: of each its heading and its curves, as in `race`, the same methods in each.
      path: where to write.
      title: the heading.
      note: lines below it.
      source: of what it is made: see `style.save`.
    """
    grid = TOGETHER._replace(panels=len(races))
    figure, frames = panels.panels(grid, note, NARROW)
    for panel, (heading, curves) in zip(frames, races, strict=True):
        style.frame(panel.axes)
        _run(panel.axes, curves)
        panel.axes.set_title(heading, fontsize=12, loc="left", color=style.TEXT)
    names = ["plain optimizer", *(curve.label for curve in races[0][1][1:])]
    handles = frames[0].axes.get_lines()[-len(names) :]
    below = 0.93 / figure.get_figheight()
    figure.supxlabel("share of the plain optimizer's time", fontsize=12, y=below)
    figure.legend(handles, names, loc="lower center", fontsize=12, frameon=False)
    style.titles(figure, title, note)
    style.save(figure, path, source)


def _run(axes: Axes, curves: Sequence[Curve]) -> None:
    """Lines, and where the baseline ends."""
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
