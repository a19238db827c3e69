"""What a step is given, and what a model may do in it."""

from typing import Any

from flax import nnx

from ..checks import _kinds
from ..checks._words import several
from ..models._results import losses_and_aux as losses_and_aux
from ..step._state import our_states
from ._look import Look

_CALL = "loss.update"
_OPTIMIZER = (
    "nnx.Optimizer(model, optax.chain(ksam_jax.k_sam(), optax.sgd(0.1)), wrt=nnx.Param)"
)


def model_and_optimizer(model: Any, optimizer: Any) -> None:
    """Checks that they are what they are called."""
    if not isinstance(optimizer, nnx.Optimizer):
        raise TypeError(
            f"{_CALL}(optimizer=...): optimizer must be an nnx.Optimizer; got "
            f"{_kinds.described(optimizer)}; pass {_OPTIMIZER}."
        )
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"{_CALL}(model=...): model must be an nnx.Module; got "
            f"{_kinds.described(model)}; pass the module itself."
        )
    found = len(our_states(nnx.as_pure(optimizer.opt_state)))
    if found != 1:
        raise ValueError(
            f"{_CALL}(optimizer=...): optimizer must have exactly one sharpness-aware "
            f"method in its chain; found {found}; pass {_OPTIMIZER}."
        )


def nothing_is_written(seen: Look) -> None:
    """Checks that an example by itself leaves the model as it is."""
    if seen.written:
        raise ValueError(
            f"ksam_jax.nnx.loss(per_example=True): the model must not write in its call, "
            f"since each example has a copy of its own; it writes {_listed(seen)}; leave "
            f"per_example out, or call model.eval() if these are statistics."
        )


def _listed(seen: Look) -> str:
    return several(".".join(map(str, path)) for path in seen.written)
