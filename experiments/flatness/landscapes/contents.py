"""What landscape.json has."""

from typing import NotRequired, TypedDict

from experiments.shell.formats import Format, Made
from experiments.training.harness.contents import Settings

# Row by row; None where there is no loss.
Losses = list[list[float | None]]
Matrix = list[list[float]]


class Source(TypedDict):
    """What was looked at."""

    title: str
    source: str


class Around(TypedDict):
    """Losses along random directions, or over the plane of two."""

    at: list[float]
    losses: Losses


class Density(TypedDict):
    """The Hessian's spectrum: of each probe nodes and weights."""

    nodes: Matrix
    weights: Matrix


class Alignment(TypedDict):
    """See `ksam_jax.sharpness.gradient_alignment`."""

    batch_size: int
    ks: list[float]
    cosines: Matrix
    random: Matrix
    dataset: Matrix
    least: float
    recommended: float


class History(TypedDict):
    """Sharpness over training."""

    epochs: list[float]
    values: list[float]


class Plane(TypedDict):
    """Losses over the plane through three solutions."""

    runs: list[str]
    coordinates: Matrix
    xs: list[float]
    ys: list[float]
    losses: Losses


class Solution(Settings):
    """A run, and what was measured around its last weights."""

    label: str
    step: int
    epoch: float
    loss: float
    slice: NotRequired[Around]
    surface: NotRequired[Around]
    spectrum: NotRequired[Density]
    alignment: NotRequired[Alignment]
    sharpness: NotRequired[History]


class Options(TypedDict):
    """How closely was looked."""

    points: int
    radius: float
    batch_size: int | None


class Landscape(Made):
    """Of runs of one model on the same data."""

    title: str
    dataset: Source
    has_statistics: bool
    settings: Options
    examples: int
    runs: list[Solution]
    plane: NotRequired[Plane]


LANDSCAPE = Format(
    "numbers of experiments.landscape", Landscape, version=1, remedy="run it again"
)
