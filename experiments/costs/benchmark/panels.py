"""What both pictures of the benchmark have in common: panels, legend, titles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.costs.benchmark.contents import Benchmark

TEXT, GRID = "#222222", "#E5E5E5"
WIDE = 3


def label_x(axes: Axes, values: Sequence[float], words: Any) -> None:
    """Ticks at these values, each in words."""
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, i: words(values[i or 0])))
    axes.xaxis.set_minor_locator(NullLocator())


def panels(number: int) -> tuple[Figure, list[Axes]]:
    """So many panels, and room for the legend beside or below them."""
    columns = min(number, WIDE)
    rows = -(-number // columns)
    figure = Figure(figsize=(max(10.0, 4.6 * columns), 2.0 + 3.9 * rows), dpi=140)
    height = figure.get_figheight()
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.065 if columns > 1 else 0.1,
        right=0.985 if columns > 1 else 0.6,
        top=1 - 1.5 / height,
        bottom=(1.35 if _is_legend_below(number) else 0.75) / height,
        hspace=0.36,
        wspace=0.2,
    )
    panels = list(grid.flat)
    for axes in panels[number:]:
        axes.set_visible(False)
    return figure, panels


def _is_legend_below(number: int) -> bool:
    return (number > 1 and number % WIDE == 0) or number == 2


def legend(figure: Figure, number: int, handles: list[Line2D]) -> None:
    """Where so many panels leave room for it."""
    if _is_legend_below(number):
        figure.legend(
            handles=handles, loc="lower center", ncols=3, fontsize=12, frameon=False
        )
        return
    # In the place of the panel that the last row lacks.
    figure.legend(
        handles=handles,
        loc="center",
        bbox_to_anchor=(0.8, 0.5) if number == 1 else (0.84, 0.26),
        fontsize=13,
        frameon=False,
        labelspacing=0.9,
    )


def write_titles(figure: Figure, title: str, about: str, content: Benchmark) -> None:
    """What is shown, and on what machine it was measured."""
    machine, settings = content["machine"], content["settings"]
    where = (
        f"{machine['cores']} cores, {machine['cpu']}"
        if machine["backend"] == "cpu"
        else machine["device"]
    )
    jax = content["versions"]["jax"]
    height = figure.get_figheight()
    figure.text(0.02, 1 - 0.44 / height, title, fontsize=19, fontweight="bold", color=TEXT)
    figure.text(
        0.02,
        1 - 0.58 / height,
        f"{about}\n{where}; JAX {jax}; {settings['dtype']}; {content['date']}",
        fontsize=12.5,
        color="#555555",
        linespacing=1.4,
        va="top",
    )


def frame(axes: Axes, title: str) -> None:
    """A panel's title and its grid."""
    axes.set_title(title, fontsize=13, loc="left", color=TEXT)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=12, colors=TEXT)


def save(figure: Figure, path: Path) -> None:
    """Writes the picture; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


# Never a window: this runs on servers, and in tests.
matplotlib.use("agg")
