"""What results.json has, of a comparison and of a reproduced table."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict, cast

from experiments.shell.formats import Format, Made


class Timed(Made):
    """Results of one command, and how long it took.

    Attributes:
      seconds: of a reproduced table, of its training alone.
      search: where hyperparameters come from; a reproduced table's notes say it.
      table: of a reproduced table, its name.
    """

    seconds: float
    search: NotRequired[str]
    table: NotRequired[str]


class Data(TypedDict):
    """What was trained on, and how many examples were for what.

    Attributes:
      things: what they are; "images" where nothing is said.
      judged_on: what those are called that results are quoted on; likewise "test".
    """

    title: str
    train: int
    validation: int
    test: int
    name: NotRequired[str]
    source: NotRequired[str]
    things: NotRequired[str]
    judged_on: NotRequired[str]


class Quoted(TypedDict):
    """What is quoted: see `experiments.results.wording`."""

    dataset: Data
    metric: NotRequired[str]
    baseline: NotRequired[str]


class Setup(TypedDict):
    """How much was trained."""

    methods: list[str]
    seeds: int
    splits: int
    label_noise: float


class Protocol(TypedDict):
    """How it was trained; more is there under the settings' names.

    Attributes:
      pixels: how they are scaled, of images whose data set says so itself.
    """

    model: str
    epochs: int
    pixels: NotRequired[str]


class Interval(TypedDict):
    """Of what is quoted, as a fraction; None where there is too little to know."""

    mean: float | None
    std_over_seeds: float | None
    low: float | None
    high: float | None


class Slice(TypedDict):
    """The loss along a line through each seed's solution."""

    at: list[float]
    losses: list[list[float | None]]


class Values(TypedDict):
    """A measure of flatness of each seed's solution, and how far off it may be."""

    values: list[float | None]
    errors: list[float | None]


class Run(TypedDict):
    """A method on one split, a value for each seed; see `of_seeds` for what is quoted."""

    split: int
    hyperparameters: dict[str, float]
    train_loss: list[float | None]
    sharpness: list[float | None]
    seconds: float | list[float]
    chosen_on_split: NotRequired[int]
    seeds: NotRequired[list[int]]
    slice: NotRequired[Slice]
    measures: NotRequired[dict[str, Values]]


class Spread(TypedDict):
    """A measure of flatness over n seeds, and the mean error of one."""

    mean: float | None
    std: float | None
    n: int
    error: float | None


class Summary(TypedDict):
    """Over all seeds and splits; see `quoted` for what is quoted."""

    train_loss: float | None
    sharpness: float | None
    splits: int
    seeds: int
    measures: NotRequired[dict[str, Spread]]


class Quartiles(TypedDict):
    """Of the ratios of all rounds."""

    median: float
    lower_quartile: float
    upper_quartile: float


class StepCost(TypedDict):
    """Of one training step; see `against` for the ratios to the baseline's."""

    operations: float
    milliseconds: float


class Failure(TypedDict):
    """A run of a reproduced table that broke down."""

    seed: int
    message: str


class PublishedFigure(TypedDict):
    """See `experiments.configs.experiment.Published`."""

    accuracy: float
    spread: float | None
    seeds: int | None
    source: str


class Entry(TypedDict):
    """A method. Only a reproduced table's has what is behind the cost."""

    label: str
    summary: Summary
    runs: list[Run]
    cost: NotRequired[StepCost]
    config: NotRequired[str]
    failed: NotRequired[list[Failure]]
    published: NotRequired[PublishedFigure | None]


class Bounds(TypedDict):
    """A mean difference, its 95% interval, and what n it is paired over."""

    mean: float
    low: float | None
    high: float | None
    n: int
    over: str


class Difference(Bounds):
    """Between two methods."""

    method: str
    minus: str


class Table(Timed, Quoted):
    """Methods that were trained side by side."""

    complete: bool
    config: Setup
    protocol: Protocol
    notes: list[str]
    methods: dict[str, Entry]


class Comparison(Table):
    """With the paired differences between methods."""

    differences: list[Difference]


COMPARISON = Format(
    "results of a comparison",
    Comparison,
    version=1,
    remedy="run experiments.compare or experiments.reproduce again",
)


def quoted(summary: Summary, key: str) -> Interval:
    """What is quoted of a method, under such as "test_accuracy"."""
    return cast(Mapping[str, Any], summary)[key]


def of_seeds(run: Mapping[str, Any], key: str) -> Sequence[float | None]:
    """One value for each seed, under such as "test_accuracy"."""
    return run[key]


def against(cost: StepCost, baseline: str) -> tuple[float, Quartiles]:
    """Operations and time of a step, over the baseline's."""
    found = cast(Mapping[str, Any], cost)
    return found[f"operations_vs_{baseline}"], found[f"time_vs_{baseline}"]
