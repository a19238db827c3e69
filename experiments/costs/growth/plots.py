"""The picture of growth: seconds of a step, and its time against SGD's."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from experiments.configs.growth import FAMILIES
from experiments.costs.benchmark.panels import GRID, TEXT
from experiments.costs.growth.breakeven import FIELDS, Sweep, sweeps
from experiments.costs.growth.contents import Growth
from experiments.costs.growth.measuring import METHODS
from experiments.methods import without_share
from experiments.methods.palette import BLUE, GREEN, VERMILLION

COLOURS = dict(zip(FAMILIES, (BLUE, VERMILLION, GREEN), strict=True))
# Of each method: line and marker.
STYLES = dict(zip(METHODS, ((":", "s"), ("-", "D"), ("--", "o")), strict=True))


def draw(content: Growth, path: Path) -> None:
    """Three columns: against parameters, batch and devices."""
    figure = Figure(figsize=(13, 8), layout="constrained", dpi=140)
    panels = figure.subplots(2, len(FIELDS), sharey="row", squeeze=False)
    for name, colour in COLOURS.items():
        for column, sweep in zip(panels.T, sweeps(content, name).values(), strict=True):
            if sweep.cases:
                _draw(column[0], column[1], sweep, colour)
    for column, words in zip(panels.T, FIELDS.values(), strict=True):
        if column[0].lines:
            _frame(column[0], column[1], words)
    panels[0][0].set_ylabel("seconds of a step")
    panels[1][0].set_ylabel("time of a step / SGD's")
    machine = content["machine"]
    figure.suptitle(
        f"A step of SGD, K-SAM and K-Momentum-SAM (k = 1/4): median and quartiles\n"
        f"{machine['cores']} cores, {machine['cpu']}; JAX {content['versions']['jax']}; "
        f"{content['date']}",
        fontsize=13,
    )
    handles = [
        *(
            _handle(FAMILIES[name].title, colour=colour)
            for name, colour in COLOURS.items()
            if any(case["model"] == name for case in content["cases"])
        ),
        *(_handle(without_share(m), *style) for m, style in STYLES.items()),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path)


def _handle(
    label: str, style: str = "-", marker: str = "", colour: str = "#666666"
) -> Line2D:
    return Line2D([], [], color=colour, ls=style, marker=marker, lw=2, label=label)


def _draw(above: Axes, below: Axes, sweep: Sweep, colour: str) -> None:
    for method, (style, marker) in STYLES.items():
        for axes, what in ((above, "seconds"), (below, "time_vs_sgd")):
            if axes is below and method == "sgd":
                continue
            found = [case["steps"][method][what] for case in sweep.cases]
            middle = [each["median"] for each in found]
            low = [each["median"] - each["lower_quartile"] for each in found]
            high = [each["upper_quartile"] - each["median"] for each in found]
            axes.errorbar(
                sweep.values,
                middle,
                yerr=[low, high],
                color=colour,
                ls=style,
                marker=marker,
                markersize=5,
                lw=1.6,
                capsize=2,
            )


def _frame(above: Axes, below: Axes, words: str) -> None:
    above.set_yscale("log")
    below.axhline(1, color=TEXT, lw=1.6)
    below.set_ylim(bottom=0)
    below.set_xlabel(words)
    for axes in (above, below):
        axes.set_xscale("log", base=10 if words == "parameters" else 2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(color=GRID)
        axes.spines[["top", "right"]].set_visible(False)


def _short(number: float) -> str:
    return f"{number / 1e6:g}M" if number >= 1e6 else f"{number:g}"
