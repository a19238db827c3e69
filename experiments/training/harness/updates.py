"""The optimizer of an experiment: its method with its arguments, and what is behind it."""

from typing import Any

import optax

import ksam_jax
from experiments import methods
from experiments.configs.experiment import OWN, Experiment
from experiments.methods import METHODS
from experiments.methods.method import Method
from experiments.processes.sharded import DATA
from experiments.shell.cli import UsageError
from experiments.training import optimizers
from experiments.training.step import Optimizer

# The type whose gradients may be too small for it, or too large.
SCALED = "float16"


def optimizer(
    experiment: Experiment, examples: int, seed: Any, method: Method | None = None
) -> Optimizer:
    """The method, in front of the base optimizer.

    Args:
      experiment: names both.
      examples: to train on.
      seed: of methods that draw random numbers.
      method: in the place of the experiment's.

    Raises:
      UsageError: if the method doesn't take one of its arguments, or needs another.
      ValueError, TypeError: what the method itself says of their values.
    """
    gradient = methods.gradient(
        method or METHODS[experiment.method],
        _own(experiment),
        seed,
        num_examples=examples,
        num_steps=experiment.steps(examples),
        **_devices(experiment),
    )
    if experiment.dtype == SCALED:
        gradient = ksam_jax.dynamic_loss_scale(gradient)
    base = optimizers.of(
        experiment,
        experiment.steps(examples),
        experiment.learning_rate,
        experiment.weight_decay,
    )
    return Optimizer(gradient, base)


def rate(experiment: Experiment, examples: int) -> optax.Schedule:
    """The learning rate of each step, from 0 on."""
    return optimizers.schedule(
        experiment.learning_rate,
        experiment.steps(examples),
        experiment.schedule,
        experiment.warmup,
    )


def check(experiment: Experiment) -> None:
    """Raises what is wrong with the method's arguments, before anything is loaded.

    Raises:
      UsageError, ValueError, TypeError: as `optimizer`.
    """
    optimizer(experiment, 2 * experiment.batch_size, 0)


def _own(experiment: Experiment) -> dict[str, float]:
    """The method's own arguments that the experiment sets."""
    given = {name: getattr(experiment, name) for name in OWN}
    takes = METHODS[experiment.method].takes
    for name, value in given.items():
        if value is not None and name not in takes:
            valid = ", ".join(f"--{other}" for other in OWN if other in takes)
            raise UsageError(
                f"--{name} is not for --method {experiment.method}, which takes "
                f"{valid or 'nothing of its own'}; got {value}"
            )
        if value is None and name in takes and takes[name].default is takes[name].empty:
            raise UsageError(
                f"--method {experiment.method} needs --{name.replace('_', '-')}"
            )
    if "sync_ascent" not in takes and not experiment.sync_ascent:
        raise UsageError(
            f"--no-sync-ascent is not for --method {experiment.method}, which doesn't climb"
        )
    return {name: value for name, value in given.items() if value is not None}


def _devices(experiment: Experiment) -> dict[str, Any]:
    takes = METHODS[experiment.method].takes
    known: dict[str, Any] = {"axis_name": DATA, "sync_ascent": experiment.sync_ascent}
    return {name: value for name, value in known.items() if name in takes}
