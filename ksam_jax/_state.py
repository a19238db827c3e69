"""What a transformation carries from step to step."""

from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Bool

from ._info import SharpnessAwareInfo


class SharpnessAwareState(NamedTuple):
    """What a sharpness-aware transformation carries from step to step.

    Attributes:
      perturbation: state of the perturbation, for example F-SAM's moving average.
      ascent: state of the selection for the climb, or of `past_descent`.
      descent: state of the selection for the descent, unless it is the climb's.
      info: what the last step says about itself.
      both_finite: whether both gradients of the last step were finite, of the ascent
        gradient what the climb used; looked at only with `loss_scale`, else True.
      aux: aux of the clean pass, between `update` and `take_aux`; None at rest.
    """

    perturbation: optax.OptState
    ascent: Any
    descent: Any
    info: SharpnessAwareInfo
    both_finite: Bool[Array, ""]
    aux: Any = None
