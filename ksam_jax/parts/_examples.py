"""Questions 1 and 3: which examples of a batch take part, by loss or at random."""

from typing import Any

import jax
import jax.numpy as jnp

from ..checks import _values
from ..trees._numbers import widen
from . import _counts
from ._counts import advance, no_steps, step_key
from ._coverage import Coverage
from ._ranking import call_of, check_mean_over, top_k, weighed
from ._selection import Selection
from ._sized import sized


def everything() -> Selection:
    r"""All examples, with equal weight: nothing is gathered.

    .. math:: M = \{1, \dots, N\}

    Returns:
      A `Selection` for `sharpness_aware`.

    Example:
      >>> import ksam_jax
      >>> ksam_jax.everything().call
      'everything()'

    Reference:
      Foret et al., SAM, ICLR 2021, where both passes use the whole batch.
    """
    return Selection(None, call="everything()")


def highest_loss(k: Any, skip: Any = None, mean_over: str = "batch") -> Selection:
    r"""The k examples with the highest loss, below those that are skipped.

    .. math:: M = \mathrm{top}_k \, \ell_i(w), \qquad
      g = \frac{1}{N} \sum_{i \in M} \nabla \ell_i \quad \text{or} \quad
      g = \frac{1}{k} \sum_{i \in M} \nabla \ell_i

    The loss is that at the unperturbed weights or, where no pass runs there (after
    `past_descent`), at the perturbed ones. Ties go to the lowest index. A loss that is
    not finite ranks last, and gets weight zero where it must fill up k; a mean over the
    chosen is then over those that are left. If none is, the gradient is NaN.

    Args:
      k: an integer is a number of examples, another real number in (0, 1] a fraction of
        the batch, rounded half up and at least one. `k=1` is one example, `k=1.0` all.
        Of each device or group, where there are several. Or `by_coverage()`, for a k that
        follows training.
      skip: how many of the very highest losses are left out before k are taken: None
        for none, an integer is a number, another real number in [0, 1) a fraction,
        rounded half up. For mislabelled examples, whose losses are the highest; on clean
        labels it hurts.
      mean_over: what the sum over the chosen is divided by: "batch" by N, as if the others'
        loss were zero: a gradient of the size that one over the whole batch has, so that
        its learning rate fits. "chosen": by their number, up to N / k times as much.

    Returns:
      A `Selection` for `sharpness_aware`, for the ascent, the descent, or both.

    Raises:
      ValueError: if `k` is below 1 or a fraction outside (0, 1], `skip` is negative or a
        fraction of 1 or more, or both together are above the batch's N; if `mean_over` is
        another word.
      TypeError: if one of them is not a real number known when the step is traced.

    Example:
      >>> import ksam_jax
      >>> quarter = ksam_jax.highest_loss(0.25)
      >>> tx = ksam_jax.sharpness_aware(
      ...     ksam_jax.scale_to_radius(0.05), ascent=quarter, descent=quarter
      ... )

    Reference:
      Ni et al., K-SAM, 2022; skipping is ours.
    """
    return rank_by_loss("highest_loss", k, skip, mean_over)


def largest_increase(gamma: Any, mean_over: str = "batch") -> Selection:
    r"""The examples whose loss the perturbation raised most; for the descent only.

    .. math:: M = \mathrm{top}_\gamma \, \big( \ell_i(w + \epsilon) - \ell_i(w) \big)

    Ties go to the lowest index; without a perturbation all are ties.

    Args:
      gamma: how many, as `k` in `highest_loss`.
      mean_over: "batch" or "chosen", as there.

    Returns:
      A `Selection` for the `descent` of `sharpness_aware`.

    Raises:
      ValueError: if `gamma` is below 1, a fraction outside (0, 1], or above the batch's N;
        if `mean_over` is another word.
      TypeError: if `gamma` is not a real number known when the step is traced.

    Example:
      >>> import ksam_jax
      >>> tx = ksam_jax.sharpness_aware(
      ...     ksam_jax.scale_to_radius(0.05), descent=ksam_jax.largest_increase(0.5)
      ... )

    Reference:
      Du et al., ESAM, ICLR 2022, sharpness-sensitive data selection. The authors' code
      keeps the strictly greater ones, one fewer; here the count is exact.
    """
    count = _counts.example_count("largest_increase", "gamma", gamma)
    return rank_by_increase(count, mean_over)


