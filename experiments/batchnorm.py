"""Compares three gradients of the highest losses of a model with BatchNorm.

K-SAM as published runs the chosen examples as a batch of their own, with their own
statistics. A pass shared with the whole batch would have that batch's statistics instead:
differentiated through, or as constants. Each gradient is taken at the initial weights and
on the way of SGD with momentum, with several seeds.

Writes OUT/batchnorm/results.json. It needs CIFAR-10, prepared by tensorflow_datasets, and
takes about five minutes on two cores.

Example: python -m experiments.batchnorm --data-dir DIR
"""

import datetime
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree
from rich.console import Console
from tyro.conf import arg

from experiments.configs.compare import CIFAR10
from experiments.configs.options import DataDir
from experiments.data import catalogue, memory
from experiments.data.examples import Dataset, Examples
from experiments.data.normalization import Normalization, normalized
from experiments.models import ResNet
from experiments.pages.batchnorm import BATCHNORM
from experiments.shell import cli, files, progress
from experiments.training import batchnorm as gradients
from experiments.training.replicas import batch_rows

PROG = "python -m experiments.batchnorm"
LEARNING_RATE, MOMENTUM = 0.1, 0.9
# From about -2 to 2 in each of three channels.
PIXELS = Normalization((127.5,) * 3, (64.0,) * 3, scale=1)


@dataclass(frozen=True)
class Setup:
    """What is measured.

    Attributes:
      widths: of the ResNet's stages.
      images: how many of the training examples are used, from the first on.
      batch: examples per step.
      chosen: how many of them, those of the highest losses.
      steps: numbers of training steps after which gradients are compared.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    images: int = 1024
    batch: int = 128
    chosen: int = 32
    steps: tuple[int, ...] = (0, 20, 60)


SETUP = Setup()


@dataclass(frozen=True)
class Config:
    """Options."""

    data_dir: DataDir = None
    seeds: Annotated[
        int, arg(help="Seeds: initial weights and order of the batches; at least 2.")
    ] = 5
    out: Annotated[
        Path, arg(metavar="DIR", help="The result goes into the folder batchnorm in it.")
    ] = Path("results")


class Compiled(NamedTuple):
    """Functions of weights, so that another seed needs no compilation.

    Attributes:
      init: random key -> parameters and the optimizer's state.
      advance: (parameters, state, batch) -> both after a step.
      measure: (parameters, batch) -> figures by name.
    """

    init: Callable[[Array], tuple[PyTree, PyTree]]
    advance: Callable[[PyTree, PyTree, Examples], tuple[PyTree, PyTree]]
    measure: Callable[[PyTree, Examples], dict[str, Array]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    cli.at_least("seeds", config.seeds, 2)
    dataset = catalogue.load(CIFAR10.experiment.dataset, config.data_dir)
    folder = cli.writable(config.out / "batchnorm")
    rows = measured(dataset, SETUP, config.seeds, progress.console())
    content = _about(config, dataset, SETUP) | {
        "rows": rows,
        "machine": files.machine(),
        "versions": files.versions(),
    }
    BATCHNORM.write(folder / "results.json", content)
    print(f"written: {folder / 'results.json'}")
    return 0


def _about(config: Config, dataset: Dataset, setup: Setup) -> dict[str, Any]:
    widths = "-".join(str(width) for width in setup.widths)
    return {
        "command": cli.command(PROG, config, without=("out",)),
        "date": datetime.date.today().isoformat(),
        "dataset": dataset.title,
        "model": f"ResNet {widths}, BatchNorm",
        "optimizer": f"SGD, momentum {MOMENTUM}, learning rate {LEARNING_RATE}",
        "seeds": config.seeds,
        "images": setup.images,
        "batch": setup.batch,
        "chosen": setup.chosen,
    }


def measured(
    dataset: Dataset, setup: Setup, seeds: int, console: Console
) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of every figure, by number of steps.

    Args:
      dataset: whose first examples are used.
      setup: sizes and numbers of steps.
      seeds: how many.
      console: where progress is shown.
    """
    raw = memory.compact(dataset.fetch(np.arange(setup.images)))
    examples = Examples(normalized(PIXELS, raw.inputs), jnp.asarray(raw.labels))
    build = partial(ResNet, dataset.shape, dataset.classes, widths=setup.widths)
    functions = compiled(gradients.losses(build), setup.chosen)
    with progress.Display(console, seeds) as display:
        runs = [
            one_seed(functions, setup, examples, seed, display) for seed in range(seeds)
        ]
    at_once = zip(setup.steps, zip(*runs, strict=True), strict=True)
    return [{"steps": steps} | _summary(found) for steps, found in at_once]


def _summary(runs: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    values = {name: np.array([run[name] for run in runs]) for name in runs[0]}
    return {
        name: {"mean": float(np.mean(x)), "std": float(np.std(x, ddof=1))}
        for name, x in values.items()
    }


def compiled(model: gradients.Losses, chosen: int) -> Compiled:
    """Training by SGD with momentum, and the measurement.

    Args:
      model: its losses.
      chosen: how many examples of a batch, those of the highest losses.
    """
    optimizer = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)

    def init(key: Array) -> tuple[PyTree, PyTree]:
        params = model.init(key)
        return params, optimizer.init(params)

    def advance(params: PyTree, state: PyTree, batch: Examples) -> tuple[PyTree, PyTree]:
        gradient = jax.grad(lambda p: model.own(p, batch)[0].mean())(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    def measure(params: PyTree, batch: Examples) -> dict[str, Array]:
        found = gradients.gradients(model, params, batch, chosen)
        return gradients.figures(params, found)

    return Compiled(jax.jit(init), jax.jit(advance), jax.jit(measure))


def one_seed(
    functions: Compiled,
    setup: Setup,
    examples: Examples,
    seed: int,
    display: progress.Display,
) -> list[dict[str, float]]:
    """Trains once; the figures after each number of steps, on the batch that is next.

    Args:
      functions: training and measurement.
      setup: sizes and numbers of steps.
      examples: the training examples.
      seed: of initial weights and order of the batches.
      display: where progress is shown.
    """
    display.begin(f"seed {seed}", max(setup.steps))
    params, state = functions.init(jax.random.key(seed))
    found = []
    for step, batch in enumerate(_batches(examples, setup.batch, seed)):
        if step in setup.steps:
            values = functions.measure(params, batch)
            found.append({name: float(value) for name, value in values.items()})
        if step == max(setup.steps):
            break
        params, state = functions.advance(params, state, batch)
        display.advance(1)
    display.end(f"cosine with constants {found[-1]['cosine_constants']:.2f}")
    return found


def _batches(examples: Examples, size: int, seed: int) -> Iterator[Examples]:
    """Endless epochs, each in another order."""
    for epoch in itertools.count():
        rows = batch_rows(jnp.array([seed]), epoch, examples.number, size)[0]
        for row in rows:
            yield Examples(examples.inputs[row], examples.labels[row])


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
