"""What a model's JSON of the benchmark has."""

from typing import NotRequired, TypedDict

from experiments.shell.files import Machine
from experiments.shell.formats import Format, Made, Versioned


class Spread(TypedDict):
    """Of n rounds."""

    n: int
    median: float
    lower_quartile: float
    upper_quartile: float


class Case(TypedDict):
    """See `experiments.costs.benchmark.plan`."""

    method: str
    share: float | None
    keep: str | None
    batch: int
    label: str


class Step(Case):
    """What was found of a case: None where memory was too little, or nothing was timed."""

    predicted_vs_sgd: float
    operations: float | None
    operations_vs_sgd: float | None
    temporary_bytes: int | None
    temporary_vs_sgd: float | None
    lower_seconds: float
    compile_seconds: float
    seconds: Spread | None
    time_vs_sgd: Spread | None
    time_vs_best_sub_batch: Spread | None


class SubBatch(TypedDict):
    """The size at which SGD's time per example is least."""

    batch: int
    sgd_seconds_per_example: float


class Steps(TypedDict):
    """Cases that are compared with each other; see `experiments.costs.benchmark.plan`."""

    name: str
    batch: int | None
    cases: list[Step]
    best_sub_batch: NotRequired[SubBatch]


class Model(TypedDict):
    """See `experiments.configs.benchmark.Workload`."""

    name: str
    title: str
    shape: list[int]
    classes: int
    batch_size: int
    vocabulary: int | None
    swept: list[str]
    timing_seconds: float


class Settings(TypedDict):
    """The command's options."""

    methods: list[str]
    keeps: list[str]
    dtype: str
    rounds: int
    sweep: bool


class About(Versioned):
    """Of one model, and what it was measured on; the digest tells states of the library."""

    machine: Machine
    versions: dict[str, str]
    workload: Model
    settings: Settings
    digest: str
    parameters: int


class Measured(About):
    """All that its tables show."""

    groups: list[Steps]


class Benchmark(Measured, Made):
    """With how it was made."""

    seconds: float


BENCHMARK = Format(
    "results of the benchmark",
    Benchmark,
    version=1,
    remedy="run experiments.benchmark again",
)


class LargestBatch(Made):
    """Of each method, the largest batch within so much memory; None: the device's."""

    model: str
    limit_mib: int | None
    largest_batch: dict[str, int]


LARGEST_BATCH = Format(
    "results of experiments.largest_batch", LargestBatch, version=1, remedy="run it again"
)
