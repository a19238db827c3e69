"""What a row of the table says of a method: everything that anyone asks about it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import optax

from experiments.methods.cost import Cost
from experiments.methods.palette import BLACK

# Names of numbers, which may be traced: vmap over them compiles once for all trials.
Hyperparameters = Mapping[str, Any]

COMMON = ("learning_rate", "weight_decay")


class Words(NamedTuple):
    """A method in the table to choose one by.

    Attributes:
      typed: what a user types, or where it is shown.
      climbs, descends: on which examples.
    """

    typed: str
    climbs: str
    descends: str


@dataclass(frozen=True)
class Method:
    """One method of the comparison.

    Attributes:
      name: what the command line calls it.
      label: what tables and plots call it.
      gradient: makes its gradient transformation; called with its own hyperparameters
        as keywords, with `seed` if it draws random numbers, with `num_examples` if it
        remembers, and with `num_steps` if it changes on the way.
      own: names of its own hyperparameters, besides the learning rate and weight decay;
        their ranges are in configs/spaces.py.
      colour: in plots.
      marker: in plots, as matplotlib names it.
      mark: what plots call it; None for the label.
      random: whether it takes a seed.
      remembers: whether it takes the number of training examples.
      scheduled: whether it takes the number of steps.
      by_default: whether it is compared unless others are named.
      optimizer: of methods without a climb, which are named after it: the only one that it
        stands before; None: any.
      cost: what a step of it costs; None: it isn't measured.
      words: in the table to choose by; None: it isn't there.
      explained: what is said below a table of it, see `experiments.methods.explained`.
      at: of a method whose steps differ: (share of the examples, whether it climbs) ->
        as `gradient`, a method all of whose steps are such ones; None: all steps are alike.
    """

    name: str
    label: str
    gradient: Callable[..., optax.GradientTransformationExtraArgs]
    own: tuple[str, ...] = ()
    colour: str = BLACK
    marker: str = "o"
    mark: str | None = None
    random: bool = False
    remembers: bool = False
    scheduled: bool = False
    by_default: bool = True
    optimizer: str | None = None
    cost: Cost | None = None
    words: Words | None = None
    explained: tuple[str, ...] = ()
    at: (
        Callable[[float, bool], Callable[..., optax.GradientTransformationExtraArgs]] | None
    ) = None

    @property
    def takes(self) -> Mapping[str, inspect.Parameter]:
        """All that `gradient` may be given, with defaults, by name."""
        return inspect.signature(self.gradient).parameters

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Names of all that a search chooses."""
        return COMMON + self.own


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
