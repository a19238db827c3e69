"""What the files in the folder of a run have."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast

from experiments.results.contents import Quoted
from experiments.shell.formats import Format, Made, Versioned

# A line of metrics.jsonl: numbers by name, those that there are.
Record = Mapping[str, Any]
# Of a loss that isn't finite, of what a method doesn't know, of a part without examples.
Number = float | None


class Settings(TypedDict):
    """What a run is of: a row's name, and an `Experiment` as it was changed."""

    name: str
    experiment: dict[str, Any]


class Config(Settings, Versioned):
    """Of config.json."""


class Failed(Config):
    """Of failed.json: why the run broke down."""

    message: str


class Step(TypedDict):
    """Where a run is: so many steps and epochs were made."""

    step: int
    epoch: float


class Evaluation(Step):
    """What an evaluation found; see `found` for what depends on the metric."""

    train_loss: Number
    sharpness: NotRequired[Number]


class Best(Evaluation):
    """The best evaluation, and by what it was the best."""

    judged_by: str


class About(Settings, Quoted):
    """What is trained, on what."""

    parameters: int
    steps: int
    devices: int
    processes: int


class Result(About, Made):
    """Of result.json."""

    complete: bool
    last: Evaluation
    best: Best
    sharpness: Number
    seconds: float
    examples_per_second: Number


class StepCost(TypedDict):
    """See `experiments.costs.cost.Cost`."""

    operations: float
    operations_ratio: float
    seconds: float
    time_ratio: list[float]


class Measured(TypedDict):
    """What a method's step costs, and what that depends on."""

    of: dict[str, Any]
    cost: StepCost


class Costs(Versioned):
    """Of costs.json, by method."""

    methods: dict[str, Measured]


REMEDY = "delete it, or give another --out"
CONFIG = Format("the settings of a run", Config, version=1, remedy=REMEDY)
FAILED = Format("why a run failed", Failed, version=1, remedy=REMEDY)
RESULT = Format("the result of a run", Result, version=1, remedy=REMEDY)
COSTS = Format("costs of training steps", Costs, version=1, remedy="delete it")


def found(evaluation: Evaluation, key: str) -> Number:
    """A metric or loss of a part of the data, under such as "test_accuracy"."""
    return cast(Record, evaluation)[key]
