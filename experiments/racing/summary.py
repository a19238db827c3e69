"""What a race's laps say: when a method was as good as the baseline is at its end."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.racing.laps import Lap
from experiments.results.intervals import Estimate, estimate

# By method: the laps of each seed, all of the same steps.
Races = Mapping[str, Sequence[Sequence[Lap]]]


class Summary(NamedTuple):
    """A method's races against the baseline's, of the same seeds.

    Attributes:
      reached: of each seed, the share of the baseline's whole time behind which the method
        was for the first time as good as the baseline at its end; None if it never was.
      time: of each seed, what all of its training took against the baseline's.
      scores: of each seed, its score at the end; None if it broke down.
      difference: from the baseline's at the end, paired by seed; None where a seed of
        either broke down.
      examples: mean share of the examples that decided the descent.
    """

    reached: list[float | None]
    time: list[float]
    scores: list[float | None]
    difference: Estimate | None
    examples: float

    @property
    def median_reached(self) -> float | None:
        """Of all seeds; None if half of them or more never got there."""
        # Never is later than anything.
        late = [float("inf") if share is None else share for share in self.reached]
        median = statistics.median(late)
        return None if median == float("inf") else median


def summarise(races: Races, baseline: str) -> dict[str, Summary]:
    """All methods against the baseline, itself included.

    The baseline's own line is the yardstick: with accuracies that go up and down it, too,
    reaches what it ends with a little before the end.
    """
    return {name: _against(runs, races[baseline]) for name, runs in races.items()}


def _against(runs: Sequence[Sequence[Lap]], base: Sequence[Sequence[Lap]]) -> Summary:
    pairs = list(zip(runs, base, strict=True))
    ends = [laps[-1].score for laps in runs]
    differences = [
        laps[-1].score - other[-1].score
        for laps, other in pairs
        if laps[-1].score is not None and other[-1].score is not None
    ]
    return Summary(
        [_reached(laps, other[-1]) for laps, other in pairs],
        [laps[-1].seconds / other[-1].seconds for laps, other in pairs],
        ends,
        estimate(differences) if len(differences) == len(pairs) else None,
        statistics.mean(_examples(laps) for laps in runs),
    )


def _reached(laps: Sequence[Lap], goal: Lap) -> float | None:
    if goal.score is None:
        return None
    there = (lap for lap in laps if lap.score is not None and lap.score >= goal.score)
    first = next(there, None)
    return None if first is None else first.seconds / goal.seconds


def _examples(laps: Sequence[Lap]) -> float:
    """Mean over all steps; the laps may differ by one in length."""
    ends = [0, *(lap.step for lap in laps)]
    parts = zip(laps, ends, strict=False)
    return sum(lap.examples * (lap.step - before) for lap, before in parts) / ends[-1]
