"""One table to choose a method by: what each costs, and what it gave."""

from collections.abc import Sequence
from typing import Any

from experiments.costs.benchmark import report
from experiments.costs.benchmark.contents import Benchmark
from experiments.methods import from_known_to_ours
from experiments.pages import benchmarks
from experiments.results import records
from experiments.results.contents import Bounds, Comparison
from experiments.results.markdown import table
from experiments.results.report import made_on


def choose(*contents: Any, folder: str) -> str:
    """Costs on benchmarked models, and differences from SGD on data sets.

    Args:
      contents: of files of the benchmark, and of comparisons.
      folder: of pictures, of which there are none.
    """
    del folder
    costs: list[Benchmark] = [c for c in contents if "workload" in c]
    gains: list[Comparison] = [c for c in contents if "workload" not in c]
    headers = (
        "method",
        "climbs on",
        "descends on",
        *(f"time: {benchmarks.short(content)}" for content in costs),
        *(f"points: {content['dataset']['title']}" for content in gains),
    )
    rows = [
        (*row.words, *(_time(c, name) for c in costs), *(_gain(c, name) for c in gains))
        for name, row in from_known_to_ours().items()
        if row.words is not None
    ]
    return f"{table(headers, rows, words=3)}\n\n{_note(costs, gains)}"


def _time(content: Benchmark, name: str) -> str:
    # Its method with another share.
    if name == "k_sam_half":
        (group,) = report.groups(content, "methods")
        case = report.swept_cases(group)["k_sam"][0.5]
    else:
        case = benchmarks.by_method(content)[name]
    time = case["time_vs_sgd"]
    return "n/a" if time is None else f"{time['median']:.2f}"


def _gain(content: Comparison, name: str) -> str:
    found = _difference(content, name)
    if found is None or found["low"] is None or found["high"] is None:
        return "n/a"
    mean, margin = 100 * found["mean"], 50 * (found["high"] - found["low"])
    return f"{mean:+.2f} ± {margin:.2f}"


def _difference(content: Comparison, name: str) -> Bounds | None:
    runs = {key: entry["runs"] for key, entry in content["methods"].items()}
    return records.difference(runs[name], runs["sgd"])


def _note(costs: Sequence[Benchmark], gains: Sequence[Comparison]) -> str:
    data = "; ".join(
        f"{content['dataset']['title']}: {content['dataset']['train']:,} training images, "
        f"{_pairs(content)}, `{content['command']}`"
        for content in gains
    )
    return (
        f"Time: of a training step, SGD's = 1, on two CPU cores, "
        f"`{costs[0]['command']}`. Points of test accuracy minus SGD's, with the 95% "
        f"interval of the paired difference. {data}. Hyperparameters chosen for each "
        f"method by the same search on validation data. {made_on(costs[0])}."
    )


def _pairs(content: Comparison) -> str:
    found = _difference(content, "k_sam")
    if found is None:
        return "no pairs"
    seeds = content["methods"]["k_sam"]["summary"]["seeds"]
    each = f" of {seeds} seeds" if found["over"] == "splits" else " of one split"
    return f"paired over {found['n']} {found['over']}{each}"
