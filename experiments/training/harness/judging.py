"""What a run is looked at with: its metrics, the loss, and sharpness."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from experiments.data import batches
from experiments.data.examples import Dataset
from experiments.data.rows import Rows
from experiments.judging import scores
from experiments.judging.rise import rise
from experiments.processes import sharded
from experiments.training.harness.contents import Record
from experiments.training.harness.job import Job
from experiments.training.step import TrainState

# Of a global batch that is only looked at. A gradient needs far more memory than that, so
# it has the size of training's batches, which is known to fit.
BATCH = 1000
PURPOSES = ("train", "validation", "test")


def evaluate(job: Job, state: TrainState) -> dict[str, float | None]:
    """The dataset's metrics and the loss on all that there is, without augmentation.

    Returns:
      Such as "train_accuracy" and "train_loss", and the same for "validation" (None
      without validation examples), "test", and what else there is to look at.
    """
    found: dict[str, float | None] = {}
    for purpose in dict.fromkeys((*PURPOSES, *job.inputs.judged)):
        dataset = job.inputs.judged.get(purpose)
        values = _judged(job, state, dataset) if dataset else {}
        for name in (*job.inputs.train.metrics, "loss"):
            found[f"{purpose}_{name}"] = values.get(name)
    return found


def on_validation(job: Job, state: TrainState) -> float | None:
    """The metric that is quoted, on the held-out training examples and nothing else.

    Returns:
      None if the model's outputs aren't finite, so that there is nothing to judge.
    """
    found = _judged(job, state, job.inputs.judged["validation"])
    return found[metric(job)] if np.isfinite(found["loss"]) else None


def judged_by(job: Job) -> str:
    """What tells the best checkpoint: never the test examples."""
    has_validation = "validation" in job.inputs.judged
    return f"validation {metric(job)}" if has_validation else "training loss"


def metric(job: Job) -> str:
    """The one that is quoted."""
    return job.inputs.train.metrics[0]


def score(record: Record, metric: str) -> float:
    """How good an evaluation is, for `judged_by`; higher is better."""
    if record[f"validation_{metric}"] is not None:
        return record[f"validation_{metric}"]
    loss = record["train_loss"]
    return -float("inf") if loss is None else -loss


def sharpness(job: Job, state: TrainState) -> float:
    """The rise of the mean training loss; see `experiments.judging.rise`."""
    dataset = job.inputs.judged["train"]

    def gradient(state: TrainState) -> PyTree:
        batches = _rows(job, dataset, job.experiment.batch_size)
        parts = (job.programs.gradient(state, rows) for rows in batches)
        # One after another: only two of them are there at a time.
        return functools.reduce(functools.partial(jax.tree.map, jnp.add), parts)

    def loss(state: TrainState) -> float:
        return _all(job, state, dataset).loss / dataset.size

    return rise(loss, gradient, job.programs.uphill, state)


class _Found(NamedTuple):
    """What a model says of all examples: (N,), and the sum of the losses."""

    predictions: np.ndarray
    labels: np.ndarray
    loss: float


def _judged(job: Job, state: TrainState, dataset: Dataset) -> dict[str, float]:
    found = _all(job, state, dataset)
    values = scores.compute(dataset.metrics, found.predictions, found.labels)
    return {**values, "loss": found.loss / dataset.size}


def _all(job: Job, state: TrainState, dataset: Dataset) -> _Found:
    # One after another: batches of large images wait on the device otherwise.
    parts = [
        jax.device_get(job.programs.judge(state, rows))
        for rows in _rows(job, dataset, BATCH)
    ]
    predictions, labels, losses = zip(*parts, strict=True)
    # What fills up the last batch is at its end.
    return _Found(
        np.concatenate(predictions)[: dataset.size],
        np.concatenate(labels)[: dataset.size],
        sum(map(float, losses)),
    )


def _rows(job: Job, dataset: Dataset, most: int) -> Iterator[Rows]:
    """Batches of the size, or a little more so that it is a multiple of the devices."""
    size = min(most, dataset.size)
    size = -(-size // job.mesh.size) * job.mesh.size
    own = sharded.local_rows(job.mesh, size)
    for rows in batches.evaluation(dataset, size, own):
        yield sharded.global_batch(job.mesh, size, rows)
