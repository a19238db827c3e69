"""Lengths, angles and finiteness of pytrees, whose leaves may be spread over devices.

In float32 the square of 1e-20 is zero and that of 1e20 infinite. A length here is that of
the numbers, as long as it is a number itself.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, PyTree

from ..devices._spread import arrays_of, spread_over
from ._numbers import can_divide, ratio, real_dtype, widen

# Of each leaf, the mapped axes that it is spread over.
Spread = Sequence[tuple[Any, ...]]


def norm(tree: PyTree, like: PyTree = None) -> Float[Array, ""]:
    """Euclidean norm over all leaves; complex ones count by their modulus.

    Its derivative is zero where all numbers are.

    Args:
      tree: arrays.
      like: parameters with the same leaves. Where one of them is spread over devices by
        `jax.shard_map`, so is the leaf, and its squares are summed over them.
    """
    dtype, pairs = real_dtype(tree), []
    for x, axes in zip(jax.tree.leaves(tree), _spread(tree, like), strict=True):
        pairs += [(part, axes) for part in _real_parts(widen(x))]
    if not pairs:
        return jnp.zeros((), dtype)
    parts, spread = zip(*pairs, strict=True)
    if any(spread):
        return _spread_norm(parts, spread, dtype)
    return _norm(parts, dtype)


def plain_norm(tree: PyTree, like: PyTree = None) -> Float[Array, ""]:
    """As `norm`, of numbers whose squares are numbers, too.

    What is used nowhere else needn't be kept for a second look then.
    """
    return _root(inner(tree, tree, like))


def inner(a: PyTree, b: PyTree, like: PyTree = None) -> Float[Array, ""]:
    """Real inner product of two trees: the sum of Re(conj(a) b) over all coordinates.

    Of numbers that aren't extreme, as those of a `unit`; `like` as in `norm`.
    """
    dtype, spread = real_dtype(a), _spread(a, like)
    terms = [
        jnp.sum(jnp.real(jnp.conj(widen(x)) * widen(y))).astype(dtype)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]
    return _summed(terms, spread) if terms else jnp.zeros((), dtype)


def unit(tree: PyTree, length: Float[Array, ""]) -> PyTree:
    """The tree by its length, in float32 or wider; zeros where that isn't fit for it."""
    return to_length(jax.tree.map(widen, tree), length, 1.0)


def to_length(direction: PyTree, length: Float[Array, ""], rho: Any) -> PyTree:
    """`rho * direction / length`, or zeros where the length is zero or not finite."""
    factor = ratio(jnp.asarray(rho, length.dtype), length)
    is_usable = can_divide(length)
    # `where` rather than multiplying by zero: 0 * NaN is NaN.
    return jax.tree.map(
        lambda d: jnp.where(is_usable, d * factor.astype(d.dtype), jnp.zeros_like(d)),
        direction,
    )


def cosine(a: PyTree, b: PyTree, like: PyTree = None) -> Float[Array, ""]:
    """Of the angle between two trees; zero if one of them is zero."""
    return inner(unit(a, norm(a, like)), unit(b, norm(b, like)), like)


def all_finite(tree: PyTree, like: PyTree = None) -> Bool[Array, ""]:
    """Whether every number of every leaf is finite; `like` as in `norm`."""
    found = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
    if not found:
        return jnp.array(True)
    spread = _spread(tree, like)
    if not any(spread):
        return jnp.all(jnp.stack(found))
    return _summed([1 - ok.astype(jnp.float32) for ok in found], spread) == 0


