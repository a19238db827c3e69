"""What a step of the largest models takes, as tables, for docs/large.md."""

import itertools
from collections.abc import Sequence
from typing import Literal

from experiments.costs.full_size import FullSize, Step
from experiments.pages.benchmarks import how
from experiments.results.markdown import table

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
GIB = 2**30


def tables(content: FullSize) -> list[Table]:
    """Title, headers and rows of each model."""
    # Those of one model are neighbours, or it has several tables.
    groups = itertools.groupby(content["configs"].values(), _title)
    return [_table(title, list(entries)) for title, entries in groups]


def block(content: FullSize, folder: str) -> str:
    """The tables as Markdown, and how they were made."""
    del folder
    parts = [
        f"**{title}**\n\n{table(headers, rows)}" for title, headers, rows in tables(content)
    ]
    return "\n\n".join((*parts, _note(content), how(content)))


def _title(entry: Step) -> str:
    experiment = entry["of"]["experiment"]
    return (
        f"{entry['dataset']}, {entry['model']}, {entry['parameters'] / 1e6:.1f} million "
        f"parameters: a batch of {experiment['batch_size']:,}, "
        f"{entry['batch_per_device']:,} per device, {experiment['dtype']}"
    )


def _table(title: str, entries: Sequence[Step]) -> Table:
    baseline = next((entry for entry in entries if entry["is_baseline"]), None)
    against = f" / {baseline['method']}" if baseline else ""
    headers = (
        "per device",
        "operations, 10^12",
        "in forward passes",
        *((f"operations{against}",) if baseline else ()),
        "temporary memory, GiB",
        *((f"temporary{against}",) if baseline else ()),
        "weights and state, GiB",
    )
    return title, headers, [_row(entry, baseline) for entry in entries]


def _row(entry: Step, baseline: Step | None) -> tuple[str, ...]:
    def ratio(name: Literal["operations", "temporary_bytes"]) -> tuple[str, ...]:
        return (f"{entry[name] / baseline[name]:.2f}",) if baseline else ()

    return (
        entry["method"],
        f"{entry['operations'] / 1e12:.3g}",
        f"{passes(entry):.2f}",
        *ratio("operations"),
        f"{entry['temporary_bytes'] / GIB:.3g}",
        *ratio("temporary_bytes"),
        f"{entry['state_bytes'] / GIB:.3g}",
    )


def passes(entry: Step) -> float:
    """Forward passes of the device's examples that have as many operations."""
    return entry["operations"] / (entry["forward_operations"] * entry["batch_per_device"])


def _note(content: FullSize) -> str:
    seconds = [entry["seconds"] for entry in content["configs"].values()]
    traced, compiled = max(s["trace"] for s in seconds), max(s["compile"] for s in seconds)
    return (
        f"Counted in XLA's program for {content['devices']} virtual CPU devices, not "
        f"measured. A forward pass is counted as it was traced. Tracing took at most "
        f"{traced:.0f} s and compiling {compiled:.0f} s for a step, on a busy machine."
    )
