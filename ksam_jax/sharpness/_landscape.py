"""The loss of a dataset along directions: the numbers of a landscape's picture."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from . import _arguments
from ._compiled import Leaves
from ._problem import Problem, count, on_host

# Points between two moves of the bar.
AT_ONCE = 32


def loss_along(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    directions: Any,
    at: Any,
    *,
    has_aux: Any = False,
    num_microbatches: Any = 1,
    progress: Any = True,
) -> Float[np.ndarray, " points"]:
    r"""The mean loss at points of a line, a plane or another flat through the weights.

    .. math:: L \Big( w + \sum_{i} a_{pi} \, d_i \Big)

    One forward pass over the dataset for each point; the points of a batch are computed
    one after another, so that there is one set of moved weights at a time.

    Args:
      loss_fn: as in `sam_sharpness`.
      params: w; likewise.
      batches: as in `sam_sharpness`.
      directions: trees like `params`: from `random_direction`, `plane_through`,
        `top_eigenvalues(...).vectors` or anywhere.
      at: a, shape (points, directions); or (points,) for a single direction.
      has_aux: as in `sam_sharpness`.
      num_microbatches: likewise.
      progress: likewise.

    Returns:
      Shape (points,), in units of the loss; infinite or NaN where the loss is.

    Raises:
      ValueError: if `at` has another shape, a direction isn't like `params`, or there are
        no examples.
      TypeError: as `sam_sharpness`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> def loss_fn(w, batch):
      ...     return 0.5 * batch["x"] * w[0] ** 2 + w[1]
      >>> batches = [{"x": jnp.array([1.0, 3.0])}]
      >>> axes = [jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])]
      >>> at = [(0, 0), (1, 0), (1, 5)]
      >>> sharpness.loss_along(loss_fn, jnp.zeros(2), batches, axes, at).tolist()
      [0.0, 1.0, 6.0]

    Reference:
      Goodfellow et al., Qualitatively Characterizing Neural Network Optimization Problems,
      ICLR 2015; Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018.
    """
    problem = Problem(
        "loss_along", loss_fn, params, batches, None, has_aux, num_microbatches, progress
    )
    if not isinstance(directions, list | tuple) or not directions:
        raise TypeError(
            f"{problem.call}(directions=...): directions must be a list of at least one "
            f"tree like params; got type {type(directions).__name__}; pass [direction]."
        )
    along = [_like(problem, i, direction) for i, direction in enumerate(directions)]
    points = _points(problem.call, at, len(along))
    parts = np.array_split(points, -(-len(points) // AT_ONCE))
    total, examples = np.zeros(len(points)), 0
    with problem.showing("loss along directions", len(parts)):
        for batch in problem.each():
            total += np.concatenate(list(_sums(problem, batch, along, parts)))
            examples += count(batch)
    return total / examples


def _sums(
    problem: Problem, batch: PyTree, along: list[Leaves], parts: list[np.ndarray]
) -> Iterator[np.ndarray]:
    """The sums of a batch's losses at the points, a part of the points at a time."""
    for i, points in enumerate(parts):
        if i:
            problem.advance()
        args = (problem.free, problem.fixed, batch, along, points)
        yield on_host(problem.compiled.along(*args)).astype(np.float64)


def _like(problem: Problem, number: int, direction: PyTree) -> Leaves:
    name = f"directions[{number}]"
    tree = _arguments.like_parameters(problem.call, name, direction, problem.params)
    return [
        jnp.asarray(d).astype(x.dtype)
        for d, x in zip(problem.leaves(tree), problem.free, strict=True)
    ]


def _points(call: str, at: Any, directions: int) -> Float[np.ndarray, "points directions"]:
    points = _arguments.points(call, at, "(points, directions)")
    if points.ndim == 1 and directions == 1:
        points = points[:, None]
    if points.ndim != 2 or not len(points) or points.shape[1] != directions:
        raise ValueError(
            f"{call}(at=...): at must have the shape (points, directions), with "
            f"{directions} directions and at least one point; got shape {points.shape}."
        )
    return points
