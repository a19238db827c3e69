"""Sums of squares and products in float32 of numbers whose squares aren't numbers there.

The plain sums are right for nearly all trees. For the others the same program sums once
more, scaled: a loop, so that it is compiled once.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact

from ..devices._spread import spread_like
from ._numbers import ratio, to_length

Parts = Sequence[Array]


@jax.custom_jvp
def length_of(parts: Parts) -> Float[Array, ""]:
    """The root of the sum of squares over all parts, which are real."""
    (scale,), (squares,) = _fitting_products(parts)
    return root(squares) / scale


@length_of.defjvp
def _(primals: tuple[Parts], tangents: tuple[Parts]) -> tuple[Array, Array]:
    ((parts,), (rates,)) = primals, tangents
    length = length_of(parts)
    return length, _product(to_length(parts, length, 1.0), rates)


@jax.custom_jvp
def length_and_cosine(
    ours: Parts, theirs: Parts
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Of our parts the length, and of the angle to theirs the cosine; zero if one is."""
    (scale, _), (squares, product, others) = _fitting_products(ours, theirs)
    length = root(squares)
    return length / scale, ratio(ratio(product, length), root(others))


@length_and_cosine.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (ours, theirs), (our_rates, their_rates) = primals, tangents
    length, cosine = length_and_cosine(ours, theirs)
    other = length_of(theirs)
    our_unit = to_length(ours, length, 1.0)
    their_unit = to_length(theirs, other, 1.0)

    def across(unit: Parts, to: Parts, length: Array) -> Parts:
        rest = [v - cosine * u for u, v in zip(unit, to, strict=True)]
        return to_length(rest, length, 1.0)

    turned = _product(across(our_unit, their_unit, length), our_rates)
    turned += _product(across(their_unit, our_unit, other), their_rates)
    return (length, cosine), (_product(our_unit, our_rates), turned)


def sum_of_squares(parts: Parts, scale: Array) -> Float[Array, ""]:
    """Of real numbers, each times `scale` before it is squared."""
    parts = [x * scale for x in parts]
    return _product(parts, parts)


# Compiled as one: of infinities it makes NaN on the way, which `jax_debug_nans` looks for.
@jax.jit
def far_sum(parts: Parts) -> Float[Array, ""]:
    """A sum that is a number where all parts are: cheaper than a look at each.

    What is summed is far from the largest number.
    """
    by = scales(parts[0].dtype)[1]
    return jnp.sum(jnp.stack([jnp.sum(x * by) for x in parts]))


def is_sound(squares: Float[Array, "..."]) -> Bool[Array, "..."]:
    """Whether no square that counts was too small or too large for a number."""
    numbers = jnp.finfo(squares.dtype)
    # So far above the smallest number that what was lost below that doesn't count.
    enough = float(numbers.tiny) / float(numbers.eps) ** 2
    return (squares > enough) & jnp.isfinite(squares)


def scales(dtype: Any) -> tuple[float, float]:
    """Powers of two for numbers whose squares sum up to nothing, and for the others.

    In float32 2**62 and 2**-62, by which all numbers but the very smallest and largest come
    to be ones whose squares are numbers. Their own squares are numbers, too: XLA takes the
    square of a scale alone where what is scaled is a constant.
    """
    scale = 2.0 ** (62 * jnp.finfo(dtype).maxexp / 128)
    return scale, 1 / scale


def root(x: Float[Array, ""]) -> Float[Array, ""]:
    """The square root, with the derivative zero at zero, where JAX's is infinite."""
    is_positive = x > 0
    safe = jnp.sqrt(jnp.where(is_positive, x, jnp.ones_like(x)))
    # NaN isn't positive either, and has to stay one.
    return jnp.where(is_positive, safe, x)


def real_parts(x: Inexact[Array, "..."], dtype: Any) -> list[Array]:
    """What of a leaf is squared, in the dtype of the sum."""
    parts = [jnp.real(x), jnp.imag(x)] if jnp.iscomplexobj(x) else [x]
    return [part.astype(dtype) for part in parts]


# Compiled as one: outside of `jax.jit` a loop is compiled anew in every call.
@jax.jit
def _fitting_products(*trees: Parts) -> tuple[Array, Array]:
    """A scale for each tree, and the products of all pairs of the trees so scaled."""
    pairs = list(itertools.combinations_with_replacement(range(len(trees)), 2))
    squares = jnp.array([i for i, (a, b) in enumerate(pairs) if a == b])
    leaves = [x for tree in trees for x in tree]
    # Typed alike before the loop: under `vmap` JAX doesn't do it right within.
    trees = tuple([spread_like(x, leaves) for x in tree] for tree in trees)

    def summed(by: Array) -> tuple[Array, Array]:
        found = [_product(trees[a], trees[b], by[a] * by[b]) for a, b in pairs]
        return by, jnp.stack(found)

    def turn(carry: tuple[Array, Array], is_first: Array) -> tuple[Any, None]:
        by, found = carry
        own = jax.lax.stop_gradient(found[squares])
        again = jnp.where(is_first, by, _scale_for(own))
        is_due = is_first | ~jnp.all(is_sound(own))
        return jax.lax.cond(is_due, summed, lambda _: carry, again), None

    by = spread_like(jnp.ones(len(trees), leaves[0].dtype), leaves)
    found = spread_like(jnp.zeros(len(pairs), leaves[0].dtype), leaves)
    # Of a `while_loop` JAX has no derivative backward, and the rule above isn't asked for
    # a second one inside a scan.
    return jax.lax.scan(turn, (by, found), jnp.array([True, False]))[0]


def _scale_for(squares: Float[Array, " trees"]) -> Float[Array, " trees"]:
    """What makes numbers of such squares fit, and one where they do."""
    up, down = scales(squares.dtype)
    scale = jnp.where(is_sound(squares), 1.0, jnp.where(squares < 1, up, down))
    return scale.astype(squares.dtype)


def _product(ours: Parts, theirs: Parts, scale: Array | None = None) -> Float[Array, ""]:
    """The inner product, ours by theirs times the scale."""
    if scale is not None:
        theirs = [y * scale for y in theirs]
    return jnp.sum(jnp.stack([jnp.sum(x * y) for x, y in zip(ours, theirs, strict=True)]))
