"""An experiment with everything that it needs, on the devices that there are."""

import dataclasses
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PyTree
from rich.console import Console

from experiments.configs.experiment import Experiment
from experiments.data.batches import Batches
from experiments.data.examples import Kind
from experiments.data.named import Inputs
from experiments.methods import METHODS
from experiments.models import huggingface
from experiments.processes import sharded
from experiments.shell.cli import UsageError
from experiments.training.harness import allowed_settings, inputs, programs, updates
from experiments.training.harness.programs import Programs
from experiments.training.step import TrainState

# That read batches ahead; within one, images are decoded side by side.
THREADS = 2


class Job(NamedTuple):
    """What a run works with.

    Attributes:
      name: of its row.
      experiment: what to train.
      inputs: its examples.
      mesh: the devices.
      kind: of its examples.
      programs: the compiled functions.
    """

    name: str
    experiment: Experiment
    inputs: Inputs
    mesh: Mesh
    kind: Kind
    programs: Programs

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training examples."""
        return self.experiment.steps_per_epoch(self.inputs.train.size)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.experiment.steps(self.inputs.train.size)

    def start(self) -> TrainState:
        """The state before the first step.

        Raises:
          UsageError: if there is a pretrained checkpoint that doesn't fit.
        """
        seed, folder = jnp.int32(self.experiment.seed), self.experiment.pretrained
        variables = self.programs.init(seed)
        if folder is not None:
            params = huggingface.load(jax.device_get(variables.params), Path(folder))
            _check_same("checkpoint", _digest(params))
            variables = variables._replace(params=params)
        return self.programs.start(variables, seed)

    def like(self) -> TrainState:
        """Shapes, types and places of the state, without making one."""
        return self.programs.abstract_state(self.mesh)

    def batches(self) -> Batches:
        """The training batches, from the first one on."""
        size = self.experiment.batch_size
        rows = sharded.local_rows(self.mesh, size)
        train = self.inputs.train
        # What has to be decoded is loaded ahead.
        threads = THREADS if train.random_fetch else 0
        return Batches(train, size, self.experiment.seed, rows, threads)


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
    train = found.train
    _check_batch(experiment, mesh.size, train.size)
    _check_parts(experiment, mesh.size)
    words = f"{train.source}, {train.size} examples"
    _check_same(f"data ({words})", zlib.crc32(words.encode()))
    kind = Kind(
        train.shape, train.classes, train.size, found.normalization, train.vocabulary
    )
    made = programs.programs(experiment, mesh, kind)
    return Job(name, experiment, found, mesh, kind, made)


def check(experiment: Experiment) -> None:
    """Raises a UsageError if a setting can't be, whatever the data and the devices."""
    allowed_settings.check(experiment)
    try:
        updates.check(experiment)
    # The library names the argument, the rule and the value.
    except (ValueError, TypeError) as error:
        raise UsageError(f"--method {experiment.method}: {error}") from error


def _check_batch(experiment: Experiment, devices: int, examples: int) -> None:
    size = experiment.batch_size
    if size % devices or size > examples:
        raise UsageError(
            f"--batch-size must be a multiple of the number of devices, {devices}, and at "
            f"most the number of training examples, {examples}; got {size}"
        )


def _check_parts(experiment: Experiment, devices: int) -> None:
    """Raises a UsageError if a method's share of a device's examples isn't even one."""
    takes, local = METHODS[experiment.method].takes, experiment.batch_size // devices
    for name in {"k", "gamma", "m"} & takes.keys():
        share = getattr(experiment, name, None) or takes[name].default
        if isinstance(share, float) and share * local < 1:
            raise UsageError(
                f"--batch-size must give each of {devices} devices so many examples that "
                f"{name} = {share:g} of them is at least one; got {experiment.batch_size}"
            )


def _check_same(what: str, digest: int) -> None:
    """Raises a UsageError if another process has another digest of it."""
    mine = np.uint32(digest)
    every = multihost_utils.process_allgather(mine) if jax.process_count() > 1 else mine
    if (every != mine).any():
        raise UsageError(
            f"all processes must have the same; process {jax.process_index()} has other "
            f"{what} than some: share the folder, or copy it again"
        )


def _digest(params: PyTree) -> int:
    """Of all weights, in order."""
    found = 0
    for leaf in jax.tree.leaves(params):
        found = zlib.crc32(np.asarray(leaf).tobytes(), found)
    return found


def seeded(job: Job, seed: int) -> Job:
    """The same job with another seed; nothing is loaded or compiled again."""
    return job._replace(experiment=dataclasses.replace(job.experiment, seed=seed))
