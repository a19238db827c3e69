"""What a model's JSON of the benchmark beside an older commit has."""

from typing import TypedDict

from experiments.costs.benchmark.contents import About, Case, Spread
from experiments.shell.formats import Format, Made


class Build(TypedDict):
    """A step of one build; None where there was too little memory, or no analysis."""

    seconds: Spread | None
    time_vs_sgd: Spread | None
    operations: float | None
    operations_vs_sgd: float | None
    temporary_bytes: int | None
    temporary_vs_sgd: float | None
    compile_seconds: Spread | None
    compile_vs_sgd: Spread | None


class Pair(Case):
    """New by baseline, and each of them."""

    time: Spread | None
    operations: float | None
    temporary: float | None
    compile: Spread | None
    new: Build
    baseline: Build


class Beside(About, Made):
    """Of one model. The builds are commits, by NEW and BASELINE."""

    builds: dict[str, str]
    compiles: int
    seconds: float
    cases: list[Pair]


BASELINES = Format(
    "results of the benchmark beside a baseline",
    Beside,
    version=1,
    remedy="run experiments.benchmark --baseline again",
)
