"""What results.json has of `experiments.sharpness` and of `experiments.alignment`."""

from typing import TypedDict

from experiments.results.contents import Table, Timed
from experiments.shell.formats import Format


class Words(TypedDict):
    """What tables say of a measure."""

    title: str
    meaning: str


class Rank(TypedDict):
    """Spearman's correlation of n pairs; None where there are no ranks to compare."""

    spearman: float | None
    n: int


class Flatness(Table):
    """Measures of trained methods, and their correlations with other figures."""

    measures: dict[str, Words]
    correlations: dict[str, dict[str, Rank]]


class Aligned(TypedDict):
    """A config at its initial weights; cosines for each of the file's ks."""

    title: str
    batch_size: int
    batches: int
    highest: list[float]
    random: list[float]
    recommended: float


class Alignments(Timed):
    """Of several configs."""

    ks: list[float]
    configs: dict[str, Aligned]


FLATNESS = Format(
    "results of experiments.sharpness", Flatness, version=1, remedy="run it again"
)
ALIGNMENTS = Format(
    "results of experiments.alignment", Alignments, version=1, remedy="run it again"
)
