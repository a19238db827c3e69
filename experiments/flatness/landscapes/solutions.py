"""What a run of `experiments.train` has left: its weights, its loss and its examples.

Nothing in its folder is changed or locked, so a run that is still going on may be looked
at.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console

from experiments.configs.experiment import Experiment
from experiments.data import batches, memory
from experiments.data.augment import Augmentation
from experiments.data.examples import Dataset
from experiments.data.rows import Rows
from experiments.methods import METHODS, label
from experiments.models.pure import Variables
from experiments.shell.cli import UsageError
from experiments.training.harness import folder, job, metrics
from experiments.training.harness.checkpoints import Checkpoints, Restored
from experiments.training.harness.contents import CONFIG
from experiments.training.harness.job import Job

# Settings without which losses of two runs can't be compared.
DATA = ("dataset", "train_examples", "validation_examples", "length", "vocabulary")
MODEL = ("model", "norm", "dtype", "pretrained")
# What directions and derivatives are of: the weights, without the statistics.
WEIGHTS = Variables(True, False)


@dataclasses.dataclass(frozen=True)
class Batches:
    """All examples in order, again and again; the last batch may be smaller."""

    dataset: Dataset
    size: int

    def __len__(self) -> int:
        return -(-self.dataset.size // self.size)

    def __iter__(self) -> Iterator[Rows]:
        for rows in batches.evaluation(self.dataset, self.size):
            real = rows.index >= 0
            yield jax.tree.map(lambda leaf, real=real: leaf[real], rows)

    def whole(self) -> "Batches":
        """Without a last one that is smaller, unless it is the only one."""
        count = self.dataset.size // self.size * self.size or self.dataset.size
        return Batches(memory.part(self.dataset, np.arange(count)), self.size)


class Solution(NamedTuple):
    """The last checkpoint of a run.

    Attributes:
      label: what pictures call it, different from the others'.
      folder: of the run.
      job: what was trained.
      step: of the checkpoint.
      variables: weights and statistics, on the host.
    """

    label: str
    folder: Path
    job: Job
    step: int
    variables: Variables

    @property
    def colour(self) -> str:
        """Of the run's method."""
        return METHODS[self.job.experiment.method].colour

    @property
    def marker(self) -> str:
        """Of the run's method."""
        return METHODS[self.job.experiment.method].marker

    @property
    def losses(self) -> Callable[[Variables, Rows], Float[Array, " n"]]:
        """The loss of each example, as in use; one function for all runs of a model."""
        return self.job.programs.losses

    def batches(self, examples: int | None, size: int | None) -> Batches:
        """The first training examples, in batches of this size or as in training."""
        train = self.job.inputs.train
        count = train.size if examples is None else min(examples, train.size)
        return Batches(
            memory.part(train, np.arange(count)), size or self.job.experiment.batch_size
        )

    def sharpness(self) -> list[tuple[float, float]]:
        """Epochs and sharpness, where it was measured in training."""
        path = self.folder / folder.METRICS
        _, evaluations = metrics.read(path) if path.exists() else ([], [])
        return [
            (record["epoch"], record["sharpness"])
            for record in evaluations
            if record.get("sharpness") is not None
        ]


def load(
    folders: Sequence[Path], data_dir: Path | None, console: Console | None
) -> list[Solution]:
    """The last checkpoints of runs of one model on the same data.

    Args:
      folders: of the runs.
      data_dir: of the datasets.
      console: is told of damaged checkpoints, and of long decoding.

    Raises:
      UsageError: if a folder has no checkpoint, or runs differ in more than how they were
        trained.
    """
    if len({where.resolve() for where in folders}) < len(folders):
        raise UsageError("--run must name different folders; got one of them twice")
    about = [_about(each) for each in folders]
    experiments = [experiment for _, experiment in about]
    for where, experiment in zip(folders, experiments, strict=True):
        _check_same(folders[0], experiments[0], where, experiment)
    found = []
    for where, (name, experiment), said in zip(
        folders, about, labels(folders, experiments), strict=True
    ):
        mine = job.prepare(name, experiment, data_dir, console)
        if found:
            # Its functions are the same ones, and compiled.
            shared = mine.programs._replace(losses=found[0].losses)
            mine = mine._replace(programs=shared)
        restored = _restored(where, mine, console)
        state = restored.state
        variables = jax.device_get(Variables(state.params, state.rest))
        found.append(Solution(said, where, mine, restored.step, variables))
    return found


def _about(where: Path) -> tuple[str, Experiment]:
    """Name and settings of a run."""
    if not where.is_dir():
        raise UsageError(f"--run {where}: there is no such folder")
    path = where / folder.CONFIG
    if not path.exists():
        raise UsageError(
            f"--run {where} has no {folder.CONFIG}: give the --out of a run of "
            f"experiments.train"
        )
    saved = CONFIG.read(path)
    try:
        return saved["name"], _experiment(saved["experiment"])
    except TypeError as error:
        raise UsageError(
            f"--run {where} has settings that this version doesn't know ({error}): use the "
            f"version that trained it"
        ) from error


def _experiment(settings: dict[str, Any]) -> Experiment:
    """From JSON; what it doesn't have was at its default."""
    inner: dict[str, Any] = {
        "augmentation": Augmentation(**settings.get("augmentation", {}))
    }
    return Experiment(**settings | inner)


def _check_same(first: Path, mine: Experiment, other: Path, theirs: Experiment) -> None:
    for what, names in (("data", DATA), ("model", MODEL)):
        for name in names:
            here, there = getattr(mine, name), getattr(theirs, name)
            if here != there:
                raise UsageError(
                    f"runs must be of the same {what}: {first} has "
                    f"--{name.replace('_', '-')} {here}, and {other} {there}"
                )


def labels(folders: Sequence[Path], experiments: Sequence[Experiment]) -> list[str]:
    """The method; with its seed, then its folder's name, where that doesn't tell them."""
    words = [[label(one.method, one.k)] for one in experiments]
    more = (
        [f"seed {one.seed}" for one in experiments],
        [where.name for where in folders],
        [f"run {number}" for number in range(1, len(folders) + 1)],
    )
    for additions in more:
        count = Counter(map(tuple, words))
        for said, addition in zip(words, additions, strict=True):
            if count[tuple(said)] > 1:
                said.append(addition)
    return [", ".join(said) for said in words]


def _restored(where: Path, mine: Job, console: Console | None) -> Restored:
    """The last checkpoint that isn't damaged."""

    def check(about: Any) -> None:
        folder.check_same(about, mine.experiment, where)

    def warn(text: str) -> None:
        if console:
            said = f"warning: {text}"
            console.print(said, style="yellow", highlight=False, soft_wrap=True)

    path = where / folder.CHECKPOINTS
    # Orbax would make the folder.
    if path.is_dir():
        with Checkpoints(path) as checkpoints, jax.set_mesh(mine.mesh):
            found = checkpoints.restore(mine.like(), check, warn)
        if found is not None:
            return found
    raise UsageError(
        f"--run {where} has no checkpoint: wait until it has written one, or give another"
    )
