"""An experiment with everything that it needs, on the devices that there are."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console

from experiments import sharded
from experiments.cli import UsageError, one_of
from experiments.configs.experiment import Experiment
from experiments.harness import inputs, programs
from experiments.harness.inputs import Inputs
from experiments.harness.programs import Programs
from experiments.methods import METHODS
from experiments.models import zoo
from experiments.pipeline import Batches
from experiments.step import TrainState

LARGEST = float(np.finfo(np.float32).max)


class Job(NamedTuple):
    """What a run works with.

    Attributes:
      name: of its row.
      experiment: what to train.
      inputs: its examples.
      mesh: the devices.
      programs: the compiled functions.
    """

    name: str
    experiment: Experiment
    inputs: Inputs
    mesh: Mesh
    programs: Programs

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training examples."""
        return self.inputs.train.size // self.experiment.batch_size

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.experiment.epochs * self.steps_per_epoch

    def start(self) -> TrainState:
        """The state before the first step."""
        return self.programs.init(jnp.int32(self.experiment.seed))

    def like(self) -> TrainState:
        """Shapes, types and places of the state, without making one."""
        everywhere = NamedSharding(self.mesh, P())
        shapes = jax.eval_shape(self.programs.init, jnp.int32(0))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes
        )

    def batches(self) -> Batches:
        """The training batches, from the first one on."""
        size = self.experiment.batch_size
        rows = sharded.local_rows(self.mesh, size)
        return Batches(self.inputs.train, size, self.experiment.seed, rows)


def prepare(
    name: str,
    experiment: Experiment,
    data_dir: Path | None,
    console: Console | None,
) -> Job:
    """Checks the experiment, loads its examples and makes its functions.

    Raises:
      UsageError: if a setting is wrong, or examples aren't there.
    """
    check(experiment)
    mesh = sharded.data_mesh()
    found = inputs.load(experiment, data_dir, console)
    _check_batch(experiment, mesh.size, found.train.size)
    functions = programs.programs(
        experiment,
        mesh,
        found.normalization,
        image_shape=found.train.image_shape,
        classes=found.train.classes,
        examples=found.train.size,
    )
    return Job(name, experiment, found, mesh, functions)


def check(experiment: Experiment) -> None:
    """Raises a UsageError if a setting can't be, whatever the data and the devices."""
    one_of("method", experiment.method, METHODS)
    one_of("model", experiment.model, zoo.MODELS)
    for name in ("epochs", "batch_size"):
        _at_least(experiment, name, 1)
    for name in ("learning_rate", "weight_decay", "momentum", "seed"):
        _at_least(experiment, name, 0)
    if experiment.seed >= 2**31:
        raise UsageError(f"--seed must be below {2**31}; got {experiment.seed}")
    if experiment.momentum >= 1:
        raise UsageError(f"--momentum must be below 1; got {experiment.momentum:g}")
    try:
        programs.check(experiment)
    # The library names the argument, the rule and the value.
    except (ValueError, TypeError) as error:
        raise UsageError(f"--method {experiment.method}: {error}") from error


def _at_least(experiment: Experiment, name: str, least: float) -> None:
    value = getattr(experiment, name)
    # NaN is not at least anything; and what float32 can't hold is infinite on a device.
    if not (least <= value <= LARGEST):
        option = name.replace("_", "-")
        raise UsageError(f"--{option} must be at least {least:g} and finite; got {value:g}")


def _check_batch(experiment: Experiment, devices: int, examples: int) -> None:
    size = experiment.batch_size
    if size % devices or size > examples:
        raise UsageError(
            f"--batch-size must be a multiple of the number of devices, {devices}, and at "
            f"most the number of training examples, {examples}; got {size}"
        )


def seeded(job: Job, seed: int) -> Job:
    """The same job with another seed; nothing is loaded or compiled again."""
    return job._replace(experiment=dataclasses.replace(job.experiment, seed=seed))