def rounding_of(gradient: PyTree, like: PyTree = None) -> Float[Array, ""]:
    """Length below which a difference between this gradient and another is their rounding.

    One unit of the gradient's own dtype, and eight of the float32 (or wider) arithmetic
    that summed and averaged it. Leaf by leaf: a bfloat16 one is no excuse for the others.
    """

    def in_units(g: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        wide = widen(g)
        arithmetic = 8 * float(jnp.finfo(wide.dtype).eps)
        units = max(float(jnp.finfo(g.dtype).eps), arithmetic)
        return wide * jnp.asarray(units, wide.dtype)

    return norm(jax.tree.map(in_units, gradient), like)


# Compiled as one: outside of `jax.jit` a `cond` is compiled anew in every call.
@functools.partial(jax.jit, static_argnums=1)
def _norm(parts: Sequence[Array], dtype: Any) -> Float[Array, ""]:
    """By the plain sum of squares, unless too small or large ones went into it."""
    squares = _sum_of_squares(parts, dtype)

    def rescaled() -> Float[Array, ""]:
        scale = _scale_for(squares)
        return _root(_sum_of_squares(parts, dtype, scale)) / scale

    return jax.lax.cond(_is_sound(squares), lambda: _root(squares), rescaled)


def _spread_norm(parts: Sequence[Array], spread: Spread, dtype: Any) -> Float[Array, ""]:
    """Likewise, where each device has a part: one collective for whatever may be needed."""
    scales = [jnp.asarray(scale, dtype) for scale in (1.0, *_scales(dtype))]
    sums = [
        jnp.stack([_sum_of_squares([x], dtype, scale) for scale in scales]) for x in parts
    ]
    squares, of_small, of_large = _summed(sums, spread)
    _, up, down = scales
    rescaled = jnp.where(squares < 1, _root(of_small) / up, _root(of_large) / down)
    return jnp.where(_is_sound(squares), _root(squares), rescaled)


def _is_sound(squares: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether no square that counts was too small or too large for a number."""
    numbers = jnp.finfo(squares.dtype)
    # So far above the smallest number that what was lost below that doesn't count.
    enough = float(numbers.tiny) / float(numbers.eps) ** 2
    return (squares > enough) & jnp.isfinite(squares)


def _scale_for(squares: Float[Array, ""]) -> Float[Array, ""]:
    up, down = _scales(squares.dtype)
    scale = jnp.where(squares < 1, up, down)
    return scale.astype(squares.dtype)


def _scales(dtype: Any) -> tuple[float, float]:
    """Powers of two for numbers whose squares sum up to nothing, and for the others.

    In float32 2**62 and 2**-62, by which all numbers but the very smallest and largest come
    to be ones whose squares are numbers. Their own squares are numbers, too: XLA takes the
    square of a scale alone where what is scaled is a constant.
    """
    scale = 2.0 ** (62 * jnp.finfo(dtype).maxexp / 128)
    return scale, 1 / scale


def _sum_of_squares(
    parts: Sequence[Array], dtype: Any, scale: Any = None
) -> Float[Array, ""]:
    if scale is not None:
        parts = [x * scale.astype(x.dtype) for x in parts]
    return jnp.sum(jnp.stack([jnp.sum(x * x).astype(dtype) for x in parts]))


def _root(x: Float[Array, ""]) -> Float[Array, ""]:
    """The square root, with the derivative zero at zero, where JAX's is infinite."""
    is_positive = x > 0
    root = jnp.sqrt(jnp.where(is_positive, x, jnp.ones_like(x)))
    # NaN isn't positive either, and has to stay one.
    return jnp.where(is_positive, root, x)


def _real_parts(x: Inexact[Array, "..."]) -> list[Array]:
    return [jnp.real(x), jnp.imag(x)] if jnp.iscomplexobj(x) else [x]


def _spread(tree: PyTree, like: PyTree) -> Spread:
    leaves, params = jax.tree.leaves(tree), arrays_of(like)
    # Of something else than these parameters nothing is known; who is given it may say so.
    if len(leaves) != len(params):
        return [()] * len(leaves)
    return [spread_over(x) for x in params]


def _summed(numbers: Sequence[Array], spread: Spread) -> Float[Array, "..."]:
    """The sum of the leaves' numbers, over devices where a leaf is spread over them."""
    parts: dict[tuple[Any, ...], list[Array]] = {}
    for number, axes in zip(numbers, spread, strict=True):
        parts.setdefault(axes, []).append(number)
    sums = {axes: jnp.sum(jnp.stack(mine), axis=0) for axes, mine in parts.items()}
    return jnp.sum(
        jnp.stack([jax.lax.psum(x, axes) if axes else x for axes, x in sums.items()]),
        axis=0,
    )
