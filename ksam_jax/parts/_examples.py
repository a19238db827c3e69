"""Questions 1 and 3: which examples of a batch take part, by loss or at random."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..checks import _values
from ..loss._rows import Chosen
from ..trees._numbers import widen
from . import _counts
from ._counts import advance, no_steps, step_key
from ._coverage import Coverage, sized
from ._selection import Selection


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


def highest_loss(k: Any, skip: Any = None, mean_over: str = "chosen") -> Selection:
    r"""The k examples with the highest loss, below those that are skipped.

    .. math:: M = \mathrm{top}_k \, \ell_i(w), \qquad
      g = \frac{1}{k} \sum_{i \in M} \nabla \ell_i \quad \text{or} \quad
      g = \frac{1}{N} \sum_{i \in M} \nabla \ell_i

    The loss is that at the unperturbed weights or, where no pass runs there (after
    `past_descent`), at the perturbed ones. Ties go to the lowest index. A loss that is
    not finite ranks last, and gets weight zero where it must fill up k; the mean over the
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
      mean_over: what the sum over the chosen is divided by: "chosen" by their number, or
        "batch" by N, as if the others' loss were zero: a gradient of the size that one over
        the whole batch has, so that its learning rate fits.

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


def largest_increase(gamma: Any, mean_over: str = "chosen") -> Selection:
    r"""The examples whose loss the perturbation raised most; for the descent only.

    .. math:: M = \mathrm{top}_\gamma \, \big( \ell_i(w + \epsilon) - \ell_i(w) \big)

    Ties go to the lowest index; without a perturbation all are ties.

    Args:
      gamma: how many, as `k` in `highest_loss`.
      mean_over: "chosen" or "batch", as there.

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


def top_k_mask(losses: Float[Array, " N"], k: Any) -> Float[Array, " N"]:
    r"""A 0/1 mask of the k highest losses, to weight losses instead of gathering them.

    .. math:: m_i = 1 \text{ if } i \in \mathrm{top}_k \, \ell_i, \text{ else } 0

    With it a loss of the caller's own can be restricted to the highest-loss examples:
    `jnp.sum(top_k_mask(losses, k) * losses) / count`. It saves no work, and it can't
    keep out an example whose loss or gradient is NaN, since 0 * NaN is NaN, in the
    gradient too: `highest_loss`, which gathers, can.

    Args:
      losses: one loss per example, shape `(N,)`.
      k: how many, as in `highest_loss`.

    Returns:
      Shape `(N,)`, dtype of `losses`: 1 for the chosen examples, else 0. Losses that are
      not finite rank last and are never marked.

    Raises:
      ValueError: if `k` breaks the rule of `highest_loss`, or `losses` isn't `(N,)`.
      TypeError: if `k` isn't a real number, or `losses` aren't real numbers.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> ksam_jax.top_k_mask(jnp.array([0.1, 2.0, 0.3, 2.0]), k=2).tolist()
      [0.0, 1.0, 0.0, 1.0]

    Reference:
      Ni et al., K-SAM, 2022.
    """
    losses = _values.vector("top_k_mask", "losses", losses)
    count = _counts.example_count("top_k_mask", "k", k).of(losses.shape[0])
    indices, is_finite = top_k(losses, count)
    # Where fewer are finite the others are marked by nothing.
    marks = is_finite.astype(losses.dtype)
    return jnp.zeros_like(losses).at[indices].set(marks)


def top_k(
    scores: Float[Array, " N"], count: int, skip: int = 0
) -> tuple[Array, Bool[Array, " k"]]:
    """The `count` highest after the `skip` highest, and which of them are finite.

    Those that aren't rank last, and ties go to the lowest index.
    """
    scores = widen(jax.lax.stop_gradient(scores))
    # -0.0 sorts below 0.0, but the two are a tie.
    scores = jnp.where(scores == 0, jnp.zeros_like(scores), scores)
    scores = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
    values, indices = (x[skip:] for x in jax.lax.top_k(scores, skip + count))
    return indices, jnp.isfinite(values)


def weighed(indices: Array, counts: Bool[Array, " k"], n: int, mean_over: str) -> Chosen:
    """The rows that count, equally weighed for a mean over them or over all n.

    Where none counts the weights are NaN, and so is the gradient.
    """
    # The sum of ones is exact in the widest float there is, not in bfloat16.
    ones = counts.astype(jnp.result_type(float))
    total = jnp.sum(ones)
    divisor = n if mean_over == "batch" else jnp.maximum(total, 1)
    # Said outright: of 0 / 0 XLA may make 0 where it knows that the ones are 0 or 1.
    return Chosen(indices, jnp.where(total > 0, ones / divisor, jnp.nan))


def rank_by_loss(call: str, k: Any, skip: Any, mean_over: str) -> Selection:
    """`highest_loss` for the method `call`."""
    _check_mean_over(call, mean_over)
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
    call = _call(count, **skipping, mean_over=mean_over)
    return Selection(choose, reads={"first"}, call=call)


def rank_by_increase(count: _counts.ExampleCount, mean_over: str) -> Selection:
    """`largest_increase`, from a checked count."""
    _check_mean_over(count.call, mean_over)

    def choose(evidence, state):
        # In bfloat16 the difference of two losses would round to a tie.
        after = widen(evidence.perturbed)
        rise = after - widen(evidence.clean).astype(after.dtype)
        ranked = top_k(rise, evidence.number(count))
        return weighed(*ranked, evidence.num_examples, mean_over), state

    reads = {"clean", "perturbed"}
    return Selection(choose, reads=reads, call=_call(count, mean_over=mean_over))


def draw_subset(count: _counts.ExampleCount, seed: Any, mean_over: str) -> Selection:
    """`random_subset`, from a checked count."""
    _values.seed(count.call, seed)
    _check_mean_over(count.call, mean_over)

    def choose(evidence, state):
        n, size = evidence.num_examples, evidence.number(count)
        key = step_key(seed, state)
        if evidence.group is not None:
            key = jax.random.fold_in(key, evidence.group)
        drawn = jax.random.permutation(key, n)[:size]
        return weighed(drawn, jnp.ones((size,), bool), n, mean_over), advance(state)

    return Selection(choose, init=no_steps, call=_call(count, mean_over=mean_over))


def _check_mean_over(call: str, mean_over: Any) -> None:
    _values.one_of(call, "mean_over", mean_over, ("chosen", "batch"))


def _call(count: _counts.ExampleCount, mean_over: str, **others: Any) -> str:
    """As the user typed it, but for what is left at its default."""
    given = {count.name: count.value} | others
    if mean_over != "chosen":
        given["mean_over"] = mean_over
    return f"{count.call}({', '.join(f'{name}={x!r}' for name, x in given.items())})"
