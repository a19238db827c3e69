"""The benchmark as pictures: time against k, and memory against the batch size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.costs.benchmark import report
from experiments.costs.benchmark.contenders import CONTENDERS
from experiments.methods import METHODS

Content = Mapping[str, Any]

# In the picture against k; ESAM's and random-subset SAM's shares mean something else.
BY_K = {
    name: contender.cost.line
    for name, contender in CONTENDERS.items()
    if contender.cost.share is not None and contender.cost.share_name == "k"
}
BY_BATCH = {"sgd": "s", "sam": "o", "k_sam": "D"}
TEXT, GREY, GRID = "#222222", "#666666", "#E5E5E5"
WIDE = 3


def ratio_against_k(contents: Sequence[Content], path: Path) -> bool:
    """One panel per model: predicted ratios as lines, measured ones as points.

    Args:
      contents: of the models' JSON files; those without a sweep are left out.
      path: where to write a PNG.

    Returns:
      Whether there was anything to draw.
    """
    contents = [content for content in contents if _swept(content)]
    if not contents:
        return False
    figure, panels = _panels(len(contents))
    for axes, content in zip(panels, contents, strict=False):
        _draw_ratios(axes, content)
    for axes in panels[: len(contents)][::WIDE]:
        axes.set_ylabel("time of a step / SGD's", fontsize=13)
    shown = [name for name in BY_K if any(name in _swept(c) for c in contents)]
    _write_titles(
        figure,
        "What a training step costs, against the share k of the batch",
        "Points: measured, median and quartiles. Lines: predicted by counting passes.",
        contents[0],
    )
    _legend(figure, len(contents), [*map(_by_k_handle, shown), *_reference_handles()])
    _save(figure, path)
    return True


def memory_against_batch(contents: Sequence[Content], path: Path) -> bool:
    """One panel per model: temporary memory of SGD's, SAM's and K-SAM's steps.

    Args:
      contents: of the models' JSON files; those without a sweep are left out.
      path: where to write a PNG.

    Returns:
      Whether there was anything to draw.
    """
    contents = [content for content in contents if report.groups(content, "memory")]
    if not contents:
        return False
    figure, panels = _panels(len(contents))
    for axes, content in zip(panels, contents, strict=False):
        _draw_memory(axes, content)
    for axes in panels[: len(contents)][::WIDE]:
        axes.set_ylabel("temporary memory, MB", fontsize=13)
    _write_titles(
        figure,
        "How much memory a training step needs, against the batch size",
        "XLA's memory analysis: temporary buffers, besides weights and optimizer state.",
        contents[0],
    )
    (group,) = report.groups(contents[0], "memory")
    measured = {case["method"] for case in group["cases"]}
    handles = [_memory_handle(name) for name in BY_BATCH if name in measured]
    _legend(figure, len(contents), handles)
    _save(figure, path)
    return True


def _swept(content: Content) -> dict[str, list[Content]]:
    """The cases of each method of BY_K that was measured with several shares."""
    found = report.swept_cases(report.groups(content, "methods")[0])
    return {name: found[name] for name in BY_K if name in found}


def _draw_ratios(axes: Axes, content: Content) -> None:
    swept = _swept(content)
    axes.axhline(1, color=TEXT, lw=1.8, zorder=2)
    best = _best_sub_batch(content)
    if best is not None and best < 0.99:
        axes.axhline(best, color=GREY, lw=1.4, ls=(0, (1, 1.5)), zorder=2)
    for i, (name, cases) in enumerate(swept.items()):
        _draw_method(axes, name, cases, 0.016 * (i - (len(swept) - 1) / 2))
    shares = sorted({case["share"] for cases in swept.values() for case in cases})
    axes.set_xlim(0.0, 1.06)
    _label_x(axes, shares, report.fraction)
    axes.set_xlabel("k", fontsize=13)
    axes.set_ylim(0, max(2.5, axes.get_ylim()[1]))
    workload = content["workload"]
    _frame(axes, f"{workload['title']}, batch {workload['batch_size']}")


def _draw_method(axes: Axes, name: str, cases: Sequence[Content], shift: float) -> None:
    """Draws predictions, and measurements moved aside so that none covers another."""
    marker, style = BY_K[name]
    colour = CONTENDERS[name].cost.colour
    shares = [case["share"] for case in cases]
    predicted = [case["predicted_vs_sgd"] for case in cases]
    axes.plot(shares, predicted, style, color=colour, lw=1.6, alpha=0.75, zorder=3)
    timed = [case for case in cases if case["time_vs_sgd"] is not None]
    spreads = [case["time_vs_sgd"] for case in timed]
    axes.errorbar(
        [case["share"] + shift for case in timed],
        [s["median"] for s in spreads],
        yerr=[
            [s["median"] - s["lower_quartile"] for s in spreads],
            [s["upper_quartile"] - s["median"] for s in spreads],
        ],
        color=colour,
        marker=marker,
        markersize=8,
        markeredgecolor="white",
        markeredgewidth=0.8,
        elinewidth=1.6,
        capsize=3,
        ls="none",
        zorder=4,
    )


def _best_sub_batch(content: Content) -> float | None:
    """SGD's time at its best sub-batch, as a fraction of that at the whole batch."""
    group = report.groups(content, "methods")[0]
    sgd = report.default_cases(group)[0]["time_vs_best_sub_batch"]
    return None if sgd is None else 1 / sgd["median"]


def _draw_memory(axes: Axes, content: Content) -> None:
    (group,) = report.groups(content, "memory")
    for name, marker in BY_BATCH.items():
        cases = [
            case
            for case in group["cases"]
            if case["method"] == name and case["temporary_bytes"]
        ]
        axes.plot(
            [case["batch"] for case in cases],
            [case["temporary_bytes"] / 1e6 for case in cases],
            color=CONTENDERS[name].cost.colour,
            marker=marker,
            markersize=8,
            lw=2,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _label_x(axes, sorted({case["batch"] for case in group["cases"]}), str)
    axes.set_xlabel("batch size", fontsize=13)
    _frame(axes, content["workload"]["title"])


def _label_x(axes: Axes, values: Sequence[float], words: Any) -> None:
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, i: words(values[i or 0])))
    axes.xaxis.set_minor_locator(NullLocator())


def _by_k_handle(name: str) -> Line2D:
    marker, style = BY_K[name]
    contender = CONTENDERS[name]
    return Line2D(
        [],
        [],
        color=contender.cost.colour,
        marker=marker,
        ls=style,
        lw=1.6,
        markersize=9,
        label=contender.label,
    )


def _reference_handles() -> list[Line2D]:
    best = "SGD on sub-batches\nof its best size"
    return [
        Line2D([], [], color=TEXT, lw=1.8, label="SGD"),
        Line2D([], [], color=GREY, lw=1.4, ls=(0, (1, 1.5)), label=best),
    ]


def _memory_handle(name: str) -> Line2D:
    label = METHODS[name].label
    colour = CONTENDERS[name].cost.colour
    return Line2D(
        [], [], color=colour, marker=BY_BATCH[name], lw=2, markersize=9, label=label
    )


def _panels(number: int) -> tuple[Figure, list[Axes]]:
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


def _legend(figure: Figure, number: int, handles: list[Line2D]) -> None:
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


def _write_titles(figure: Figure, title: str, about: str, content: Content) -> None:
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


def _frame(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=13, loc="left", color=TEXT)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=12, colors=TEXT)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


# Never a window: this runs on servers, and in tests.
matplotlib.use("agg")
