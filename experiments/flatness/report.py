"""Measured flatness as tables, from the content of the results.

Rows are plain strings, so that the terminal and the page show the same figures.
"""

import math

from experiments.flatness.contents import Flatness, Rank
from experiments.results import report
from experiments.results.contents import Entry, Spread

RANKS = (
    "rank correlation of",
    "with test accuracy",
    "the same, means of the methods",
    "with training loss",
)


def headers(content: Flatness) -> tuple[str, ...]:
    """Names of the columns, with the power of ten that their values are in units of."""
    exponents = _exponents(content)
    titles = (
        measure["title"] + (f" / 10^{exponents[name]}" if exponents[name] else "")
        for name, measure in content["measures"].items()
    )
    return ("method", "test accuracy %", *titles)


def rows(content: Flatness) -> list[tuple[str, ...]]:
    """One row of cells per method: mean ± standard deviation over seeds."""
    exponents = _exponents(content)
    return [
        (
            entry["label"],
            report.accuracy(entry["summary"]),
            *(_cell(_spread(entry, name), exponents[name]) for name in exponents),
        )
        for entry in content["methods"].values()
    ]


def _spread(entry: Entry, name: str) -> Spread:
    # Every entry of these results has them.
    return entry["summary"].get("measures", {})[name]


def _exponents(content: Flatness) -> dict[str, int]:
    """Of each column the power of a thousand that spares small values their zeros."""
    entries = content["methods"].values()
    return {
        name: _exponent([_spread(entry, name)["mean"] or 0.0 for entry in entries])
        for name in content["measures"]
    }


def _exponent(means: list[float]) -> int:
    largest = max(map(abs, means))
    return 3 * math.floor(math.log10(largest) / 3) if 0 < largest < 0.01 else 0


def _cell(spread: Spread, exponent: int) -> str:
    mean, std = spread["mean"], spread["std"]
    if mean is None:
        return "n/a"
    digits = _digits(mean / 10**exponent)
    margin = "" if std is None else f" ± {std / 10**exponent:.{digits}f}"
    return f"{mean / 10**exponent:.{digits}f}{margin}"


def _digits(value: float) -> int:
    """Decimals for three figures of the value."""
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0


def rank_rows(content: Flatness) -> list[tuple[str, ...]]:
    """Of each measure, its rank correlations with test accuracy and training loss."""
    return [
        (content["measures"][name]["title"], *map(_rank, found.values()))
        for name, found in content["correlations"].items()
    ]


def _rank(found: Rank) -> str:
    if found["spearman"] is None:
        return "n/a"
    return f"{found['spearman']:+.2f} (n = {found['n']})"


def notes(content: Flatness) -> list[str]:
    """What a reader of the tables needs to know."""
    meanings = (f"{m['title']}: {m['meaning']}" for m in content["measures"].values())
    return [
        f"All columns: {report.accuracy_note(content)}.",
        "All but the accuracy is measured on the training examples, at the last weights; "
        f"rises and the Hessian are those of the mean loss. {'; '.join(meanings)}.",
        _error_note(content),
        "Below: Spearman's rank correlations. Replicas of one method are alike, so n of "
        "them are less evidence than n independent ones.",
        *content["notes"],
    ]


def _error_note(content: Flatness) -> str:
    """How far off the trace is, whose error is that of a sample."""
    relative = [
        error / abs(mean)
        for entry in content["methods"].values()
        for trace in [_spread(entry, "trace")]
        if (mean := trace["mean"]) and (error := trace["error"]) is not None
    ]
    if not relative:
        return "No trace is known."
    bounds = dict.fromkeys(f"{bound(relative):.0%}" for bound in (min, max))
    return f"Of a single replica's trace the standard error is {' to '.join(bounds)} of it."
