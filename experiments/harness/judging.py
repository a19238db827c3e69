"""What a run is looked at with: accuracy, loss, and at its end sharpness."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments import pipeline, sharded
from experiments.data import Dataset
from experiments.harness.job import Job
from experiments.pipeline import Rows
from experiments.step import TrainState

# Of a global batch that is only looked at. A gradient needs far more memory than that, so
# it has the size of training's batches, which is known to fit.
BATCH = 1000


def evaluate(job: Job, state: TrainState) -> dict[str, float | None]:
    """Accuracy and loss on all that there is, without augmentation.

    Returns:
      "train_accuracy", "train_loss", and the same for "validation" (None without
      validation examples) and "test".
    """
    found: dict[str, float | None] = {}
    for purpose in ("train", "validation", "test"):
        dataset = job.inputs.judged.get(purpose)
        accuracy, loss = _means(job, state, dataset) if dataset else (None, None)
        found |= {f"{purpose}_accuracy": accuracy, f"{purpose}_loss": loss}
    return found


def judged_by(job: Job) -> str:
    """What tells the best checkpoint: never the test examples."""
    has_validation = "validation" in job.inputs.judged
    return "validation accuracy" if has_validation else "training loss"


def score(record: Mapping[str, Any]) -> float:
    """How good an evaluation is, for `judged_by`; higher is better."""
    if record["validation_accuracy"] is not None:
        return record["validation_accuracy"]
    loss = record["train_loss"]
    return -float("inf") if loss is None else -loss


def sharpness(job: Job, state: TrainState) -> float:
    """The rise of the mean training loss at a fixed distance along its gradient.

    The same measure for every method, whatever radius it trained with; see
    `experiments.evaluation`.
    """
    dataset = job.inputs.judged["train"]
    batches = _rows(job, dataset, job.experiment.batch_size)
    parts = (job.programs.gradient(state, rows) for rows in batches)
    # One after another: only two of them are there at a time.
    gradient = functools.reduce(functools.partial(jax.tree.map, jnp.add), parts)
    higher = job.programs.uphill(state, gradient)
    return _means(job, higher, dataset)[1] - _means(job, state, dataset)[1]


def _means(job: Job, state: TrainState, dataset: Dataset) -> tuple[float, float]:
    sums = [job.programs.totals(state, rows) for rows in _rows(job, dataset, BATCH)]
    hits = sum(float(part.hits) for part in sums)
    loss = sum(float(part.loss) for part in sums)
    return hits / dataset.size, loss / dataset.size


def _rows(job: Job, dataset: Dataset, most: int) -> Iterator[Rows]:
    """Batches of the size, or a little more so that it is a multiple of the devices."""
    size = min(most, dataset.size)
    size = -(-size // job.mesh.size) * job.mesh.size
    own = sharded.local_rows(job.mesh, size)
    for rows in pipeline.evaluation(dataset, size, own):
        yield sharded.global_batch(job.mesh, size, rows)
