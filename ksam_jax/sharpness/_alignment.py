"""How well the gradient of the highest-loss examples stands for all: what k to take."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..checks import _values
from ..checks._words import shown
from ..parts import _counts
from ..trees._lengths import cosine
from . import _arguments
from ._compiled import Leaves, scaled
from ._problem import Problem, count, on_host

FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)


class Alignment(NamedTuple):
    """Cosines between the gradient of a part of a batch and that of all.

    Attributes:
      ks: the sizes of the parts as they were given, K of them.
      cosines: of the k examples with the highest loss with their whole batch, (B, K).
      random: the same of k random examples, for comparison, (B, K).
      dataset: of the k with the highest loss of a batch with the whole dataset, (B, K);
        at k = 1.0 it is the whole batch's.
    """

    ks: tuple[int | float, ...]
    cosines: Float[np.ndarray, "B K"]
    random: Float[np.ndarray, "B K"]
    dataset: Float[np.ndarray, "B K"]


def gradient_alignment(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    *,
    ks: Any = FRACTIONS,
    seed: Any = 0,
    mask: Any = None,
    has_aux: Any = False,
    num_microbatches: Any = 1,
    progress: Any = True,
) -> Alignment:
    r"""How the gradient of the k highest losses points beside the whole batch's.

    .. math:: \cos \angle \Big( \frac{1}{k} \sum_{i \in M_k} \nabla \ell_i(w), \;
      \frac{1}{N} \sum_{i=1}^{N} \nabla \ell_i(w) \Big)

    K-SAM takes the first for the second in both of its passes. It is right to where the
    cosine is high, as it is where a few examples have most of the loss; where losses are
    spread, a small k is another direction. The losses are ranked at `params`, and every
    batch is ranked by itself.

    Args:
      loss_fn: as in `sam_sharpness`; of a loss that couples examples, the part's gradient
        is taken within the whole batch.
      params: as in `sam_sharpness`; early and late in training they say different things.
      batches: likewise; of the size of training's.
      ks: sizes of the parts: integers for numbers of examples, other real numbers in
        (0, 1] for fractions of a batch, as in `ksam_jax.k_sam`; from small to large.
      seed: of the random examples.
      mask: which parameters' gradient; None for all.
      has_aux: as in `sam_sharpness`.
      num_microbatches: likewise.
      progress: likewise.

    Returns:
      An `Alignment`; a zero gradient counts as cosine 0.

    Raises:
      ValueError: if there is no k, one is out of range, or as `sam_sharpness`.
      TypeError: as `sam_sharpness`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> def loss_fn(w, batch):
      ...     return 0.5 * jnp.sum((w - batch["x"]) ** 2, axis=1)
      >>> batches = [{"x": jnp.array([[3.0, 0.0], [0.0, 1.0]])}]
      >>> found = sharpness.gradient_alignment(loss_fn, jnp.zeros(2), batches, ks=(1, 1.0))
      >>> [round(float(cosine), 3) for cosine in found.cosines[0]]
      [0.949, 1.0]

    Reference:
      Ni et al., K-SAM, 2022, whose argument for a small k this is.
    """
    problem = Problem(
        "gradient_alignment",
        loss_fn,
        params,
        batches,
        mask,
        has_aux,
        num_microbatches,
        progress,
    )
    counts, rng = _wanted(problem.call, ks), _arguments.generator(problem.call, seed)
    with problem.showing("alignment", 2):
        _, whole = problem.gradient()
        _fit(problem, counts)
        rows = [_of_batch(problem, batch, counts, whole, rng) for batch in problem.each()]
    return Alignment(tuple(c.value for c in counts), *np.stack(rows, axis=1))


def recommend_k(alignment: Alignment, least: Any = 0.9) -> int | float:
    r"""The smallest k whose gradient stands for the whole batch's.

    .. math:: \min \{ k : \mathrm{mean}_b \cos_b(k) \ge c \}

    A first guess to try and judge by validation, no more: it looks at one set of weights,
    and says nothing of what the climb is worth.

    Args:
      alignment: what `gradient_alignment` found.
      least: c, the lowest mean cosine over batches that is good enough, in (0, 1].

    Returns:
      The first of `alignment.ks` that reaches `least`; 1.0, all examples, if none does.

    Raises:
      ValueError: if `least` is outside (0, 1].
      TypeError: if `alignment` isn't an `Alignment`, or `least` not a real number.

    Example:
      >>> import numpy as np
      >>> from ksam_jax import sharpness
      >>> cosines = np.array([[0.6, 0.92, 1.0], [0.8, 0.96, 1.0]])
      >>> found = sharpness.Alignment((0.125, 0.25, 1.0), cosines, cosines, cosines)
      >>> sharpness.recommend_k(found, least=0.9)
      0.25

    Reference:
      The rule is ours; the argument is that of Ni et al., K-SAM, 2022.
    """
    if not isinstance(alignment, Alignment):
        raise TypeError(
            f"recommend_k(alignment={shown(alignment)}): alignment must be what "
            f"gradient_alignment returned; got type {type(alignment).__name__}."
        )
    _values.scalar("recommend_k", "least", least, "in (0, 1]", lambda c: 0 < c <= 1)
    means = np.mean(alignment.cosines, axis=0)
    # A cosine of one may be a rounding below it.
    pairs = zip(alignment.ks, means, strict=True)
    return next((k for k, mean in pairs if mean >= least - 1e-6), 1.0)


def _wanted(call: str, ks: Any) -> list[_counts.ExampleCount]:
    rule = f"{call}(ks={shown(ks)}): ks must be a list of at least one k"
    is_number = isinstance(ks, np.ndarray) and not ks.ndim
    if is_number or not isinstance(ks, list | tuple | np.ndarray):
        raise TypeError(f"{rule}; got type {type(ks).__name__}; pass [{shown(ks)}].")
    if not len(ks):
        raise ValueError(f"{rule}; got none; leave it out for fractions from 1/16 to 1.")
    return [_counts.example_count(call, "ks", k) for k in ks]


def _fit(problem: Problem, counts: list[_counts.ExampleCount]) -> None:
    """Checks the sizes of the parts against all batches, before work is done on any."""
    for n in problem.sizes:
        numbers = [c.of(n) for c in counts]
        if numbers != sorted(numbers):
            ks = tuple(c.value for c in counts)
            raise ValueError(
                f"{problem.call}(ks={ks}): ks must go from small to large; of a batch of "
                f"{n} examples they take {numbers}; sort them."
            )


def _of_batch(
    problem: Problem,
    batch: PyTree,
    counts: list[_counts.ExampleCount],
    whole: Leaves,
    rng: np.random.Generator,
) -> tuple[list[float], list[float], list[float]]:
    n = count(batch)
    losses, mean = problem.weighted(batch, np.full(n, 1 / n, np.float32))
    ranked = np.argsort(-on_host(losses), kind="stable")
    shuffled = rng.permutation(n)
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    for number in (c.of(n) for c in counts):
        highest = problem.weighted(batch, _mean_of(ranked[:number], n))[1]
        random = problem.weighted(batch, _mean_of(shuffled[:number], n))[1]
        pairs = ((highest, mean), (random, mean), (highest, whole))
        for row, (a, b) in zip(found, pairs, strict=True):
            row.append(float(_cosine(a, b)))
    return found


def _mean_of(rows: np.ndarray, n: int) -> Float[np.ndarray, " N"]:
    """Weights of a mean over some of the examples."""
    weights = np.zeros(n, np.float32)
    weights[rows] = 1 / len(rows)
    return weights


@jax.jit
def _cosine(a: Leaves, b: Leaves) -> Float[Array, ""]:
    (a, _), (b, _) = scaled(a), scaled(b)
    return cosine(a, b)
