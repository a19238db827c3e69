"""The largest eigenvalues of the Hessian: curvature where it is strongest."""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, PyTree

from ..checks import _values
from . import _arguments
from ._hessian import normal_on_host, product_on_host
from ._lanczos import ROUNDING, Tridiagonal, tridiagonal
from ._problem import Problem

# Products, if nobody says how many: so many, and so many more for each eigenvalue.
STEPS, STEPS_EACH = 20, 4


class Eigenvalues(NamedTuple):
    """The largest eigenvalues, the largest first.

    Attributes:
      values: shape (k,), in units of the loss per square of the parameters' units.
      errors: how far each is from an eigenvalue of the Hessian, estimated: the length of
        `H v - value v`, and some units of the largest one's rounding.
      vectors: the eigenvectors, of length one, each a tree like the parameters.
    """

    values: Float[np.ndarray, " k"]
    errors: Float[np.ndarray, " k"]
    vectors: list[PyTree]


def top_eigenvalues(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    k: Any = 1,
    *,
    num_steps: Any = None,
    seed: Any = 0,
    mask: Any = None,
    has_aux: Any = False,
    num_microbatches: Any = 1,
    progress: Any = True,
) -> Eigenvalues:
    r"""The k largest eigenvalues of the Hessian of the mean loss, and their eigenvectors.

    .. math:: \nabla^2 L(w) \, v_i = \lambda_i v_i, \qquad
      \lambda_1 \ge \lambda_2 \ge \dots

    By the Lanczos iteration with full reorthogonalization, from matfree: one
    Hessian-vector product per step. Its basis, `num_steps` vectors of the parameters'
    size, is in the host's memory, temporarily up to five times as much. It converges at
    the ends of the spectrum first; `errors` says how far it is, and more steps make them
    smaller. An eigenvalue that is there several times takes more steps to be seen as often.

    Args:
      loss_fn: as in `sam_sharpness`; differentiable twice.
      params: likewise.
      batches: likewise.
      k: how many, at most the number of parameters.
      num_steps: products, from k to the number of parameters; None: 20 + 4 k, or the
        number of parameters if that is smaller.
      seed: of the random start.
      mask: which parameters the Hessian is of; None for all.
      has_aux: as in `sam_sharpness`.
      num_microbatches: likewise; a product takes about twice a gradient's memory.
      progress: likewise.

    Returns:
      An `Eigenvalues`.

    Raises:
      ValueError: if `k` or `num_steps` is out of range, or as `sam_sharpness`.
      TypeError: as `sam_sharpness`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> def loss_fn(w, batch):
      ...     return 0.5 * batch["scale"] * (3.0 * w[0] ** 2 + w[1] ** 2 - w[2] ** 2)
      >>> batches = [{"scale": jnp.array([1.0, 3.0])}]
      >>> found = sharpness.top_eigenvalues(loss_fn, jnp.ones(3), batches, k=2)
      >>> [round(float(value), 3) for value in found.values]
      [6.0, 2.0]

    Reference:
      Lanczos, 1950; Ghorbani et al., An Investigation into Neural Net Optimization via
      Hessian Eigenvalue Density, ICML 2019, for networks.
    """
    problem = Problem(
        "top_eigenvalues",
        loss_fn,
        params,
        batches,
        mask,
        has_aux,
        num_microbatches,
        progress,
    )
    k, steps = _sizes(problem, k, num_steps)
    start = normal_on_host(problem, _arguments.generator(problem.call, seed))
    with problem.showing("eigenvalues", steps):
        parts = tridiagonal(functools.partial(product_on_host, problem), start, steps)
    return _largest(problem, parts, k)


def _sizes(problem: Problem, k: Any, num_steps: Any) -> tuple[int, int]:
    """Both numbers, if they fit each other and the number of parameters."""
    call, size = problem.call, problem.size
    _values.size(call, "k", k)
    if k > size:
        raise ValueError(
            f"{call}(k={k}): k must be at most the number of parameters that are measured, "
            f"{size}; got {k}; pass a smaller k."
        )
    if num_steps is None:
        return int(k), min(size, STEPS + STEPS_EACH * int(k))
    _values.size(call, "num_steps", num_steps)
    if not k <= num_steps <= size:
        raise ValueError(
            f"{call}(num_steps={num_steps}): num_steps must be at least k={k} and at most "
            f"the number of parameters that are measured, {size}; got {num_steps}."
        )
    return int(k), int(num_steps)


def _largest(problem: Problem, parts: list[Tridiagonal], k: int) -> Eigenvalues:
    found: list[tuple[float, float, np.ndarray, Tridiagonal]] = []
    for part in parts:
        values, vectors = np.linalg.eigh(part.matrix)
        found += [
            (value, abs(part.remainder * vector[-1]), vector, part)
            for value, vector in zip(values, vectors.T, strict=True)
        ]
    unit = max(float(np.finfo(x.dtype).eps) for x in problem.free)
    rounding = ROUNDING * unit * max(abs(value) for value, *_ in found)
    found = sorted(found, key=lambda one: -one[0])[:k]
    return Eigenvalues(
        np.array([value for value, _, _, _ in found]),
        np.array([error + rounding for _, error, _, _ in found]),
        [problem.tree(problem.vector(v @ part.basis)) for _, _, v, part in found],
    )
