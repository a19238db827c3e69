"""What a function of a model and a batch has to return."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..checks import _remedies


def losses_and_aux(call: str, out: Any, n: int, has_aux: bool) -> tuple[Array, Any]:
    """Splits it into losses of shape `(n,)` and aux, None where there is none."""
    if has_aux and (not isinstance(out, tuple) or len(out) != 2):
        raise TypeError(
            f"{call}(has_aux=True): function must return (losses, aux); got "
            f"{type(out).__name__}; return a pair, or leave has_aux out."
        )
    losses, aux = out if has_aux else (out, None)
    rule = f"{call}(function): function must return one loss per example, shape ({n},)"
    if isinstance(losses, tuple):
        raise TypeError(f"{rule}; got a tuple; pass has_aux=True if it has aux.")
    if not isinstance(losses, jax.Array):
        raise TypeError(
            f"{rule}; got {type(losses).__name__}; {_remedies.for_no_losses(losses)}."
        )
    if losses.shape != (n,):
        remedy = _remedies.for_losses(losses.shape, n)
        raise ValueError(f"{rule}; got shape {losses.shape}; {remedy}")
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"{rule}, real floating-point; got dtype {losses.dtype}; cast it.")
    return losses, aux
