"""What a training step costs, against a baseline's, such as SGD's: operations and time.

Operations are XLA's own count of the whole compiled step, optimizer included. How times
are taken is in `experiments.costs.timing`.
"""

import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.costs.timing import Burst, State, interleaved, ratio, repeated

ROUNDS = 25
BURST_SECONDS = 0.02


class Cost(NamedTuple):
    """The cost of one method's step; ratios are to the baseline's.

    Attributes:
      operations: floating-point operations, counted by XLA.
      operations_ratio: the same against the baseline's.
      seconds: median time.
      time_ratio: median over the rounds, with the lower and upper quartile.
    """

    operations: float
    operations_ratio: float
    seconds: float
    time_ratio: tuple[float, float, float]


class Step(NamedTuple):
    """A compiled step, warmed up.

    Attributes:
      operations: floating-point operations, counted by XLA; of one device.
      burst: runs so many steps and returns the seconds that one of them took.
    """

    operations: float
    burst: Burst


def carried(operations: float, step: Callable[[State], State], state: State) -> Step:
    """A step that may take its state's memory, warmed up."""
    burst = repeated(step, state)
    burst(2)
    return Step(operations, burst)


def measure(
    steps: Mapping[str, Step], rounds: int = ROUNDS, baseline: str = "sgd"
) -> dict[str, Cost]:
    """Measures the steps in turn.

    Args:
      steps: of each method.
      rounds: how often each has its turn.
      baseline: the one among them that the others are compared with.
    """
    repeats = _agreed(max(1, round(BURST_SECONDS / steps[baseline].burst(3))))
    bursts = {name: step.burst for name, step in steps.items()}
    times = interleaved(bursts, dict.fromkeys(steps, repeats), rounds)
    operations = steps[baseline].operations
    return {
        name: Cost(
            step.operations,
            step.operations / operations,
            statistics.median(times[name]),
            ratio(times[name], times[baseline]),
        )
        for name, step in steps.items()
    }


def _agreed(number: int) -> int:
    """The first process's: all must make the same steps, or they wait for ever."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))
