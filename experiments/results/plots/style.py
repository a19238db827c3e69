"""The look that all pictures share."""

from pathlib import Path

import matplotlib
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TEXT, GREY, GRID = "#222222", "#666666", "#E5E5E5"
DASHES = (0, (4, 3))


def figure(width: float = 11, height: float = 6.6) -> Figure:
    """An empty picture, by default of a slide's proportions; sizes in inches."""
    return Figure(figsize=(width, height), dpi=150)


def frame(axes: Axes, x: str = "", y: str = "") -> None:
    """A light grid behind what is drawn, two spines, and what the axes are."""
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=11, colors=TEXT)
    axes.set_xlabel(x, fontsize=12)
    axes.set_ylabel(y, fontsize=12)


def titles(figure: Figure, title: str, note: str) -> None:
    """The heading and the lines below it, at the upper left."""
    # Inches from the top: the same in pictures of any height.
    inch = 1 / figure.get_figheight()
    figure.text(0.02, 1 - 0.36 * inch, title, fontsize=17, fontweight="bold", color=TEXT)
    figure.text(
        0.02,
        1 - 0.46 * inch,
        note,
        fontsize=11,
        color="#555555",
        linespacing=1.4,
        va="top",
    )


def below(figure: Figure, note: str) -> float:
    """How high a frame may reach below `titles`, from 0 to 1."""
    return 1 - head(note) / figure.get_figheight()


def head(note: str) -> float:
    """Inches that `titles` takes."""
    lines = note.count("\n") + 1
    return 0.62 + 0.215 * lines


def edge() -> list[patheffects.AbstractPathEffect]:
    """White around letters that stand on something."""
    return [patheffects.withStroke(linewidth=4, foreground="white")]


def save(figure: Figure, path: Path, source: str | None = None) -> None:
    """Writes a PNG, and the folder that it is in.

    Args:
      figure: what is drawn.
      path: where to write.
      source: what tells of which data it is made, kept in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata=source and {"Source": source})


# Never a window: this runs on servers, and in tests.
matplotlib.use("agg")
