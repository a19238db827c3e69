"""One seed's race: every method trains for a lap in its turn, and is looked at behind it.

All methods share the machine's good and bad minutes, since none runs for longer than a lap
at a time; the order changes from lap to lap. Compiling isn't timed, and neither is looking.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.batches import Batches
from experiments.processes import sharded
from experiments.training.harness import judging
from experiments.training.harness.job import Job
from experiments.training.step import UNKNOWN, Note, TrainState


class Steps(NamedTuple):
    """Steps of one kind.

    Attributes:
      examples: the share of the examples that decides the descent.
      climbs: whether there is a climb.
      number: how many steps were such ones.
    """

    examples: float
    climbs: bool
    number: int


class Lap(NamedTuple):
    """What is known of a method behind one of its laps.

    Attributes:
      step: the last one of the lap, from 1 on.
      seconds: of training, since the start.
      score: on the validation examples, by the dataset's metric; None if the weights
        aren't finite.
      examples: mean share of the examples that decided the descent in this lap's steps.
      kinds: of those steps; empty in races that were run before they were counted.
    """

    step: int
    seconds: float
    score: float | None
    examples: float
    kinds: tuple[Steps, ...] = ()


@dataclass
class _Runner:
    """A method on its way."""

    job: Job
    batches: Batches
    step: Callable[..., tuple[TrainState, Note]]
    state: TrainState
    seconds: float = 0.0
    laps: list[Lap] = field(default_factory=list)


def race(
    jobs: Mapping[str, Job], laps: int, done: Callable[[str, Lap], None]
) -> dict[str, list[Lap]]:
    """Trains all of them side by side.

    Args:
      jobs: by what they are called; who has fewer steps, or smaller batches, has shorter
        laps.
      laps: so many times each is looked at, evenly over its steps.
      done: is told of each lap.
    """
    with ExitStack() as stack:
        runners = {name: _at_the_start(job, stack) for name, job in jobs.items()}
        for number in range(1, laps + 1):
            for name in _turned(list(runners), number):
                runner = runners[name]
                _run(runner, round(runner.job.steps * number / laps))
                done(name, runner.laps[-1])
    return {name: runner.laps for name, runner in runners.items()}


def _turned(names: Sequence[str], number: int) -> list[str]:
    """The names in another order for each number: nobody always follows the same."""
    first = number % len(names)
    turned = [*names[first:], *names[:first]]
    return turned[::-1] if (number // len(names)) % 2 else turned


def _at_the_start(job: Job, stack: ExitStack) -> _Runner:
    """With its step compiled, and the first weights."""
    stack.enter_context(jax.set_mesh(job.mesh))
    with job.batches() as batches:
        rows = _rows(job, batches)
        program: Any = job.programs.step
        program = program.lower(job.start(), rows, _seed(job)).compile()
        # The first call of a program takes longer than the others.
        jax.block_until_ready(program(job.start(), rows, _seed(job)))
    batches = stack.enter_context(job.batches())
    return _Runner(job, batches, program, jax.block_until_ready(job.start()))


def _run(runner: _Runner, end: int) -> None:
    """Trains up to that step, and looks."""
    notes, seed, began = [], _seed(runner.job), time.perf_counter()
    for _ in range(runner.laps[-1].step if runner.laps else 0, end):
        rows = _rows(runner.job, runner.batches)
        runner.state, note = runner.step(runner.state, rows, seed)
        notes.append((note.examples, note.perturbation_norm, note.sharpness))
    jax.block_until_ready(runner.state)
    runner.seconds += time.perf_counter() - began
    score = judging.on_validation(runner.job, runner.state)
    kinds = _kinds(notes)
    share = sum(kind.examples * kind.number for kind in kinds) / len(notes)
    runner.laps.append(Lap(end, runner.seconds, score, share, kinds))


def _kinds(notes: Sequence[tuple[jax.Array, ...]]) -> tuple[Steps, ...]:
    shares, radii, rises = np.asarray(jax.device_get(notes)).T
    is_known = shares <= 1
    # A baseline that is no method knows neither: it takes all, and doesn't climb.
    shares = np.where(is_known, shares, 1.0).round(6)
    climbs = (radii > 0) & (radii < UNKNOWN)
    # With `info="losses"` no radius is known, but without a climb no loss rises at all.
    # With a climb the rise isn't known either, if nothing ran before it.
    climbs |= (radii == UNKNOWN) & (rises != 0) & is_known
    counts = Counter(zip(shares.tolist(), climbs.tolist(), strict=True))
    return tuple(Steps(*kind, number) for kind, number in sorted(counts.items()))


def _rows(job: Job, batches: Batches) -> Any:
    return sharded.global_batch(job.mesh, job.experiment.batch_size, next(batches))


def _seed(job: Job) -> jax.Array:
    return jnp.int32(job.experiment.seed)
