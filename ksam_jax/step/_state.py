"""What a transformation carries from step to step."""

from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Bool, Int, PyTree

from ._info import SharpnessAwareInfo


class SharpnessAwareState(NamedTuple):
    """What a sharpness-aware transformation carries from step to step.

    Attributes:
      perturbation: state of the perturbation, for example F-SAM's moving average.
      ascent: state of the selection for the climb, or of `past_descent` or the like.
      descent: state of the selection for the descent, unless it is the climb's.
      combine: state of `combine`, for example LookSAM's remembered part.
      info: what the last step says about itself.
      both_finite: whether both gradients of the last step were finite, of the ascent
        gradient what the climb used; looked at only with `loss_scale`, else True.
      aux: aux of the clean pass, or of the perturbed one where that was asked for, between
        `update` and `take_aux`; None at rest.
    """

    perturbation: optax.OptState
    ascent: Any
    descent: Any
    combine: Any
    info: SharpnessAwareInfo
    both_finite: Bool[Array, ""]
    aux: Any = None


class SwitchState(NamedTuple):
    """What `join_methods` and `every` carry from step to step.

    Attributes:
      steps: how many were taken, which says whose turn it is.
      methods: the state of each method, without what all have in common.
      shared: what the methods were told to share, by the name of its field.
      info: what the last step says about itself, whichever method made it.
      both_finite: as in `SharpnessAwareState`.
      aux: likewise.
    """

    steps: Int[Array, ""]
    methods: tuple[Any, ...]
    shared: dict[str, Any]
    info: SharpnessAwareInfo
    both_finite: Bool[Array, ""]
    aux: Any = None


def is_ours(x: Any) -> bool:
    """Whether it is a state of this library that has an info."""
    return isinstance(x, SharpnessAwareState | SwitchState)


def our_states(opt_state: Any) -> list[Any]:
    """The states of sharpness-aware transformations that are in there, the outermost."""
    return [x for x in jax.tree.leaves(opt_state, is_leaf=is_ours) if is_ours(x)]


def with_fields(opt_state: Any, **fields: Any) -> PyTree:
    """The same with other values in the fields of our states, the outermost."""
    return jax.tree.map(
        lambda x: x._replace(**fields) if is_ours(x) else x, opt_state, is_leaf=is_ours
    )
