"""Two tables to choose a method by: what each costs, and what it gave."""

from collections import Counter
from collections.abc import Sequence

from experiments.costs.benchmark import report
from experiments.costs.benchmark.contents import Benchmark
from experiments.methods import METHODS, from_known_to_ours
from experiments.methods.method import Words
from experiments.pages import benchmarks
from experiments.results import records
from experiments.results.contents import Bounds, Comparison
from experiments.results.markdown import table
from experiments.results.report import made_on

UNKNOWN = "n/a"

# Measured as a share of its method, not as a method.
HALF = "k_sam_half"


def costs(*models: Benchmark, folder: str) -> str:
    """Time of a step on benchmarked models."""
    del folder
    headers = (
        "method",
        "climbs on",
        "descends on",
        *(f"time: {benchmarks.short(content)}" for content in models),
    )
    rows = [
        (*words, *(_time(content, name) for content in models))
        for name, words in _worded()
        if METHODS[name].cost is not None or name == HALF
    ]
    note = (
        f"Time of a training step, SGD's = 1, on two CPU cores, `{models[0]['command']}`. "
        f"{made_on(models[0])}."
    )
    return f"{table(headers, rows, words=3)}\n\n{note}"


def gains(*data: Comparison, folder: str, at_sgd: int) -> str:
    """Differences from SGD in test accuracy.

    Args:
      data: of each data set.
      folder: of pictures, of which there are none.
      at_sgd: how many of them, which come first, are at SGD's settings; the others have
        a search of their own.
    """
    del folder
    data_sets = [(c["dataset"]["title"], c["dataset"]["train"]) for c in data]
    # Of some there are parts of several sizes.
    parts = Counter(title for title, _ in set(data_sets))
    named = [f"{name} ({n:,})" if parts[name] > 1 else name for name, n in data_sets]
    headers = (
        "method",
        *(f"{name}, at SGD's settings" for name in named[:at_sgd]),
        *(f"{name}, own search" for name in named[at_sgd:]),
    )
    rows = [
        (words.typed, *(_gain(content, name) for content in data))
        for name, words in _worded()
    ]
    return f"{table(headers, rows)}\n\n{_note(data)}"


def _worded() -> list[tuple[str, Words]]:
    """The methods to choose from."""
    return [(name, row.words) for name, row in from_known_to_ours().items() if row.words]


def _time(content: Benchmark, name: str) -> str:
    if name == HALF:
        (group,) = report.groups(content, "methods")
        case = report.swept_cases(group)["k_sam"][0.5]
    else:
        case = benchmarks.by_method(content)[name]
    time = case["time_vs_sgd"]
    return UNKNOWN if time is None else f"{time['median']:.2f}"


def _gain(content: Comparison, name: str) -> str:
    found = _difference(content, name)
    if found is None or found["low"] is None or found["high"] is None:
        return UNKNOWN
    mean, margin = 100 * found["mean"], 50 * (found["high"] - found["low"])
    return f"{mean:+.2f} ± {margin:.2f}"


def _difference(content: Comparison, name: str) -> Bounds | None:
    runs = {key: entry["runs"] for key, entry in content["methods"].items()}
    return records.difference(runs[name], runs["sgd"]) if name in runs else None


def _note(data: Sequence[Comparison]) -> str:
    each = "; ".join(
        f"{content['dataset']['title']}: {content['dataset']['train']:,} training images, "
        f"{_pairs(content)}, `{content['command']}`, {content['date']}"
        for content in data
    )
    return (
        "Points of test accuracy minus SGD's, with the 95% interval of the paired "
        f"difference; {UNKNOWN}: not measured. At SGD's settings: its learning rate and "
        "weight decay for all, and each method's default radius. Own search: "
        "hyperparameters chosen for each method by the same search on validation data. "
        f"{each}."
    )


def _pairs(content: Comparison) -> str:
    method = next(name for name in content["methods"] if name != "sgd")
    found = _difference(content, method)
    if found is None:
        return "no pairs"
    seeds = content["methods"][method]["summary"]["seeds"]
    each = f" of {seeds} seeds" if found["over"] == "splits" else " of one split"
    return f"paired over {found['n']} {found['over']}{each}"