def random_subset(m: Any, seed: Any = 0, mean_over: str = "chosen") -> Selection:
    r"""Examples drawn uniformly without replacement, anew at every step.

    .. math:: M \sim \mathrm{Uniform} \{ S \subseteq \{1, \dots, N\} : |S| = m \}

    Two of them with the same seed, for the climb and for the descent, draw the same.

    Args:
      m: how many, as `k` in `highest_loss`.
      seed: integer, may be traced; the same seed draws the same subsets, step by step.
      mean_over: "chosen" or "batch", as in `highest_loss`. Of the two, only the first has
        the batch's gradient as its expectation; a climb to a radius is the same with both.

    Returns:
      A `Selection` for `sharpness_aware`.

    Raises:
      ValueError: if `m` is below 1, a fraction outside (0, 1], or above the batch's N; if
        `mean_over` is another word.
      TypeError: if `m` is not a real number, or `seed` not an integer.

    Example:
      >>> import ksam_jax
      >>> tx = ksam_jax.sharpness_aware(
      ...     ksam_jax.scale_to_radius(0.05), ascent=ksam_jax.random_subset(0.25, seed=3)
      ... )

    Reference:
      Bahri et al., Sharpness-Aware Minimization Improves Language Model Generalization,
      ACL 2022.
    """
    count = _counts.example_count("random_subset", "m", m)
    return draw_subset(count, seed, mean_over)


def rank_by_loss(call: str, k: Any, skip: Any, mean_over: str) -> Selection:
    """`highest_loss` for the method `call`."""
    check_mean_over(call, mean_over)
    skipping = _counts.skip_count(call, skip)
    if not isinstance(k, Coverage):
        return _ranked(_counts.example_count(call, "k", k), skipping, mean_over)

    def of_size(count: _counts.ExampleCount) -> Selection:
        return _ranked(count, skipping, mean_over, at_most=True)

    return sized(k, call, skipping, of_size, everything())


def _ranked(
    count: _counts.ExampleCount,
    skip: _counts.ExampleCount,
    mean_over: str,
    at_most: bool = False,
) -> Selection:
    """With `at_most` as many as there are that aren't skipped, and at least one."""

    def choose(evidence, state):
        n = evidence.num_examples
        taken = min(count.of(n), n - skip.of(n)) if at_most else evidence.number(count)
        taken, skipped = _counts.both_fit(count, taken, skip, n)
        return weighed(*top_k(evidence.first, taken, skipped), n, mean_over), state

    skipping = {"skip": skip.value} if skip.value else {}
    call = call_of(count, mean_over, "batch", **skipping)
    return Selection(choose, reads={"first"}, call=call)


def rank_by_increase(count: _counts.ExampleCount, mean_over: str) -> Selection:
    """`largest_increase`, from a checked count."""
    check_mean_over(count.call, mean_over)

    def choose(evidence, state):
        # In bfloat16 the difference of two losses would round to a tie.
        after = widen(evidence.perturbed)
        rise = after - widen(evidence.clean).astype(after.dtype)
        ranked = top_k(rise, evidence.number(count))
        return weighed(*ranked, evidence.num_examples, mean_over), state

    reads = {"clean", "perturbed"}
    return Selection(choose, reads=reads, call=call_of(count, mean_over, "batch"))


def draw_subset(count: _counts.ExampleCount, seed: Any, mean_over: str) -> Selection:
    """`random_subset`, from a checked count."""
    _values.seed(count.call, seed)
    check_mean_over(count.call, mean_over)

    def choose(evidence, state):
        n, size = evidence.num_examples, evidence.number(count)
        _counts.refuse_unknown_draw(count, n)
        key = step_key(seed, state)
        if evidence.group is not None:
            key = jax.random.fold_in(key, evidence.group)
        drawn = jax.random.permutation(key, n)[:size]
        return weighed(drawn, jnp.ones((size,), bool), n, mean_over), advance(state)

    return Selection(choose, init=no_steps, call=call_of(count, mean_over, "chosen"))
