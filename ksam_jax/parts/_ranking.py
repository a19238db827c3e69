"""The highest of some scores, and what each of them weighs."""

from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..checks import _kinds
from ..devices._axis import on_mesh_of, placed_as, whole
from ..loss._rows import Chosen
from ..trees._numbers import widen
from . import _counts


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
    losses = _kinds.vector("top_k_mask", "losses", losses)
    count = _counts.example_count("top_k_mask", "k", k).of(losses.shape[0])
    with on_mesh_of(losses):
        # JAX ranks nothing that lies along an Explicit axis.
        known = whole(losses)
        indices, is_finite = top_k(known, count)
        # Where fewer are finite the others are marked by nothing.
        marks = is_finite.astype(losses.dtype)
        return placed_as(jnp.zeros_like(known).at[indices].set(marks), losses)


def top_k(
    scores: Float[Array, " N"], count: int, skip: int = 0
) -> tuple[Array, Bool[Array, " k"]]:
    """The `count` highest after the `skip` highest, and which of them are finite.

    Those that aren't rank last, and ties go to the lowest index.
    """
    scores = widen(jax.lax.stop_gradient(scores))
    # -0.0 sorts below 0.0, but the two are a tie.
    scores = jnp.where(scores == 0, jnp.zeros_like(scores), scores)
    # Not by an infinity, at which jax_debug_infs would stop.
    last = jnp.asarray(jnp.finfo(scores.dtype).min, scores.dtype)
    scores = jnp.where(jnp.isfinite(scores), scores, last)
    if jax.export.is_symbolic_dim(scores.shape[0]):
        return _top_k_of_some(scores, count, skip)
    values, indices = (x[skip:] for x in jax.lax.top_k(scores, skip + count))
    return indices, values > last


def _top_k_of_some(
    scores: Float[Array, " N"], count: int, skip: int
) -> tuple[Array, Bool[Array, " k"]]:
    """The same of a number that `jax.export` leaves open: of fewer than k it takes all."""
    ranks = jnp.arange(skip, skip + count)
    indices = jnp.argsort(-scores).at[ranks].get(mode="clip")
    is_there = ranks < jnp.asarray(scores.shape[0])
    last = jnp.finfo(scores.dtype).min
    return indices, is_there & (scores[indices] > last)


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


def check_mean_over(call: str, mean_over: Any) -> None:
    """Checks that it is one of the two things that a sum is divided by."""
    _kinds.one_of(call, "mean_over", mean_over, ("chosen", "batch"))


def call_of(count: _counts.ExampleCount, mean_over: str, usual: str, **others: Any) -> str:
    """As the user typed it, but for what is left at its default, as `usual` is."""
    given = {count.name: count.value} | others
    if mean_over != usual:
        given["mean_over"] = mean_over
    return f"{count.call}({', '.join(f'{name}={x!r}' for name, x in given.items())})"
