"""The methods that are compared: one row each."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import optax

import ksam_jax
from experiments.methods.baselines import highest_loss_gradient, mean_gradient
from experiments.methods.colours import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from experiments.methods.combinations import (
    random_k_sam,
    remembered_k_momentum_sam,
    remembered_k_sam,
    sam_last_fifth,
)

# Names of numbers, which may be traced: vmap over them compiles once for all trials.
Hyperparameters = Mapping[str, Any]

COMMON = ("learning_rate", "weight_decay")


@dataclass(frozen=True)
class Method:
    """One method of the comparison.

    Attributes:
      name: what the command line calls it.
      label: what tables and plots call it.
      gradient: makes its gradient transformation; called with its own hyperparameters
        as keywords, with `seed` if it draws random numbers, with `num_examples` if it
        remembers, and with `num_steps` if it changes on the way.
      own: names of its own hyperparameters, besides the learning rate and weight decay.
      random: whether it takes a seed.
      colour: in plots.
      marker: in plots, as matplotlib names it.
      remembers: whether it takes the number of training examples.
      scheduled: whether it takes the number of steps.
      by_default: whether it is compared unless others are named.
      mark: what plots call it; None for the label.
      optimizer: of methods without a climb, which are named after it: the only one that it
        stands before; None: any.
    """

    name: str
    label: str
    gradient: Callable[..., optax.GradientTransformationExtraArgs]
    own: tuple[str, ...]
    random: bool
    colour: str
    marker: str
    remembers: bool = False
    scheduled: bool = False
    by_default: bool = True
    mark: str | None = None
    optimizer: str | None = None

    @property
    def takes(self) -> Mapping[str, inspect.Parameter]:
        """All that `gradient` may be given, with defaults, by name."""
        return inspect.signature(self.gradient).parameters

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Names of all that a search chooses."""
        return COMMON + self.own


