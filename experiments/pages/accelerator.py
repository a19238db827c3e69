"""What an accelerator was asked for, as tables for the terminal and for a page."""

from collections.abc import Sequence

from experiments.costs.accelerator.contents import (
    Accelerator,
    Decision,
    Largest,
    Piece,
    Trainings,
)
from experiments.costs.benchmark.contenders import CONTENDERS
from experiments.costs.benchmark.contents import Step
from experiments.pages import benchmarks
from experiments.results import markdown

Table = tuple[str, Sequence[str], list[tuple[str, ...]]]

NOTHING = "n/a"


def tables(content: Accelerator) -> list[Table]:
    """Title, headers and rows of all that there is by now."""
    made = (
        _costs(content["benchmark"]),
        _memory(content["benchmark"]),
        _keep(content["keep"]),
        _largest(content["largest"]),
        _training(content["training"]),
    )
    return [table for table in made if table is not None]


def block(content: Accelerator, folder: str) -> str:
    """All of it as Markdown."""
    del folder
    parts = []
    for title, headers, rows in tables(content):
        parts += [f"{title}:", markdown.table(headers, rows)]
    decided = recommendation(content["keep"])
    return "\n\n".join([*parts, *([decided] if decided else []), benchmarks.how(content)])


def recommendation(found: Decision | None) -> str:
    """Which `keep` to have by default; "" where too little is known."""
    if found is None:
        return ""
    best, default = found["recommended"], found["default"]
    what = (
        f"stays {_typed(default)}"
        if best == default
        else f"should be {_typed(best)} here, not {_typed(default)}"
    )
    return (
        f"The default of keep {what}: of {', '.join(map(_typed, found['keeps']))} its "
        f"time is least over {len(found['models'])} models, or as good as least with less "
        f"memory."
    )


def _typed(keep: str) -> str:
    return keep if keep.isdecimal() else f'"{keep}"'


def _costs(contents: Sequence[Piece]) -> Table | None:
    if not contents:
        return None
    headers, rows = benchmarks.overview(contents)
    return f"Steps in {contents[0]['settings']['dtype']}", headers, rows


def _memory(contents: Sequence[Piece]) -> Table | None:
    if not contents:
        return None
    found = [benchmarks.by_method(content) for content in contents]
    headers = ("MB (memory / SGD)", *(benchmarks.short(content) for content in contents))
    rows = [
        (CONTENDERS[name].label, *(_megabytes(cases.get(name)) for cases in found))
        for name in CONTENDERS
        if any(name in cases for cases in found)
    ]
    return "Temporary memory of a step", headers, rows


def _megabytes(case: Step | None) -> str:
    if case is None or case["temporary_bytes"] is None or case["temporary_vs_sgd"] is None:
        return NOTHING
    return f"{case['temporary_bytes'] / 1e6:,.0f} ({case['temporary_vs_sgd']:.2f})"


def _keep(found: Decision | None) -> Table | None:
    if found is None:
        return None
    rows = [
        (_typed(keep), f"{mean['time']:.3f}", f"{mean['memory']:.3f}")
        for keep, mean in found["keeps"].items()
    ]
    title = f"K-SAM by keep, geometric mean over {', '.join(found['models'])}"
    return title, ("keep", "time / SGD", "memory / SGD"), rows


def _largest(found: Largest | None) -> Table | None:
    if found is None:
        return None
    rows = [(label, f"{n:,}") for label, n in found["largest_batch"].items()]
    memory = f"{found['model']}, {found['limit_mib']:,} MiB"
    return "Largest batch, by doubling", (memory, "largest batch"), rows


def _training(found: Trainings | None) -> Table | None:
    if found is None:
        return None
    runs = found["runs"].values()
    data = next((run["judged_on"] for run in runs if run["judged_on"]), "training")
    rows = [
        (run["label"], _number(run["seconds_per_epoch"], ".2f"), _number(run["accuracy"]))
        for run in runs
    ]
    headers = (f"{data}, {found['epochs']} epochs", "s per epoch", "accuracy")
    return "Training", headers, rows


def _number(value: float | None, form: str = ".2%") -> str:
    return NOTHING if value is None else f"{value:{form}}"
