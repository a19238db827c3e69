"""The benchmark as pictures: time against k, and memory against the batch size."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from experiments.costs.benchmark import panels, report
from experiments.costs.benchmark.contenders import CONTENDERS, USUAL
from experiments.costs.benchmark.contents import Benchmark, Step
from experiments.methods import METHODS

# In the picture against k; ESAM's and random-subset SAM's shares mean something else.
BY_K = {
    name: contender.cost.line
    for name, contender in USUAL.items()
    if contender.cost.share is not None and contender.cost.share_name == "k"
}
BY_BATCH = {"sgd": "s", "sam": "o", "k_sam": "D"}
GREY = "#666666"


def ratio_against_k(contents: Sequence[Benchmark], path: Path) -> bool:
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
    figure, found = panels.panels(len(contents))
    for axes, content in zip(found, contents, strict=False):
        _draw_ratios(axes, content)
    for axes in found[: len(contents)][:: panels.WIDE]:
        axes.set_ylabel("time of a step / SGD's", fontsize=13)
    shown = [name for name in BY_K if any(name in _swept(c) for c in contents)]
    panels.write_titles(
        figure,
        "What a training step costs, against the share k of the batch",
        "Points: measured, median and quartiles. Lines: predicted by counting passes.",
        contents[0],
    )
    panels.legend(figure, len(contents), [*map(_by_k_handle, shown), *_reference_handles()])
    panels.save(figure, path)
    return True


def memory_against_batch(contents: Sequence[Benchmark], path: Path) -> bool:
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
    figure, found = panels.panels(len(contents))
    for axes, content in zip(found, contents, strict=False):
        _draw_memory(axes, content)
    for axes in found[: len(contents)][:: panels.WIDE]:
        axes.set_ylabel("temporary memory, MB", fontsize=13)
    panels.write_titles(
        figure,
        "How much memory a training step needs, against the batch size",
        "XLA's memory analysis: temporary buffers, besides weights and optimizer state.",
        contents[0],
    )
    (group,) = report.groups(contents[0], "memory")
    measured = {case["method"] for case in group["cases"]}
    handles = [_memory_handle(name) for name in BY_BATCH if name in measured]
    panels.legend(figure, len(contents), handles)
    panels.save(figure, path)
    return True


def _swept(content: Benchmark) -> dict[str, dict[float, Step]]:
    """The cases of each method of BY_K that was measured with several shares."""
    found = report.swept_cases(report.groups(content, "methods")[0])
    return {name: found[name] for name in BY_K if name in found}


def _draw_ratios(axes: Axes, content: Benchmark) -> None:
    swept = _swept(content)
    axes.axhline(1, color=panels.TEXT, lw=1.8, zorder=2)
    best = _best_sub_batch(content)
    if best is not None and best < 0.99:
        axes.axhline(best, color=GREY, lw=1.4, ls=(0, (1, 1.5)), zorder=2)
    for i, (name, cases) in enumerate(swept.items()):
        _draw_method(axes, name, cases, 0.016 * (i - (len(swept) - 1) / 2))
    shares = sorted({share for cases in swept.values() for share in cases})
    axes.set_xlim(0.0, 1.06)
    panels.label_x(axes, shares, report.fraction)
    axes.set_xlabel("k", fontsize=13)
    axes.set_ylim(0, max(2.5, axes.get_ylim()[1]))
    workload = content["workload"]
    panels.frame(axes, f"{workload['title']}, batch {workload['batch_size']}")


def _draw_method(axes: Axes, name: str, cases: Mapping[float, Step], shift: float) -> None:
    """Draws predictions, and measurements moved aside so that none covers another."""
    marker, style = BY_K[name]
    colour = CONTENDERS[name].colour
    predicted = [case["predicted_vs_sgd"] for case in cases.values()]
    axes.plot(list(cases), predicted, style, color=colour, lw=1.6, alpha=0.75, zorder=3)
    timed = {
        share: spread
        for share, case in cases.items()
        if (spread := case["time_vs_sgd"]) is not None
    }
    spreads = timed.values()
    axes.errorbar(
        [share + shift for share in timed],
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


def _best_sub_batch(content: Benchmark) -> float | None:
    """SGD's time at its best sub-batch, as a fraction of that at the whole batch."""
    group = report.groups(content, "methods")[0]
    sgd = report.default_cases(group)[0]["time_vs_best_sub_batch"]
    return None if sgd is None else 1 / sgd["median"]


def _draw_memory(axes: Axes, content: Benchmark) -> None:
    (group,) = report.groups(content, "memory")
    for name, marker in BY_BATCH.items():
        megabytes = {
            case["batch"]: found / 1e6
            for case in group["cases"]
            if case["method"] == name and (found := case["temporary_bytes"])
        }
        axes.plot(
            list(megabytes),
            list(megabytes.values()),
            color=CONTENDERS[name].colour,
            marker=marker,
            markersize=8,
            lw=2,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panels.label_x(axes, sorted({case["batch"] for case in group["cases"]}), str)
    axes.set_xlabel("batch size", fontsize=13)
    panels.frame(axes, content["workload"]["title"])


def _by_k_handle(name: str) -> Line2D:
    marker, style = BY_K[name]
    contender = CONTENDERS[name]
    return Line2D(
        [],
        [],
        color=contender.colour,
        marker=marker,
        ls=style,
        lw=1.6,
        markersize=9,
        label=contender.label,
    )


def _reference_handles() -> list[Line2D]:
    best = "SGD on sub-batches\nof its best size"
    return [
        Line2D([], [], color=panels.TEXT, lw=1.8, label="SGD"),
        Line2D([], [], color=GREY, lw=1.4, ls=(0, (1, 1.5)), label=best),
    ]


def _memory_handle(name: str) -> Line2D:
    label = METHODS[name].label
    colour = CONTENDERS[name].colour
    return Line2D(
        [], [], color=colour, marker=BY_BATCH[name], lw=2, markersize=9, label=label
    )