METHODS = {
    method.name: method
    for method in (
        Method("sgd", "SGD", mean_gradient, (), False, BLACK, "s", optimizer="sgd"),
        Method(
            "adamw",
            "AdamW",
            mean_gradient,
            (),
            False,
            BLACK,
            "p",
            by_default=False,
            optimizer="adamw",
        ),
        Method(
            "highest_loss",
            "highest loss, no climb",
            partial(highest_loss_gradient, k=0.25),
            (),
            False,
            BLACK,
            "X",
            mark="no climb",
        ),
        Method("sam", "SAM", ksam_jax.sam, ("rho",), False, BLUE, "o"),
        Method("asam", "ASAM", ksam_jax.asam, ("rho",), False, SKY, "o"),
        Method(
            "random_sam",
            "random-subset SAM",
            partial(ksam_jax.random_sam, m=0.25),
            ("rho",),
            True,
            PURPLE,
            "v",
            mark="random SAM",
        ),
        Method(
            "k_sam",
            "K-SAM, k = 1/4",
            partial(ksam_jax.k_sam, k=0.25, mean_over="chosen"),
            ("rho",),
            False,
            VERMILLION,
            "D",
            mark="K-SAM 1/4",
        ),
        Method(
            "k_sam_half",
            "K-SAM, k = 1/2",
            partial(ksam_jax.k_sam, k=0.5, mean_over="chosen"),
            ("rho",),
            False,
            VERMILLION,
            "d",
            mark="K-SAM 1/2",
        ),
        Method(
            "esam",
            "ESAM",
            partial(ksam_jax.esam, gamma=0.5),
            ("rho", "beta"),
            True,
            GREEN,
            "^",
        ),
        Method(
            "f_sam",
            "F-SAM",
            ksam_jax.f_sam,
            ("rho", "sigma", "decay"),
            False,
            ORANGE,
            "P",
        ),
        Method(
            "momentum_sam",
            "Momentum-SAM",
            ksam_jax.momentum_sam,
            ("rho", "decay"),
            False,
            SKY,
            "<",
            mark="Momentum",
        ),
        Method(
            "k_momentum_sam",
            "K-Momentum-SAM, k = 1/4",
            partial(ksam_jax.k_momentum_sam, k=0.25, mean_over="chosen"),
            ("rho", "decay"),
            False,
            VERMILLION,
            "<",
            mark="K-Momentum 1/4",
        ),
        Method(
            "k_sam_following",
            "K-SAM, k follows training",
            ksam_jax.k_sam,
            ("rho",),
            False,
            VERMILLION,
            "*",
            by_default=False,
            mark="K-SAM",
        ),
        Method(
            "k_momentum_following",
            "K-Momentum-SAM, k follows training",
            ksam_jax.k_momentum_sam,
            ("rho", "decay"),
            False,
            VERMILLION,
            ">",
            by_default=False,
            mark="K-Momentum",
        ),
        Method(
            "k_sam_over_batch",
            "K-SAM, k = 1/4, over the batch",
            partial(ksam_jax.k_sam, k=0.25, mean_over="batch"),
            ("rho",),
            False,
            VERMILLION,
            "h",
            by_default=False,
            mark="K-SAM 1/4, batch",
        ),
        Method(
            "k_momentum_over_batch",
            "K-Momentum-SAM, k = 1/4, over the batch",
            partial(ksam_jax.k_momentum_sam, k=0.25, mean_over="batch"),
            ("rho", "decay"),
            False,
            VERMILLION,
            "H",
            by_default=False,
            mark="K-Momentum 1/4, batch",
        ),
        Method(
            "esam_over_batch",
            "ESAM, over the batch",
            partial(ksam_jax.esam, gamma=0.5, mean_over="batch"),
            ("rho", "beta"),
            True,
            GREEN,
            "v",
            by_default=False,
            mark="ESAM, batch",
        ),
        Method(
            "random_k_sam",
            "SAM on a random 1/4, both passes",
            random_k_sam,
            ("rho",),
            True,
            PURPLE,
            "X",
            by_default=False,
            mark="random 1/4, both",
        ),
        Method(
            "coverage_without_climb",
            "k follows training, no climb",
            partial(ksam_jax.k_momentum_sam, 0.0),
            (),
            False,
            BLACK,
            "P",
            by_default=False,
            mark="follows, no climb",
        ),
        Method(
            "sam_last_fifth",
            "SAM in the last fifth",
            sam_last_fifth,
            ("rho",),
            False,
            BLUE,
            "8",
            scheduled=True,
            by_default=False,
        ),
        Method(
            "k_sam_remembered",
            "remembered K-SAM, k = 1/4",
            partial(remembered_k_sam, k=0.25),
            ("rho",),
            False,
            PURPLE,
            "D",
            remembers=True,
            mark="K-SAM, rem.",
        ),
        Method(
            "k_momentum_remembered",
            "remembered K-Momentum-SAM, k = 1/4",
            partial(remembered_k_momentum_sam, k=0.25),
            ("rho", "decay"),
            False,
            PURPLE,
            "<",
            remembers=True,
            mark="K-Momentum, rem.",
        ),
        Method(
            "k_sam_remembered_half",
            "remembered K-SAM, k = 1/2",
            partial(remembered_k_sam, k=0.5),
            ("rho",),
            False,
            PURPLE,
            "d",
            remembers=True,
            by_default=False,
        ),
        Method(
            "k_sam_skip_eighth",
            "K-SAM, k = 1/4, skip = 1/8",
            partial(ksam_jax.k_sam, k=0.25, skip=0.125, mean_over="chosen"),
            ("rho",),
            False,
            GREEN,
            "D",
            by_default=False,
        ),
        Method(
            "k_sam_half_skip_quarter",
            "K-SAM, k = 1/2, skip = 1/4",
            partial(ksam_jax.k_sam, k=0.5, skip=0.25, mean_over="chosen"),
            ("rho",),
            False,
            GREEN,
            "s",
            by_default=False,
        ),
        Method(
            "k_sam_skip_quarter",
            "K-SAM, k = 1/4, skip = 1/4",
            partial(ksam_jax.k_sam, k=0.25, skip=0.25, mean_over="chosen"),
            ("rho",),
            False,
            GREEN,
            "d",
            by_default=False,
        ),
    )
}


def label(name: str, k: float | None = None) -> str:
    """What tables call a method, with another k than its own if there is one."""
    named = METHODS[name].label
    if k is None:
        return named
    bare = re.sub(r", k = [^,]+", "", named)
    return f"{bare}, k = {k:g}"


# What is compared and searched for unless methods are named.
DEFAULT = tuple(name for name, method in METHODS.items() if method.by_default)


def gradient(
    method: Method,
    hyperparameters: Hyperparameters,
    seed: Any,
    *,
    num_examples: int,
    num_steps: int,
    **devices: Any,
) -> optax.GradientTransformationExtraArgs:
    """The method's gradient transformation.

    Args:
      method: a row of the table.
      hyperparameters: any of the method's arguments; the common ones aren't looked at.
      seed: of methods that draw random numbers.
      num_examples: to train on, for methods that remember.
      num_steps: of the training, for methods that change on the way.
      **devices: `axis_name` and `sync_ascent`, where there are several.
    """
    own: dict[str, Any] = {
        name: value for name, value in hyperparameters.items() if name not in COMMON
    }
    if method.random:
        own["seed"] = seed
    if method.remembers:
        own["num_examples"] = num_examples
    if method.scheduled:
        own["num_steps"] = num_steps
    return method.gradient(**own, **devices)
