"""Two builds beside each other, as tables for the terminal."""

from collections.abc import Mapping

from rich.console import Console

from experiments.costs.baseline.builds import BASELINE, NEW
from experiments.costs.baseline.contents import Beside, Pair
from experiments.costs.benchmark import report

FIRST = ("method", "share", "keep")
NEW_TO_BASELINE = (*FIRST, "ms", "time", "oper.", "memory", "trace and compile")
TO_SGD = (*FIRST, "\ntime", "new, baseline:\nmemory", "\ntrace and compile")
ON_A_PAGE = (
    *("method", "ms", "time", "operations", "memory", "trace and compile"),
    *("time / SGD: new, old", "memory / SGD", "trace and compile / SGD"),
)
NOTES = (
    "new / baseline: of the same step in the same rounds, each build in a process of its "
    "own; the median of the rounds' ratios, the quartiles in brackets.",
    "operations and temporary memory: XLA's analysis of the whole compiled step. trace and "
    "compile: each time without what earlier ones have cached.",
    "/ SGD: against SGD's step in the same build and the same rounds.",
)


def show(content: Beside, console: Console) -> None:
    """Prints the tables of one model."""
    console.print(f"\n[bold]{title(content)}[/bold]", highlight=False)
    for name, headers, row in (
        ("new / baseline", NEW_TO_BASELINE, _to_baseline),
        ("/ SGD", TO_SGD, _to_sgd),
    ):
        rows = [(*_first(case), *row(case)) for case in content["cases"]]
        console.print(report.table(name, headers, rows))


def rows(content: Beside) -> list[tuple[str, ...]]:
    """All of it in one table: new against old, and each against SGD."""
    return [
        (case["label"], *_to_baseline(case), *_to_sgd(case)) for case in content["cases"]
    ]


def title(content: Beside) -> str:
    """The model and the two commits."""
    builds = content["builds"]
    return (
        f"{report.title(content)}: {builds[NEW][:12]}{_dirty(builds[NEW])} against "
        f"{builds[BASELINE][:12]}"
    )


def _dirty(commit: str) -> str:
    return " with changes" if commit.endswith("-dirty") else ""


def _first(case: Pair) -> tuple[str, ...]:
    return case["label"], report.share_in_words(case), case["keep"] or ""


def _to_baseline(case: Pair) -> tuple[str, ...]:
    seconds = case[NEW]["seconds"]
    return (
        report.number(seconds and 1e3 * seconds["median"], ".3g"),
        report.ratio(case["time"]),
        report.number(case["operations"], ".3f"),
        report.number(case["temporary"], ".2f"),
        report.ratio(case["compile"]),
    )


def _to_sgd(case: Pair) -> tuple[str, ...]:
    names = ("time_vs_sgd", "temporary_vs_sgd", "compile_vs_sgd")
    return tuple(_both(case, name) for name in names)


def _both(case: Pair, name: str) -> str:
    found = (case[build][name] for build in (NEW, BASELINE))
    values = (each["median"] if isinstance(each, Mapping) else each for each in found)
    return ", ".join(report.number(value, ".2f") for value in values)
