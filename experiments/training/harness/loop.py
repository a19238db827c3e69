"""The training loop: steps, numbers, evaluations, checkpoints, and how it ends."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.batches import Batches
from experiments.processes import sharded
from experiments.processes.stopping import Signals, StoppedError
from experiments.shell import files
from experiments.shell.cli import RunError
from experiments.training import step
from experiments.training.harness import folder, judging, updates
from experiments.training.harness.checkpoints import Checkpoints, Restored
from experiments.training.harness.display import Live
from experiments.training.harness.job import Job
from experiments.training.harness.metrics import Metrics
from experiments.training.step import Note, TrainState


@dataclass(frozen=True)
class Pace:
    """How often a run does what doesn't change its result.

    Attributes:
      log: steps between two lines of numbers; an epoch's end is one more.
      evaluate: epochs between two evaluations; each ends with a checkpoint.
      checkpoint: steps between checkpoints besides those; None: no others.
      sharpness: epochs between two evaluations that measure sharpness, too, a multiple of
        `evaluate`; the last one does as well. None: none does.
    """

    log: int = 50
    evaluate: int = 1
    checkpoint: int | None = None
    sharpness: int | None = None


class Loop:
    """One run on its way.

    Args:
      job: what to train.
      pace: how often to look.
      checkpoints: where to save.
      metrics: where numbers go; None in all processes but the first.
      live: what a person sees.
      done: is told after each step, for `distributed`.
    """

    def __init__(
        self,
        job: Job,
        pace: Pace,
        checkpoints: Checkpoints,
        metrics: Metrics | None,
        live: Live,
        done: Callable[[int], None],
    ):
        self._job, self._pace, self._checkpoints = job, pace, checkpoints
        self._metrics, self._live, self._done = metrics, live, done
        self._notes: list[Note] = []
        self._speeds: list[float] = []
        self._seconds = 0.0
        self._saved: int | None = None
        # Once: to make it takes as long as to place a batch.
        self._seed = jnp.int32(job.experiment.seed)
        self._rate = updates.rate(job.experiment, job.inputs.train.size)

    def run(self, restored: Restored | None) -> tuple[TrainState, dict[str, Any]]:
        """Trains to the end.

        Returns:
          The last state; and "seconds", the time that training took, and
          "examples_per_second", the median of this process's.

        Raises:
          RunError: if a loss isn't finite.
          StoppedError: if the process was told to stop; all is saved then.
        """
        with self._job.batches() as batches, Signals() as signals:
            state, first = self._begin(restored, batches)
            for number in range(first + 1, self._job.steps + 1):
                state = self._step(state, batches)
                self._after(number, state, batches, signals)
        self._checkpoints.wait()
        speed = float(np.median(self._speeds)) if self._speeds else None
        return state, {"seconds": self._seconds, "examples_per_second": speed}

    def _begin(self, restored: Restored | None, batches: Batches) -> tuple[TrainState, int]:
        self._clock = time.monotonic()
        if restored is None:
            return self._job.start(), 0
        self._saved = restored.step
        self._seconds = restored.about["seconds"]
        batches.set_state(restored.about["data"])
        return restored.state, restored.step

    def _step(self, state: TrainState, batches: Batches) -> TrainState:
        experiment = self._job.experiment
        rows = sharded.global_batch(self._job.mesh, experiment.batch_size, next(batches))
        state, note = self._job.programs.step(state, rows, self._seed)
        self._notes.append(note)
        return state

    def _after(
        self, number: int, state: TrainState, batches: Batches, signals: Signals
    ) -> None:
        """What is due behind a step."""
        self._done(number)
        job, pace, record = self._job, self._pace, None
        epochs, within = divmod(number, job.steps_per_epoch)
        told = signals.received(number)
        looks = not within and (not epochs % pace.evaluate or number == job.steps)
        is_time = pace.checkpoint is not None and not number % pace.checkpoint
        saves = looks or is_time or told is not None
        if saves or not within or not number % pace.log:
            self._log(number)
        if looks:
            record = self._evaluate(number, state)
        if saves:
            self._save(number, state, batches, record)
        if told is not None and number < job.steps:
            self._checkpoints.wait()
            raise StoppedError(told, number)

    def _log(self, number: int) -> None:
        """Writes what the steps since the last line say, if all of it is sound."""
        if not self._notes:
            return
        # Waits for the steps: what was dispatched is done only now.
        notes = step.stacked(self._notes)
        first = number - len(self._notes) + 1
        taken = max(time.monotonic() - self._clock, 1e-9)
        failed = step.first_failure(notes)
        if failed is not None:
            raise RunError(self._explained(first + failed, notes, failed))
        self._seconds += taken
        self._speeds.append(len(self._notes) * self._job.experiment.batch_size / taken)
        self._notes.clear()
        record = self._record(number, notes)
        if self._metrics:
            self._metrics.train(record)
        self._live.step(number, record)
        self._clock = time.monotonic()

    def _record(self, number: int, notes: Note) -> dict[str, Any]:
        means = step.mean(notes)._asdict()
        if self._job.experiment.dtype != updates.SCALED:
            del means["skipped"]
        # What a method doesn't know is infinite, and so null in JSON.
        return files.plain(
            {
                "step": number,
                "epoch": number / self._job.steps_per_epoch,
                **means,
                "learning_rate": np.asarray(self._rate(number - 1)),
                "examples_per_second": self._speeds[-1],
            }
        )

    def _evaluate(self, number: int, state: TrainState) -> dict[str, Any]:
        epoch = number // self._job.steps_per_epoch
        found: dict[str, Any] = judging.evaluate(self._job, state)
        if self._measures_sharpness(number):
            found["sharpness"] = judging.sharpness(self._job, state)
        record = files.plain({"step": number, "epoch": epoch, **found})
        if self._metrics:
            self._metrics.evaluation(record)
        self._live.evaluated(record)
        self._clock = time.monotonic()
        return record

    def _measures_sharpness(self, number: int) -> bool:
        """Whether the evaluation behind this step does."""
        every = self._pace.sharpness
        if every is None:
            return False
        return number == self._job.steps or not number % (every * self._job.steps_per_epoch)

    def _save(
        self,
        number: int,
        state: TrainState,
        batches: Batches,
        record: dict[str, Any] | None,
    ) -> None:
        about = {
            **folder.plain(self._job.name, self._job.experiment),
            "data": batches.get_state(),
            "seconds": self._seconds,
            "devices": jax.device_count(),
        }
        metric = judging.metric(self._job)
        score = None if record is None else judging.score(record, metric)
        self._checkpoints.save(number, state, about, score)
        self._saved = number
        self._clock = time.monotonic()

    def _explained(self, number: int, notes: Note, place: int) -> str:
        """What a loss that isn't finite means, in one line."""
        loss, higher = float(notes.loss[place]), float(notes.perturbed_loss[place])
        length = float(notes.gradient_norm[place])
        last = f"the checkpoint of step {self._saved}" if self._saved else "none yet"
        experiment = self._job.experiment
        smaller = f"--learning-rate (now {experiment.learning_rate:g})"
        if experiment.rho is not None:
            smaller += f" or --rho (now {experiment.rho:g})"
        if notes.skipped[place]:
            smaller += (
                ", or --dtype bfloat16: no loss scale makes the gradients finite, perhaps "
                "since an earlier step"
            )
        return (
            f"the loss or its gradient isn't finite at step {number} (loss {loss:g}, "
            f"perturbed loss {higher:g}, gradient norm {length:g}); last good: {last} in "
            f"{self._checkpoints.folder}. Try a smaller {smaller}, in another --out"
        )
