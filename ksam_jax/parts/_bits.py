"""Many draws from one Bernoulli distribution, out of as few random bits as can be."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

Shape = tuple[int, ...]

# Each draw is a program of its own for XLA, which takes as long to compile as a layer.
# Arrays of at most so many numbers share one; a larger one may be spread over devices, and
# is drawn where it is.
SMALL = 2**17


def draw_coordinates(
    key: Any, beta: Float[Array, ""], shapes: Sequence[Shape]
) -> list[Bool[Array, "..."]]:
    """Draws from Bernoulli(beta), an array of each shape."""
    sizes = [math.prod(shape) for shape in shapes]
    small = [size for size in sizes if size <= SMALL]
    first, *keys = jax.random.split(key, 1 + len(sizes) - len(small))
    # Or XLA would put the draw into the program of each part, to compile and count there.
    together = jax.lax.optimization_barrier(_draw(first, beta, (sum(small),)))
    parts = iter(jnp.split(together, list(itertools.accumulate(small))))
    others = iter(keys)
    return [
        next(parts).reshape(shape) if size <= SMALL else _draw(next(others), beta, shape)
        for shape, size in zip(shapes, sizes, strict=True)
    ]


def _draw(key: Any, beta: Float[Array, ""], shape: Shape) -> Bool[Array, "..."]:
    """Four draws of each 32-bit word: bits are what a mask costs."""
    *lead, last = shape
    words = jax.random.bits(key, (*lead, -(-last // 4)), jnp.uint32)
    kept = jnp.concatenate(four_draws(words, beta), axis=-1)
    return kept[..., :last]


def four_draws(
    words: UInt32[Array, "..."], beta: Float[Array, ""]
) -> list[Bool[Array, "..."]]:
    """Of each word four draws, of a probability that is beta to within 2**-17.

    A byte is kept if it is below the first byte of beta. Where it is equal, once in 256,
    the second byte decides, of beta and of a number that is uniform whatever that byte is:
    the other three by exclusive or. Any two of the four are independent but for where both
    are equal, once in 2**16, and so are any three.
    """
    threshold = jnp.maximum(jnp.round(beta * 2**16), 1).astype(jnp.uint32)
    first, second = threshold >> 8, threshold & 0xFF
    halves = words ^ (words >> 16)
    every = (halves ^ (halves >> 8)) & 0xFF
    # Of all four, less a byte that is equal to the first: the other three.
    is_kept_if_equal = (every ^ first) < second
    limit = first + is_kept_if_equal.astype(jnp.uint32)
    return [((words >> shift) & 0xFF) < limit for shift in (24, 16, 8, 0)]
