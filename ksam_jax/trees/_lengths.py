"""Lengths, angles and finiteness of pytrees, whose leaves may be spread over devices.

In float32 the square of 1e-20 is zero and that of 1e20 infinite. A length here is that of
the numbers, as long as it is a number itself.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, PyTree

from ..devices._spread import arrays_of, spread_over
from ._joined import joined
from ._numbers import real_dtype, to_length, widen
from ._squares import (
    far_sum,
    is_sound,
    length_and_cosine,
    length_of,
    product,
    real_parts,
    root,
    scales,
    sum_of_squares,
)

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
    dtype = real_dtype(tree)
    parts, spread = _parts(tree, dtype, like)
    if not parts:
        return jnp.zeros((), dtype)
    if any(spread):
        return _spread_norm(parts, spread, dtype)
    return length_of(joined(parts))


def plain_norm(tree: PyTree, like: PyTree = None) -> Float[Array, ""]:
    """As `norm`, of numbers whose squares are numbers, too.

    What is used nowhere else needn't be kept for a second look then.
    """
    return root(inner(tree, tree, like))


def inner(a: PyTree, b: PyTree, like: PyTree = None) -> Float[Array, ""]:
    """Real inner product of two trees: the sum of Re(conj(a) b) over all coordinates.

    Of numbers that aren't extreme, as those of a `unit`; `like` as in `norm`.
    """
    dtype = real_dtype([a, b])
    (ours, spread), (theirs, _) = _parts(a, dtype, like), _parts(b, dtype)
    if not ours:
        return jnp.zeros((), dtype)
    if any(spread):
        return _summed(
            [product([x], [y]) for x, y in zip(ours, theirs, strict=True)], spread
        )
    return product(joined(ours), joined(theirs))


def unit(tree: PyTree, length: Float[Array, ""]) -> PyTree:
    """The tree by its length, in float32 or wider; zeros where that isn't fit for it."""
    return to_length(jax.tree.map(widen, tree), length, 1.0)


def cosine(a: PyTree, b: PyTree, like: PyTree = None) -> Float[Array, ""]:
    """Of the angle between two trees; zero if one of them is zero."""
    return norm_and_cosine(a, b, like)[1]


def norm_and_cosine(
    a: PyTree, b: PyTree, like: PyTree = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The norm of `a`, and the cosine of its angle to `b`, which has such leaves, too."""
    if any(_spread(a, like)):
        length = norm(a, like)
        return length, inner(unit(a, length), unit(b, norm(b, like)), like)
    dtype = real_dtype([a, b])
    (ours, _), (theirs, _) = _parts(a, dtype), _parts(b, dtype)
    if not ours:
        return jnp.zeros((), dtype), jnp.zeros((), dtype)
    return length_and_cosine(joined(ours), joined(theirs))


def all_finite(tree: PyTree, like: PyTree = None) -> Bool[Array, ""]:
    """Whether every number of every leaf is finite; `like` as in `norm`."""
    dtype, spread = real_dtype(tree), _spread(tree, like)
    sums = [far_sum(real_parts(x, dtype)) for x in jax.tree.leaves(tree)]
    return jnp.isfinite(_summed(sums, spread)) if sums else jnp.array(True)


def rounding_of(gradient: PyTree, like: PyTree = None) -> Float[Array, ""]:
    """Length below which a difference between this gradient and another is their rounding.

    One unit of the gradient's own dtype, and eight of the float32 (or wider) arithmetic
    that summed and averaged it. Leaf by leaf: a bfloat16 one is no excuse for the others.
    """
    leaves, spread_as = jax.tree.leaves(gradient), arrays_of(like)
    # One length for all leaves of a dtype: that is often one that is known anyway.
    alike: dict[float, list[int]] = {}
    for number, leaf in enumerate(leaves):
        alike.setdefault(_unit_of(leaf), []).append(number)
    if not alike:
        return jnp.zeros((), real_dtype(gradient))
    lengths = []
    for units, numbers in alike.items():
        mine = [widen(leaves[i]) for i in numbers]
        theirs = [spread_as[i] for i in numbers] if len(spread_as) == len(leaves) else None
        length = norm(mine, like=theirs)
        lengths.append(length * jnp.asarray(units, length.dtype))
    return lengths[0] if len(lengths) == 1 else norm(lengths)


def _unit_of(leaf: Inexact[Array, "..."]) -> float:
    """What rounding is, as a share of a number of this leaf."""
    arithmetic = 8 * float(jnp.finfo(widen(leaf).dtype).eps)
    return max(float(jnp.finfo(leaf.dtype).eps), arithmetic)


def _spread_norm(parts: Sequence[Array], spread: Spread, dtype: Any) -> Float[Array, ""]:
    """Likewise, where each device has a part: one collective for whatever may be needed."""
    by = [jnp.asarray(scale, dtype) for scale in (1.0, *scales(dtype))]
    sums = [jnp.stack([sum_of_squares([x], scale) for scale in by]) for x in parts]
    squares, of_small, of_large = _summed(sums, spread)
    _, up, down = by
    rescaled = jnp.where(squares < 1, root(of_small) / up, root(of_large) / down)
    return jnp.where(is_sound(squares), root(squares), rescaled)


def _parts(tree: PyTree, dtype: Any, like: PyTree = None) -> tuple[list[Array], Spread]:
    """The real numbers of all leaves, and the axes that those of each are spread over."""
    pairs = [
        (part, axes)
        for x, axes in zip(jax.tree.leaves(tree), _spread(tree, like), strict=True)
        for part in real_parts(x, dtype)
    ]
    return [part for part, _ in pairs], [axes for _, axes in pairs]


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
