"""How many examples, as training goes: the fewest that carry a share of the loss."""

from typing import Any, NamedTuple

from ..checks import _kinds, _values
from ..checks._words import shown
from . import _counts


class Coverage(NamedTuple):
    """A number of examples that follows training; made by `by_coverage`."""

    share: float
    among: tuple[Any, ...]
    climb_up_to: Any
    decay: float
    while_falling: float | None
    window: int

    @property
    def goes_small_first(self) -> bool:
        """Whether the smallest size runs first, while the loss falls."""
        return self.while_falling is not None

    def __repr__(self) -> str:
        return (
            f"by_coverage(share={self.share!r}, among={self.among!r}, "
            f"while_falling={self.while_falling!r})"
        )


def by_coverage(
    share: Any = 0.8,
    among: Any = (1 / 4, 1 / 2, 1.0),
    *,
    climb_up_to: Any = 1 / 3,
    decay: Any = 0.9,
    while_falling: Any = None,
    window: Any = 20,
) -> Coverage:
    r"""As k: the fewest examples that have carried that share of the loss lately.

    .. math::
      k_t = \min \{ k \in \mathrm{among} : \bar c_{t-1}(k) \ge \mathrm{share} \}, \qquad
      \bar c_t(k) = \lambda \bar c_{t-1}(k) + (1 - \lambda)
        \frac{\sum_{i \in \mathrm{top}_k} \ell_i}{\sum_i \ell_i}

    Where all losses are equal nothing stands out, and nothing is left out: k examples carry
    k / N of the loss. What is neglected is on average at most 1 - share of it.

    There is one program for each size and a step runs one, so the cost falls with k. No
    step costs more than SGD's: there is a climb where k is at most a third, for which
    `k_sam` pays 1 + 6k against SGD's 3. Where k is more, the descent is at the weights as
    they are. (Momentum's climb is free, but was worth nothing there, or less.) With all
    examples that is the plain step, into which an example whose loss isn't finite enters as
    it does with SGD. The first step takes the largest size, but for what follows. On
    several devices the average is over all of them and the size is the same on each; it
    rides in the collective that is there.

    With `while_falling` the smallest size runs first, without a climb, as long as the loss
    of all examples falls under it: every `window` steps its average has to be lower by that
    share than at the look before. The first time that it isn't, the rule above takes over
    for good. Where a network learns fast, its highest losses are what is left to learn,
    though the others aren't small yet; where it doesn't, a few of them tell it little. Of
    SAM, Zhou et al. report that its last epochs alone find as flat a minimum.

    Args:
      share: of the sum of the losses, in (0, 1]. A negative loss, or one that isn't
        finite, carries nothing.
      among: the sizes that there are, as `k` in `highest_loss`, in rising order. With 1.0
        for all examples last, equal losses mean all of them.
      climb_up_to: the largest size, as `k`, at which there is a climb; 1.0: at all, so that
        a step of `k_sam` with all examples is SAM's and costs 2.
      decay: lambda, in [0, 1): how long it remembers.
      while_falling: the least share by which the loss has to fall in a window for the
        smallest size to go on, in (0, 1); None: coverage alone from the first step. It is
        0.05 in the default of `k_sam` and `k_momentum_sam`.
      window: steps from one look at the loss to the next.

    Returns:
      What `highest_loss`, `k_sam` and `k_momentum_sam` take as `k`.

    Raises:
      ValueError: if `share`, `decay`, `while_falling` or `window` is out of range, or
        `among` is empty or not in rising order.
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
      training accuracy. Zhou et al., ICLR 2025, arXiv 2410.10373.
    """
    call = "by_coverage"
    _values.fixed(call, "share", share, "in (0, 1]", lambda x: 0 < x <= 1)
    _values.fixed(call, "decay", decay, "in [0, 1)", lambda x: 0 <= x < 1)
    if while_falling is not None:
        rule = "in (0, 1), or None"
        _values.fixed(call, "while_falling", while_falling, rule, lambda x: 0 < x < 1)
        while_falling = float(while_falling)
    _values.size(call, "window", window)
    sizes = _kinds.listed(call, "among", among, least=1)
    counts = [_counts.example_count(call, "among", size) for size in sizes]
    values = [count.value for count in counts]
    same_kind = len({isinstance(value, int) for value in values}) == 1
    if same_kind and values != sorted(set(values)):
        raise ValueError(
            f"{call}(among={shown(among)}): among must be in rising order; got {values}."
        )
    limit = _counts.example_count(call, "climb_up_to", climb_up_to).value
    return Coverage(
        float(share), tuple(values), limit, float(decay), while_falling, int(window)
    )


# What methods take by default.
FOLLOWING = by_coverage(while_falling=0.05)
