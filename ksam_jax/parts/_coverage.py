"""How many examples, as training goes: the fewest that carry a share of the loss."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ..checks import _kinds, _values
from ..checks._words import shown
from ..trees._numbers import widen
from . import _counts
from ._counts import ExampleCount
from ._selection import Selection


class CoverageState(NamedTuple):
    """What the highest losses carried in the steps before.

    Attributes:
      steps: how many steps there were.
      carried: for each size that there is, the share of the loss that so many examples
        carried, a moving average.
    """

    steps: Int[Array, ""]
    carried: Float[Array, " sizes"]


class Coverage(NamedTuple):
    """A number of examples that follows training; made by `by_coverage`."""

    share: float
    among: tuple[Any, ...]
    climb_up_to: Any
    decay: float

    def __repr__(self) -> str:
        return f"by_coverage(share={self.share!r}, among={self.among!r})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SizedSelection(Selection):
    """A selection with several static sizes, of which a step has one.

    Attributes:
      sizes: the selection of each size, in rising order.
      measure: the losses of all examples, shape `(N,)`, to what each size would carry.
      climbs: the number of a size and that of the examples to whether a climb of its own
        is worth its price there.
      turn: the state to the number of the size whose turn it is, the same on all devices.
      absorb: the state and what was measured, averaged over groups and devices, to the
        next state.
    """

    sizes: tuple[Selection, ...] = ()
    measure: Any = None
    climbs: Any = None
    turn: Any = None
    absorb: Any = None


def by_coverage(
    share: Any = 0.8,
    among: Any = (1 / 4, 1 / 2, 1.0),
    *,
    climb_up_to: Any = 1 / 3,
    decay: Any = 0.9,
) -> Coverage:
    r"""As k: the fewest examples that have carried that share of the loss lately.

    .. math::
      k_t = \min \{ k \in \mathrm{among} : \bar c_{t-1}(k) \ge \mathrm{share} \}, \qquad
      \bar c_t(k) = \lambda \bar c_{t-1}(k) + (1 - \lambda)
        \frac{\sum_{i \in \mathrm{top}_k} \ell_i}{\sum_i \ell_i}

    Where all losses are equal nothing stands out, and nothing is left out: k examples carry
    k / N of the loss. What is neglected is on average at most 1 - share of it.

    There is one program for each size and a step runs one, so the cost falls with k. No
    step costs more than SGD's: a method that runs a pass for its climb, as `k_sam` does,
    climbs where k is at most a third, at 1 + 6k against SGD's 3, and descends on the k at
    the weights as they are where it is more. With all examples that is the plain step, into
    which an example whose loss isn't finite enters as it does with SGD. The first step
    takes the largest size. On several devices the average is over all of them and the size
    is the same on each; it rides in the collective that is there.

    Args:
      share: of the sum of the losses, in (0, 1]. A negative loss, or one that isn't
        finite, carries nothing.
      among: the sizes that there are, as `k` in `highest_loss`, in rising order. With 1.0
        for all examples last, equal losses mean all of them.
      climb_up_to: the largest size, as `k`, at which there is a climb that needs a pass of
        its own; 1.0: at all, so that a step with all examples is SAM's and costs 2.
      decay: lambda, in [0, 1): how long it remembers.

    Returns:
      What `highest_loss`, `k_sam` and `k_momentum_sam` take as `k`.

    Raises:
      ValueError: if `share` or `decay` is out of range, or `among` is empty or not in
        rising order.
      TypeError: if an argument has the wrong type.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = ksam_jax.k_sam(rho=0.05, k=ksam_jax.by_coverage(0.7), mean_over="batch")
      >>> w, batch = jnp.zeros(1), jnp.array([[0.1], [0.1], [0.1], [4.0]])
      >>> state, ran = tx.init(w), []
      >>> for _ in range(3):  # one of four has nearly all of the loss
      ...     _, state = tx.update(
      ...         None, state, w, loss_fn=lambda w, b: (b @ w - b[:, 0]) ** 2, batch=batch
      ...     )
      ...     ran.append(float(ksam_jax.get_info(state).examples))
      >>> ran
      [1.0, 0.25, 0.25]

    Reference:
      Ours. Kawaguchi and Lu, Ordered SGD, 2020, let the share of the batch fall with
      training accuracy.
    """
    call = "by_coverage"
    _values.fixed(call, "share", share, "in (0, 1]", lambda x: 0 < x <= 1)
    _values.fixed(call, "decay", decay, "in [0, 1)", lambda x: 0 <= x < 1)
    sizes = _kinds.listed(call, "among", among, least=1)
    counts = [_counts.example_count(call, "among", size) for size in sizes]
    values = [count.value for count in counts]
    same_kind = len({isinstance(value, int) for value in values}) == 1
    if same_kind and values != sorted(set(values)):
        raise ValueError(
            f"{call}(among={shown(among)}): among must be in rising order; got {values}."
        )
    limit = _counts.example_count(call, "climb_up_to", climb_up_to).value
    return Coverage(float(share), tuple(values), limit, float(decay))


# What methods take by default.
FOLLOWING = by_coverage()


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

    def measure(losses: Float[Array, " N"]) -> Float[Array, " sizes"]:
        n = losses.shape[0]
        skipped = skip.of(n)
        numbers = [min(count.of(n), n - skipped) for count in counts]
        return carried(losses, numbers, skipped)

    def climbs(number: int, n: int) -> bool:
        _counts.refuse_unknown(call, "k", coverage, n)
        limit = coverage.climb_up_to
        # Not rounded: of a small batch that would allow for more than was said.
        most = math.floor(limit * n + 1e-6) if isinstance(limit, float) else limit
        return counts[number].of(n) <= most

    def turn(state: CoverageState) -> Int[Array, ""]:
        enough = state.carried >= coverage.share
        largest = len(sizes) - 1
        # The first of those that carry enough; where none does, and at first, the largest.
        first = jnp.where(jnp.any(enough), jnp.argmax(enough), largest)
        return jnp.where(state.steps == 0, largest, first).astype(jnp.int32)

    def absorb(state: CoverageState, measured: Array) -> CoverageState:
        decay = jnp.where(state.steps == 0, 0.0, coverage.decay)
        measured = measured.astype(state.carried.dtype)
        average = measured + decay.astype(measured.dtype) * (state.carried - measured)
        return CoverageState(jnp.asarray(optax.safe_increment(state.steps)), average)

    def init() -> CoverageState:
        zeros = jnp.zeros((len(sizes),), jnp.float32)
        return CoverageState(jnp.zeros((), jnp.int32), zeros)

    return SizedSelection(
        sizes[0].choose,
        {"first"},
        init,
        call=f"{call}(k={coverage!r})",
        sizes=sizes,
        measure=measure,
        climbs=climbs,
        turn=turn,
        absorb=absorb,
    )


def carried(
    losses: Float[Array, " N"], numbers: Sequence[int], skip: int = 0
) -> Float[Array, " sizes"]:
    """The shares of the loss that so many of the highest carry, below those skipped."""
    highest = -jnp.sort(-losses_to_carry(losses))[skip:]
    summed = jnp.cumsum(highest)
    total = summed[-1]
    parts = summed[jnp.array([number - 1 for number in numbers])]
    # Where there is no loss all are equal, and carry what they are.
    equal = [number / highest.shape[0] for number in numbers]
    equal = jnp.array(equal, total.dtype)
    safe = jnp.where(total > 0, total, jnp.ones_like(total))
    return jnp.where(total > 0, parts / safe, equal)


def losses_to_carry(losses: Float[Array, " N"]) -> Float[Array, " N"]:
    """Losses of which shares can be taken: finite, not negative, and constants."""
    losses = widen(jax.lax.stop_gradient(losses))
    is_usable = jnp.isfinite(losses) & (losses > 0)
    return jnp.where(is_usable, losses, jnp.zeros_like(losses))
