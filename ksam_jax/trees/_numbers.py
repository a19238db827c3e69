"""Dtypes wide enough to add up in, and divisions that are safe."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PyTree


def widen(x: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """Casts to at least float32 (complex64), in which squares neither vanish nor round."""
    return jnp.asarray(x, wide_dtype(x.dtype))


def real_dtype(tree: PyTree) -> Any:
    """The real dtype wide enough for sums over the leaves: float32, or float64."""
    kinds = [jnp.finfo(wide_dtype(x.dtype)).dtype for x in jax.tree.leaves(tree)]
    return max(kinds, key=lambda dtype: dtype.itemsize, default=jnp.dtype("float32"))


def wide_zeros(params: PyTree) -> PyTree:
    """Zeros like the parameters, or like their shapes, in float32 or wider."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=wide_dtype(p.dtype)), params)


def wide_dtype(dtype: Any) -> Any:
    """`dtype`, or float32 where it is narrower than that."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype("float32")


def divided(x: Inexact[Array, "..."], by: Any) -> Inexact[Array, "..."]:
    """`x / by` for a real `by`: in float32 or wider, and then in the dtype of `x`."""
    wide = widen(x)
    by = jnp.asarray(by, jnp.finfo(wide.dtype).dtype)
    if jnp.iscomplexobj(wide):
        # Part by part: a division by a complex number rounds, and turns inf into NaN.
        wide = jax.lax.complex(jnp.real(wide) / by, jnp.imag(wide) / by)
    else:
        wide = wide / by
    return wide.astype(x.dtype)


def can_divide(x: Array) -> Array:
    """Whether a norm, or a product of norms, is fit to be divided by."""
    return (x > 0) & jnp.isfinite(x)


def ratio(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`, and zero where the denominator is zero or not finite."""
    # The denominator is made safe before dividing: `where` alone would compute x / 0 in
    # the branch not taken, which trips jax_debug_nans.
    usable = can_divide(denominator)
    safe = jnp.where(usable, denominator, jnp.ones_like(denominator))
    return jnp.where(usable, numerator / safe, jnp.zeros_like(denominator))


def to_length(direction: PyTree, length: Float[Array, ""], rho: Any) -> PyTree:
    """`rho * direction / length`, or zeros where the length is zero or not finite."""
    factor = ratio(jnp.asarray(rho, length.dtype), length)
    is_usable = can_divide(length)
    # `where` rather than multiplying by zero: 0 * NaN is NaN.
    return jax.tree.map(
        lambda d: jnp.where(is_usable, d * factor.astype(d.dtype), jnp.zeros_like(d)),
        direction,
    )
