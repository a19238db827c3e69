"""Sums of squares in float32 of numbers whose squares aren't numbers there.

The plain sums are right for nearly all trees. For the others the same program sums once
more, scaled: a loop, so that it is compiled once. Kernels of convolutions are scaled at
once, by the largest number.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact

from ..devices._spread import spread_like
from ._numbers import ratio, to_length

Parts = Sequence[Array]

# Parts that one loop sums: compiling a loop takes time that grows with their square.
MOST = 64
# Axes of those that a loop sums: the gradients of kernels with more come transposed, and a
# loop would need copies of them, where a sum reads them as they are.
MOST_AXES = 2


@jax.custom_jvp
def length_of(parts: Parts) -> Float[Array, ""]:
    """The root of the sum of squares over all parts, which are real."""
    plain = [x for x in parts if x.ndim <= MOST_AXES]
    groups = [plain[i : i + MOST] for i in range(0, len(plain), MOST)]
    lengths = [_looked_after(group) for group in groups]
    kernels = [x for x in parts if x.ndim > MOST_AXES]
    if kernels:
        lengths.append(_by_largest(kernels))
    return lengths[0] if len(lengths) == 1 else _by_largest([jnp.stack(lengths)])


def _looked_after(parts: Parts) -> Float[Array, ""]:
    """Their length, of plain squares if these are numbers."""
    scale, squares = _fitting_squares(parts)
    return root(squares) / scale


def _by_largest(parts: Parts) -> Float[Array, ""]:
    """Their length, of squares of the parts by the largest number: two reads of all."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in parts]))
    scale = _to_one(largest)
    return root(sum_of_squares(parts, scale)) / scale


@length_of.defjvp
def _(primals: tuple[Parts], tangents: tuple[Parts]) -> tuple[Array, Array]:
    ((parts,), (rates,)) = primals, tangents
    length = length_of(parts)
    return length, product(to_length(parts, length, 1.0), rates)


@jax.custom_jvp
def length_and_cosine(
    ours: Parts, theirs: Parts
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Of our parts the length, and of the angle to theirs the cosine; zero if one is."""
    length, other = length_of(ours), length_of(theirs)
    (ours, mine), (theirs, their) = _near_one(ours, length), _near_one(theirs, other)
    return length, ratio(product(ours, theirs), mine * their)


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

    turned = product(across(our_unit, their_unit, length), our_rates)
    turned += product(across(their_unit, our_unit, other), their_rates)
    return (length, cosine), (product(our_unit, our_rates), turned)


def sum_of_squares(parts: Parts, scale: Array) -> Float[Array, ""]:
    """Of real numbers, each times `scale` before it is squared."""
    parts = [x * scale for x in parts]
    return product(parts, parts)


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
def _fitting_squares(parts: Parts) -> tuple[Array, Array]:
    """A scale, and the sum of the squares of all numbers so scaled."""
    # Typed alike before the loop: under `vmap` JAX doesn't do it right within.
    parts = [spread_like(x, parts) for x in parts]

    def summed(by: Array) -> tuple[Array, Array]:
        return by, sum_of_squares(parts, by)

    def turn(carry: tuple[Array, Array], is_first: Array) -> tuple[Any, None]:
        by, found = carry
        own = jax.lax.stop_gradient(found)
        again = jnp.where(is_first, by, _scale_for(own))
        is_due = is_first | ~is_sound(own)
        return jax.lax.cond(is_due, summed, lambda _: carry, again), None

    by = spread_like(jnp.ones((), parts[0].dtype), parts)
    # Of a `while_loop` JAX has no derivative backward, and the rule above isn't asked for
    # a second one inside a scan. Two trees in one loop would compile twice as long.
    return jax.lax.scan(turn, (by, jnp.zeros_like(by)), jnp.array([True, False]))[0]


def _scale_for(squares: Float[Array, ""]) -> Float[Array, ""]:
    """What makes numbers of such squares fit, and one where they do."""
    up, down = scales(squares.dtype)
    scale = jnp.where(is_sound(squares), 1.0, jnp.where(squares < 1, up, down))
    return scale.astype(squares.dtype)


def _near_one(parts: Parts, length: Array) -> tuple[Parts, Array]:
    """Parts of a length near one, and that length: what their products are divided by.

    Unlike true units they need no look at whether there is a length, for which XLA keeps a
    copy of each.
    """
    scale = _to_one(length)
    return [x * scale for x in parts], length * scale


def _to_one(length: Float[Array, ""]) -> Float[Array, ""]:
    """What brings a length near one, and is a number itself."""
    tiny = jnp.finfo(length.dtype).tiny
    return 1 / jnp.clip(length, tiny, 1 / tiny)


def product(ours: Parts, theirs: Parts) -> Float[Array, ""]:
    """The inner product."""
    return jnp.sum(jnp.stack([jnp.sum(x * y) for x, y in zip(ours, theirs, strict=True)]))
