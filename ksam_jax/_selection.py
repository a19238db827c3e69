"""Questions 1 and 3: which examples of a batch take part.

A selection is decided before or between the two passes, from the losses of the examples
at the clean and, for the descent, at the perturbed weights, or from what it remembers. It
has a static size, so the sub-batch has a static shape.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from . import _checks, _counts
from ._rows import Chosen
from ._steps import advance, no_steps, step_key
from ._tree import widen


class Evidence(NamedTuple):
    """What a selection may look at; a loss not computed yet is None.

    N are the examples to choose among: those of one device, or of one group.

    Attributes:
      batch: the examples.
      clean: their losses at the unperturbed weights.
      perturbed: their losses at the perturbed weights.
      group: tells the number of this device or group; None if there is only one.
    """

    batch: PyTree
    clean: Float[Array, " N"] | None = None
    perturbed: Float[Array, " N"] | None = None
    group: Callable[[], Int[Array, ""]] | None = None

    @property
    def num_examples(self) -> int:
        """N."""
        return jax.tree.leaves(self.batch)[0].shape[0]

    def number(self, count: _counts.ExampleCount) -> int:
        """How many of these N examples `count` says."""
        return count.of(self.num_examples, one_of_several=self.group is not None)

    @property
    def first(self) -> Float[Array, " N"]:
        """The losses of the step's first pass: at the clean weights if one ran there."""
        first = self.perturbed if self.clean is None else self.clean
        assert first is not None
        return first


class Selection(NamedTuple):
    """Which examples take part; made by `everything`, `highest_loss` and the others.

    Attributes:
      call: as the user typed it.
      reads: the losses over the batch that choosing needs: "first" for those of the
        step's first pass wherever it runs, "clean" and "perturbed" for those there.
      init: makes the state.
      choose: None where all examples take part: the pass then needs no second look.
      learn: called after the pass if there is something to remember, with the batch, what
        is chosen of it, the losses of that, the state, and a function that joins the
        arrays of several devices: the state must be the same on all of them.
    """

    call: str
    reads: frozenset[str]
    init: Callable[[], Any]
    choose: Callable[[Evidence, Any], tuple[Chosen, Any]] | None
    learn: Callable[[PyTree, Chosen, Array, Any, Callable], Any] | None = None


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
    return Selection("everything()", frozenset(), optax.EmptyState, None)


def highest_loss(k: Any, skip: Any = None) -> Selection:
    r"""The k examples with the highest loss, below those that are skipped.

    .. math:: M = \mathrm{top}_k \, \ell_i(w), \qquad
      g = \frac{1}{k} \sum_{i \in M} \nabla \ell_i

    The loss is that at the unperturbed weights or, where no pass runs there (after
    `past_descent`), at the perturbed ones. Ties go to the lowest index. A loss that is
    not finite ranks last, and gets weight zero where it must fill up k; if no finite one
    is left, the gradient is NaN.

    Args:
      k: an integer is a number of examples, another real number in (0, 1] a fraction of
        the batch, rounded half up and at least one. `k=1` is one example, `k=1.0` all.
        Of each device or group, where there are several.
      skip: how many of the very highest losses are left out before k are taken: None
        for none, an integer is a number, another real number in [0, 1) a fraction,
        rounded half up. For mislabelled examples, whose losses are the highest; on clean
        labels it hurts.

    Returns:
      A `Selection` for `sharpness_aware`, for the ascent, the descent, or both.

    Raises:
      ValueError: if `k` is below 1 or a fraction outside (0, 1], `skip` is negative or a
        fraction of 1 or more, or both together are above the batch's N.
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
    count = _counts.example_count("highest_loss", "k", k)
    return rank_by_loss(count, _counts.skip_count("highest_loss", skip))


def largest_increase(gamma: Any) -> Selection:
    r"""The examples whose loss the perturbation raised most; for the descent only.

    .. math:: M = \mathrm{top}_\gamma \, \big( \ell_i(w + \epsilon) - \ell_i(w) \big)

    Ties go to the lowest index; without a perturbation all are ties.

    Args:
      gamma: how many, as `k` in `highest_loss`.

    Returns:
      A `Selection` for the `descent` of `sharpness_aware`.

    Raises:
      ValueError: if `gamma` is below 1, a fraction outside (0, 1], or above the batch's N.
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
    return rank_by_increase(_counts.example_count("largest_increase", "gamma", gamma))


