"""What a training step costs, against SGD's: operations and time.

Operations are XLA's own count of the whole compiled step, optimizer included. How times
are taken is in `experiments.timing`.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax

from experiments.configs.compare import Protocol
from experiments.data import Batch, Examples
from experiments.methods import METHODS, Hyperparameters
from experiments.models import PureModel
from experiments.timing import interleaved, operations, ratio
from experiments.training import one_run, train_step, trainer

ROUNDS = 25
BURST_SECONDS = 0.02


class Cost(NamedTuple):
    """The cost of one method's step; ratios are to SGD's.

    Attributes:
      operations: floating-point operations, counted by XLA.
      operations_ratio: the same against SGD's.
      seconds: median time.
      time_ratio: median over the rounds, with the lower and upper quartile.
    """

    operations: float
    operations_ratio: float
    seconds: float
    time_ratio: tuple[float, float, float]


class _Step(NamedTuple):
    """A compiled step, ready to run."""

    operations: float
    burst: Callable[[int], float]


def measure(
    model: PureModel,
    protocol: Protocol,
    batch: Examples | Batch,
    chosen: Mapping[str, Hyperparameters],
    rounds: int = ROUNDS,
) -> dict[str, Cost]:
    """Measures one step of one replica for each method.

    Args:
      model: what is trained.
      protocol: as in training.
      batch: one batch of training examples.
      chosen: hyperparameters of each method; SGD must be among them.
      rounds: how many interleaved rounds of timing.
    """
    steps = {
        name: _compile(name, model, protocol, batch, values)
        for name, values in chosen.items()
    }
    repeats = max(1, round(BURST_SECONDS / steps["sgd"].burst(3)))
    bursts = {name: step.burst for name, step in steps.items()}
    times = interleaved(bursts, dict.fromkeys(steps, repeats), rounds)
    sgd = steps["sgd"].operations
    return {
        name: Cost(
            step.operations,
            step.operations / sgd,
            statistics.median(times[name]),
            ratio(times[name], times["sgd"]),
        )
        for name, step in steps.items()
    }


def _compile(
    name: str,
    model: PureModel,
    protocol: Protocol,
    batch: Examples | Batch,
    values: Hyperparameters,
) -> _Step:
    run, method = one_run(0, values), METHODS[name]
    batch = jax.device_put(batch)
    replicas = trainer(method, model, protocol).init(jax.tree.map(lambda x: x[None], run))
    replica = jax.tree.map(lambda leaf: leaf[0], replicas)
    step = jax.jit(partial(train_step, method, model, protocol), donate_argnums=0)
    compiled = step.lower(replica, run, batch).compile()

    def burst(steps: int) -> float:
        nonlocal replica
        start = time.perf_counter()
        for _ in range(steps):
            replica = compiled(replica, run, batch)
        jax.block_until_ready(replica)
        return (time.perf_counter() - start) / steps

    burst(2)
    return _Step(operations(compiled), burst)
