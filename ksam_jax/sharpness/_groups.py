"""m-sharpness: groups of examples, or single ones, that climb on their own."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int, PyTree

from ..checks import _values
from . import _arguments
from ._problem import Problem, count, on_host


class MSharpness(NamedTuple):
    """What the groups' climbs found.

    Attributes:
      rises: how much the mean loss of each group rises, shape (G,).
      sizes: how many examples each has; those that end a batch may have fewer.
    """

    rises: Float[np.ndarray, " G"]
    sizes: Int[np.ndarray, " G"]

    @property
    def value(self) -> float:
        """The m-sharpness: the mean of the rises, each with the weight of its size."""
        return float(np.average(self.rises, weights=self.sizes))


def m_sharpness(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    m: Any,
    *,
    rho: Any = 0.05,
    mask: Any = None,
    has_aux: Any = False,
    progress: Any = True,
) -> MSharpness:
    r"""How much the loss of m examples rises when they climb alone, on average.

    .. math:: \frac{1}{G} \sum_{i=1}^{G} \max_{\|\epsilon\|_2 \le \rho}
      L_{S_i}(w + \epsilon) - L_{S_i}(w)

    by one step along each group's own gradient. What SAM makes small when m examples climb
    together, on one device of several or with `sync_ascent=False`. A smaller m mostly
    gives a larger value.

    Args:
      loss_fn: as in `sam_sharpness`; called on m examples.
      params: likewise.
      batches: likewise; each is cut into groups of m examples in order, and what is left
        over is a smaller group.
      m: examples per group, at least 1 and at most those of the first batch.
      rho: radius in the parameters' units, above 0.
      mask: as in `sam_sharpness`.
      has_aux: likewise.
      progress: as in `sam_sharpness`.

    Returns:
      An `MSharpness`; `value` is the mean.

    Raises:
      ValueError: as `sam_sharpness`, or if `m` is below 1 or above the first batch's size.
      TypeError: as `sam_sharpness`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> def loss_fn(w, batch):
      ...     return batch["x"] * w[0]
      >>> batches = [{"x": jnp.array([1.0, -1.0, 2.0, 2.0])}]
      >>> w = jnp.array([1.0])
      >>> [round(sharpness.m_sharpness(loss_fn, w, batches, m, rho=0.1).value, 3)
      ...  for m in (1, 2, 4)]
      [0.15, 0.1, 0.1]

    Reference:
      Foret et al., Sharpness-Aware Minimization, ICLR 2021, section 4.1.
    """
    problem = Problem("m_sharpness", loss_fn, params, batches, mask, has_aux, 1, progress)
    _values.size(problem.call, "m", m)
    return _measure(problem, int(m), _arguments.radius(problem.call, rho))


def per_example_sharpness(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    *,
    rho: Any = 0.05,
    mask: Any = None,
    has_aux: Any = False,
    progress: Any = True,
) -> Float[np.ndarray, " N"]:
    r"""How much each example's loss rises when it climbs alone.

    .. math:: \max_{\|\epsilon\|_2 \le \rho} \ell_i(w + \epsilon) - \ell_i(w)

    by one step along its own gradient: m-sharpness with m = 1. How much each rises by the
    perturbation that all have in common, which is what ESAM ranks by, is
    `sam_sharpness(...).rises`.

    Args:
      loss_fn: as in `sam_sharpness`; called on single examples.
      params: likewise.
      batches: likewise.
      rho: radius in the parameters' units, above 0.
      mask: as in `sam_sharpness`.
      has_aux: likewise.
      progress: likewise.

    Returns:
      The rises, shape (N,), in the order of the batches, in units of the loss.

    Raises:
      ValueError: as `sam_sharpness`.
      TypeError: as `sam_sharpness`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> def loss_fn(w, batch):
      ...     return batch["x"] * w[0]
      >>> batches = [{"x": jnp.array([1.0, -2.0, 4.0])}]
      >>> rises = sharpness.per_example_sharpness(
      ...     loss_fn, jnp.array([1.0]), batches, rho=0.5
      ... )
      >>> rises.tolist()
      [0.5, 1.0, 2.0]

    Reference:
      Foret et al., Sharpness-Aware Minimization, ICLR 2021, section 4.1, with m = 1.
    """
    problem = Problem(
        "per_example_sharpness", loss_fn, params, batches, mask, has_aux, 1, progress
    )
    return _measure(problem, 1, _arguments.radius(problem.call, rho)).rises


def _measure(problem: Problem, m: int, rho: float) -> MSharpness:
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with problem.showing("m-sharpness", 1):
        for batch in problem.each():
            if not found:
                _fits(problem, m, count(batch))
            found.extend(_climbs(problem, batch, m, rho))
    clean, higher, sizes = map(np.concatenate, zip(*found, strict=True))
    return MSharpness(higher - clean, sizes)


def _fits(problem: Problem, m: int, n: int) -> None:
    """Checks m against the first batch; the last one is often smaller."""
    if m > n:
        raise ValueError(
            f"{problem.call}(m={m}): m must be at most the number of examples of the first "
            f"batch; got a batch of {n}; pass a smaller m, or larger batches."
        )


def _climbs(
    problem: Problem, batch: PyTree, m: int, rho: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of whole groups, then of what is left over: mean losses before, after, and sizes."""
    n = count(batch)
    batch, rest = jax.tree.map(_everywhere, batch), n % m
    for first, last, size in ((0, n - rest, m), (n - rest, n, rest)):
        if first == last:
            continue
        rows = jax.tree.map(lambda x: x[first:last].reshape(-1, size, *x.shape[1:]), batch)
        args = (problem.free, problem.fixed, rows, rho)
        clean, higher = map(on_host, problem.compiled.climbs(*args))
        for losses, is_higher in ((clean, False), (higher, True)):
            _arguments.finite(problem.call, losses.reshape(-1), perturbed=is_higher)
        before, after = (np.mean(x, axis=1, dtype=np.float64) for x in (clean, higher))
        yield np.asarray(before), np.asarray(after), np.full(len(clean), size)


def _everywhere(x: jax.Array) -> jax.Array:
    """A copy on every device of its mesh: groups are cut from wherever the rows are."""
    if not isinstance(x.sharding, NamedSharding):
        return x
    return jax.device_put(x, NamedSharding(x.sharding.mesh, P()))
