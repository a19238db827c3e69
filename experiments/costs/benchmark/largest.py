"""The largest batch on which a method can take a step: who is tried, and how."""

import math
import time
from collections.abc import Callable

from experiments.costs.benchmark.plan import Case
from experiments.costs.benchmark.programs import Model
from experiments.costs.timing import Burst

TRIED = {
    "SGD": ("sgd", None, None),
    "SAM": ("sam", None, None),
    "K-SAM, k = 1/4": ("k_sam", 0.25, "auto"),
    'K-SAM, k = 1/4, keep="nothing"': ("k_sam", 0.25, "nothing"),
    "K-Momentum-SAM, k = 1/4": ("k_momentum_sam", 0.25, "auto"),
}


def case_of(label: str, model: Model, batch: int) -> Case:
    """The step that a label means."""
    name, share, keep = TRIED[label]
    keep = None if model.task.example_losses is None else keep
    return Case(name, share, keep, batch)


def two_steps(burst: Burst) -> float:
    """The second one meets the results of the first."""
    burst(1)
    # XLA gives a step's memory back a moment after it is done.
    time.sleep(1)
    return burst(1)


def largest(works: Callable[[int], bool], start: int) -> int:
    """The largest of start * 2^n, n from -infinity, at which it works; 0 if none does."""
    if works(start):
        while works(2 * start):
            start *= 2
        return start
    while start > 1:
        start //= 2
        if works(start):
            return start
    return 0


def guess(batch: int, needed: int, limit: int) -> int:
    """Where to begin if a batch needs so much memory: where twice as many are too many."""
    if needed > limit:
        return batch
    return batch * 2 ** int(math.log2(limit / needed))
