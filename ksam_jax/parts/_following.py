"""What a k that follows training remembers: which size runs, and what a step adds to it."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from ..trees._numbers import widen
from ._coverage import Coverage

# So that sums and squares of as many are still numbers.
_LARGE = 1e30


class CoverageState(NamedTuple):
    """What the highest losses carried in the steps before, and whether training gets on.

    Attributes:
      steps: how many steps there were.
      carried: for each size that there is, the share of the loss that so many examples
        carried, a moving average.
      loss: the mean loss of all examples, a moving average.
      mark: what that was at the last look, from which it has to fall.
      is_falling: whether it has fallen enough at every look so far; False from the start
        where that isn't asked.
    """

    steps: Int[Array, ""]
    carried: Float[Array, " sizes"]
    loss: Float[Array, ""]
    mark: Float[Array, ""]
    is_falling: Bool[Array, ""]


def unseen(coverage: Coverage) -> CoverageState:
    """The state before the first step."""
    zeros = jnp.zeros((len(coverage.among),), jnp.float32)
    is_falling = jnp.array(coverage.goes_small_first)
    loss, mark = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    return CoverageState(jnp.zeros((), jnp.int32), zeros, loss, mark, is_falling)


def turn(coverage: Coverage, state: CoverageState) -> Int[Array, ""]:
    """The number of the size that runs, of those that `SizedSelection` has."""
    enough = state.carried >= coverage.share
    largest = len(coverage.among) - 1
    # The first of those that carry enough; where none does, and at first, the largest.
    first = jnp.where(jnp.any(enough), jnp.argmax(enough), largest)
    first = jnp.where(state.steps == 0, largest, first)
    if coverage.goes_small_first:
        first = jnp.where(state.is_falling, 0, first + 1)
    return first.astype(jnp.int32)


def absorb(coverage: Coverage, state: CoverageState, measured: Array) -> CoverageState:
    """The averages with what a step has measured, and the look when it is due."""
    measured = measured.astype(state.carried.dtype)
    is_first = state.steps == 0
    # The loss is forgotten sooner, so that a look sees the window since the one before.
    by = jnp.array(
        [coverage.decay] * len(coverage.among) + [1 - min(1, 4 / coverage.window)]
    )
    by = jnp.where(is_first, 0.0, by).astype(measured.dtype)
    average = measured + by * (jnp.append(state.carried, state.loss) - measured)
    steps = jnp.asarray(optax.safe_increment(state.steps))
    average, loss = average[:-1], average[-1]
    is_due = ~is_first & (steps % coverage.window == 0)
    # Losses that carry nothing sum up to zero, and don't fall.
    most = state.mark * (1.0 - (coverage.while_falling or 0.0))
    is_falling = state.is_falling & (~is_due | (loss < most))
    mark = jnp.where(is_first | is_due, loss, state.mark)
    return CoverageState(steps, average, loss, mark, is_falling)


def carried(
    losses: Float[Array, " N"], numbers: Sequence[int], skip: int = 0
) -> Float[Array, " sizes"]:
    """The shares of the loss that so many of the highest carry, below those skipped."""
    highest = -jnp.sort(-losses_to_carry(losses))[skip:]
    # The sum of large numbers may not be one.
    highest = highest / jnp.where(highest[0] > 0, highest[0], jnp.ones_like(highest[0]))
    summed = jnp.cumsum(highest)
    total = summed[-1]
    parts = summed[jnp.array([number - 1 for number in numbers])]
    # Where there is no loss all are equal, and carry what they are.
    equal = [number / highest.shape[0] for number in numbers]
    equal = jnp.array(equal, total.dtype)
    safe = jnp.where(total > 0, total, jnp.ones_like(total))
    return jnp.where(total > 0, parts / safe, equal)


def mean_to_follow(losses: Float[Array, " N"]) -> Float[Array, ""]:
    """Their mean, which is large where one isn't finite: that is no loss that falls."""
    large = jnp.asarray(_LARGE, widen(losses).dtype)
    usable = jnp.minimum(losses_to_carry(losses), large)
    losses = jnp.where(jnp.isfinite(losses), usable, large)
    return jnp.mean(losses)


def losses_to_carry(losses: Float[Array, " N"]) -> Float[Array, " N"]:
    """Losses of which shares can be taken: finite, not negative, and constants."""
    losses = widen(jax.lax.stop_gradient(losses))
    is_usable = jnp.isfinite(losses) & (losses > 0)
    return jnp.where(is_usable, losses, jnp.zeros_like(losses))
