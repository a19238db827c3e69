"""Comparisons at several shares of wrong labels, as one table."""

from collections.abc import Mapping, Sequence

from experiments.results import records, report
from experiments.results.contents import Comparison, Entry

# K-SAM with and without skipping; and against what else one would do, skipping and the
# default k.
PAIRS = (
    ("k_sam_skip_eighth", "k_sam"),
    ("k_sam_skip_quarter", "k_sam"),
    ("k_sam_half_skip_quarter", "k_sam_half"),
    ("k_sam_skip_eighth", "sgd"),
    ("k_sam_skip_eighth", "sam"),
    ("k_sam_following", "sgd"),
    ("k_sam_following", "sam"),
    ("k_momentum_following", "sgd"),
)


def headers(contents: Sequence[Comparison]) -> tuple[str, ...]:
    """A column for each comparison."""
    return ("test accuracy %", *(percent(content) for content in contents))


def rows(contents: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """A row for each method that all comparisons have."""
    first, *others = contents
    return [
        (entry["label"], *(_accuracy(content, name) for content in contents))
        for name, entry in first["methods"].items()
        if all(name in content["methods"] for content in others)
    ]


def difference_rows(contents: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """Of each pair that all comparisons have, the difference."""
    return [
        (
            f"{_label(contents, method)}, minus {_label(contents, other)}",
            *(_difference(content["methods"], method, other) for content in contents),
        )
        for method, other in PAIRS
        if all({method, other} <= content["methods"].keys() for content in contents)
    ]


def _label(contents: Sequence[Comparison], name: str) -> str:
    return contents[0]["methods"][name]["label"]


def _difference(methods: Mapping[str, Entry], method: str, other: str) -> str:
    found = records.difference(methods[method]["runs"], methods[other]["runs"])
    if found is None:
        return "n/a"
    low, high = report.points(found["low"]), report.points(found["high"])
    return f"{report.points(found['mean'])} ({low} to {high})"


def note(contents: Sequence[Comparison]) -> str:
    """What was trained, and what the numbers are."""
    first = contents[0]
    return (
        f"{report.title(first)}. Test accuracy: {report.accuracy_note(first)}. A wrong "
        f"label is another class drawn at random; validation and test labels are right, "
        f"and each share of wrong labels has its own search of hyperparameters."
    )


def percent(content: Comparison) -> str:
    """The share of wrong labels."""
    return f"{content['config']['label_noise']:.0%} wrong"


def _accuracy(content: Comparison, name: str) -> str:
    return report.accuracy(content["methods"][name]["summary"])
