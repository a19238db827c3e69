"""The selection whose number of examples follows training: one of several static sizes."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from . import _counts
from ._counts import ExampleCount
from ._coverage import Coverage
from ._following import absorb, carried, mean_to_follow, turn, unseen
from ._selection import Selection


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SizedSelection(Selection):
    """A selection with several static sizes, of which a step has one.

    Attributes:
      sizes: the selection of each size, in rising order; before them the smallest once
        more, for the steps without a climb, if that goes first while the loss falls.
      measure: the losses of all examples, shape `(N,)`, to what each size would carry,
        and their mean.
      climbs: the number of a size and that of the examples to whether there is a climb.
      turn: the state to the number of the size whose turn it is, the same on all devices.
      absorb: the state and what was measured, averaged over groups and devices, to the
        next state.
    """

    sizes: tuple[Selection, ...] = ()
    measure: Any = None
    climbs: Any = None
    turn: Any = None
    absorb: Any = None


def sized(
    coverage: Coverage,
    call: str,
    skip: ExampleCount,
    of_size: Callable[[ExampleCount], Selection],
    everything: Selection,
) -> SizedSelection:
    """The selection whose sizes `of_size` makes; that of all examples is `everything`."""
    counts = [ExampleCount(call, "k", value) for value in coverage.among]
    takes_all = [count.value == 1.0 and isinstance(count.value, float) for count in counts]
    sizes = tuple(
        everything if whole and not skip.value else of_size(count)
        for count, whole in zip(counts, takes_all, strict=True)
    )
    goes_first = coverage.goes_small_first

    def measure(losses: Float[Array, " N"]) -> Float[Array, " numbers"]:
        n = losses.shape[0]
        skipped = skip.of(n)
        numbers = [min(count.of(n), n - skipped) for count in counts]
        return jnp.append(carried(losses, numbers, skipped), mean_to_follow(losses))

    def climbs(number: int, n: int) -> bool:
        _counts.refuse_unknown(call, "k", coverage, n)
        if goes_first and number == 0:
            return False
        limit = coverage.climb_up_to
        # Not rounded: of a small batch that would allow for more than was said.
        most = math.floor(limit * n + 1e-6) if isinstance(limit, float) else limit
        return counts[number - goes_first].of(n) <= most

    return SizedSelection(
        sizes[0].choose,
        {"first"},
        functools.partial(unseen, coverage),
        call=f"{call}(k={coverage!r})",
        sizes=(sizes[0], *sizes) if goes_first else sizes,
        measure=measure,
        climbs=climbs,
        turn=functools.partial(turn, coverage),
        absorb=functools.partial(absorb, coverage),
    )
