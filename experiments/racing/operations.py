"""What a mean step of each method costs: XLA's operations, by what its steps were.

XLA counts a program that has branches as if the dearest ran. So where a method's steps
differ each kind of step that there was is compiled by itself, as a method all of whose
steps are such ones, and counts as often as it ran.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.costs import timing
from experiments.methods import METHODS
from experiments.processes import sharded
from experiments.racing.laps import Lap
from experiments.training.harness.job import Job
from experiments.training.harness.programs import Programs, programs


def mean_operations(
    jobs: Mapping[str, Job], races: Mapping[str, Sequence[Sequence[Lap]]]
) -> dict[str, float]:
    """Of each method's mean step, over all steps of all seeds.

    Args:
      jobs: of one seed, by what they are called.
      races: the laps of each seed, likewise.
    """
    found = {}
    for name, job in jobs.items():
        numbers = _numbers(lap for laps in races[name] for lap in laps)
        steps = sum(numbers.values())
        counts = {kind: _count(job, *kind) for kind in numbers}
        found[name] = sum(counts[kind] * number for kind, number in numbers.items()) / steps
    return found


def _numbers(laps: Iterable[Lap]) -> Counter[tuple[float, bool]]:
    numbers: Counter[tuple[float, bool]] = Counter()
    for lap in laps:
        for examples, climbs, number in lap.kinds:
            numbers[examples, climbs] += number
    return numbers


def _count(job: Job, share: float, climbs: bool) -> float:
    method = METHODS[job.experiment.method]
    if method.at is None:
        return _operations(job, job.programs)
    # A plain function takes no number of steps, which tells when the steps differ.
    alone = dataclasses.replace(method, gradient=method.at(share, climbs), scheduled=False)
    return _operations(job, programs(job.experiment, job.mesh, job.kind, alone))


def _operations(job: Job, made: Programs) -> float:
    with jax.set_mesh(job.mesh), job.batches() as batches:
        rows = sharded.global_batch(job.mesh, job.experiment.batch_size, next(batches))
        program: Any = made.step
        step = program.lower(made.abstract_state(job.mesh), rows, jnp.int32(0))
        return timing.operations(step.compile())
