"""What growth.json has."""

from typing import TypedDict

from experiments.costs.benchmark.contents import Spread
from experiments.shell.formats import Format, Made


class Step(TypedDict):
    """A method's step: counted by XLA, of one device, and timed."""

    operations: float
    bytes_moved: float
    temporary_bytes: int | None
    seconds: Spread
    time_vs_sgd: Spread


class Case(TypedDict):
    """One model on one batch and so many devices; see `experiments.costs.growth.plan`."""

    model: str
    millions: float
    batch: int
    devices: int
    title: str
    parameters: int
    steps: dict[str, Step]


class Growth(Made):
    """The cases that there are by now; `complete` if these are all that were asked for."""

    complete: bool
    seconds: float
    digest: str
    settings: dict[str, int | float]
    cases: list[Case]


GROWTH = Format("results of experiments.growth", Growth, version=1, remedy="run it again")
