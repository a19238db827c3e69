"""What the files of `python -m experiments.accelerator` have."""

from typing import TypedDict

from experiments.costs.benchmark.contents import Measured, Model, Settings
from experiments.shell.files import Machine
from experiments.shell.formats import Format, Made, Versioned

AGAIN = "run experiments.accelerator again with --out elsewhere, or without this file"


class Device(Versioned):
    """What everything was measured on."""

    machine: Machine
    versions: dict[str, str]


class Piece(Measured):
    """Some methods on one model."""

    date: str


class Largest(Device):
    """Of each method, the largest batch by now."""

    workload: Model
    settings: Settings
    digest: str
    date: str
    model: str
    limit_mib: int
    largest_batch: dict[str, int]


class Means(TypedDict):
    """Geometric means over models, against SGD's."""

    time: float
    memory: float


class Decision(TypedDict):
    """See `experiments.costs.accelerator.keep`."""

    recommended: str
    default: str
    models: list[str]
    keeps: dict[str, Means]


class Run(TypedDict):
    """A training; None where it hasn't ended."""

    label: str
    seconds_per_epoch: float | None
    accuracy: float | None
    judged_on: str | None
    command: str | None


class Trainings(TypedDict):
    """Side by side."""

    epochs: int
    runs: dict[str, Run]


class Accelerator(Made):
    """All of it together; None where a stage has nothing by now."""

    complete: bool
    benchmark: list[Piece]
    keep: Decision | None
    largest: Largest | None
    training: Trainings | None


DEVICE = Format("a machine's description", Device, version=1, remedy=AGAIN)
PIECE = Format("a part of the accelerator's benchmark", Piece, version=1, remedy=AGAIN)
LARGEST = Format("the accelerator's largest batches", Largest, version=1, remedy=AGAIN)
ACCELERATOR = Format("an accelerator's results", Accelerator, version=1, remedy=AGAIN)