def random_subset(m: Any, seed: Any = 0) -> Selection:
    r"""Examples drawn uniformly without replacement, anew at every step.

    .. math:: M \sim \mathrm{Uniform} \{ S \subseteq \{1, \dots, N\} : |S| = m \}

    Two of them with the same seed, for the climb and for the descent, draw the same.

    Args:
      m: how many, as `k` in `highest_loss`.
      seed: integer, may be traced; the same seed draws the same subsets, step by step.

    Returns:
      A `Selection` for `sharpness_aware`.

    Raises:
      ValueError: if `m` is below 1, a fraction outside (0, 1], or above the batch's N.
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
    return draw_subset(_counts.example_count("random_subset", "m", m), seed)


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
    losses = _checks.vector("top_k_mask", "losses", losses)
    count = _counts.example_count("top_k_mask", "k", k).of(losses.shape[0])
    chosen = top_k(losses, count)
    # Padding repeats the first row, so rows are combined by their maximum.
    marks = chosen.counts.astype(losses.dtype)
    return jnp.zeros_like(losses).at[chosen.indices].max(marks)


def top_k(scores: Float[Array, " N"], count: int, skip: int = 0) -> Chosen:
    """The `count` highest finite scores after the `skip` highest; ties to the lowest index.

    Where fewer are finite, the first of them is repeated and doesn't count: a bad row is
    then not computed on, and its NaN can't get into the gradient. With none left after
    those that are skipped no row counts, and the gradient is NaN.
    """
    scores = widen(jax.lax.stop_gradient(scores))
    # -0.0 sorts below 0.0, but the two are a tie.
    scores = jnp.where(scores == 0, jnp.zeros_like(scores), scores)
    scores = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
    values, indices = (x[skip:] for x in jax.lax.top_k(scores, skip + count))
    is_finite = jnp.isfinite(values)
    return Chosen(jnp.where(is_finite, indices, indices[0]), is_finite)


def rank_by_loss(count: _counts.ExampleCount, skip: _counts.ExampleCount) -> Selection:
    """`highest_loss`, from checked counts."""

    def choose(evidence, state):
        taken = evidence.number(count)
        taken, skipped = _counts.both_fit(count, taken, skip, evidence.num_examples)
        return top_k(evidence.first, taken, skipped), state

    call = f"{count.call}(k={count.value!r}" + f", skip={skip.value!r}" * bool(skip.value)
    return Selection(f"{call})", frozenset({"first"}), optax.EmptyState, choose)


def rank_by_increase(count: _counts.ExampleCount) -> Selection:
    """`largest_increase`, from a checked count."""

    def choose(evidence, state):
        # In bfloat16 the difference of two losses would round to a tie.
        after = widen(evidence.perturbed)
        rise = after - widen(evidence.clean).astype(after.dtype)
        return top_k(rise, evidence.number(count)), state

    reads = frozenset({"clean", "perturbed"})
    return Selection(_call(count), reads, optax.EmptyState, choose)


def draw_subset(count: _counts.ExampleCount, seed: Any) -> Selection:
    """`random_subset`, from a checked count."""
    _checks.seed(count.call, seed)

    def choose(evidence, state):
        size = evidence.number(count)
        key = step_key(seed, state)
        if evidence.group is not None:
            key = jax.random.fold_in(key, evidence.group())
        order = jax.random.permutation(key, evidence.num_examples)
        return Chosen(order[:size], jnp.ones((size,), bool)), advance(state)

    return Selection(_call(count), frozenset(), no_steps, choose)


def _call(count: _counts.ExampleCount) -> str:
    return f"{count.call}({count.name}={count.value!r})"
