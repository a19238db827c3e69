"""How fast batches come beside the step that takes them, as a table."""

from typing import TypedDict

from experiments.results.contents import Quartiles
from experiments.shell.formats import Format, Made

HEADERS = ("config", "pipeline, examples/s", "step, examples/s", "times")


class Speed(TypedDict):
    """Of a config: examples per second, and the ratio of both."""

    pipeline: float
    step: float
    times: Quartiles
    rounds: int
    batch_size: int


class Speeds(Made):
    """By config."""

    configs: dict[str, Speed]


SPEEDS = Format(
    "speeds of the input pipeline",
    Speeds,
    version=1,
    remedy="run experiments.throughput again",
)


def table(content: Speeds) -> list[tuple[str, ...]]:
    """One row of cells per config, under HEADERS."""
    return [
        (
            name,
            f"{entry['pipeline']:,.0f}",
            f"{entry['step']:,.0f}",
            f"{entry['times']['median']:.0f} "
            f"[{entry['times']['lower_quartile']:.0f}, "
            f"{entry['times']['upper_quartile']:.0f}]",
        )
        for name, entry in content["configs"].items()
    ]
