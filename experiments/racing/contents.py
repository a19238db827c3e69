"""What race.json has."""

from typing import NotRequired, TypedDict

from experiments.shell.files import Machine
from experiments.shell.formats import Format, Made, Versioned
from experiments.training.harness.contents import Settings


class StepsContent(TypedDict):
    """See `experiments.racing.laps.Steps`."""

    examples: float
    climbs: bool
    number: int


class LapContent(TypedDict):
    """See `experiments.racing.laps.Lap`."""

    step: int
    seconds: float
    score: float | None
    examples: float
    kinds: NotRequired[list[StepsContent]]


# Of one seed: each method's laps.
Seed = dict[str, list[LapContent]]


class Course(TypedDict):
    """What makes laps comparable: settings, and how pixels are scaled.

    The latter where the data set says so itself.
    """

    settings: dict[str, Settings]
    laps: int
    pixels: NotRequired[str]


class CourseHere(Course):
    """The same on a machine."""

    machine: Machine


class Race(Course, Made):
    """Of one table.

    Operations: of a mean step of each method, see `experiments.racing.operations`.
    """

    table: str
    title: str
    baseline: str
    origin: str
    operations: NotRequired[dict[str, float]]
    seeds: list[Seed]


class Stopped(Versioned):
    """Of a race that was stopped: its settings and machine, and what was raced."""

    about: CourseHere
    seeds: list[Seed]


RACE = Format("a race", Race, version=1, remedy="run experiments.race again")
STOPPED = Format("a stopped race", Stopped, version=1, remedy=RACE.remedy)
