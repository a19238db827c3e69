"""The Hessian of the mean loss, by its products with vectors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..trees._lengths import all_finite
from . import _arguments
from ._problem import Problem, flat


def hessian_vector_product(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    vector: PyTree,
    *,
    mask: Any = None,
    has_aux: Any = False,
    num_microbatches: Any = 1,
    progress: Any = True,
) -> PyTree:
    r"""The Hessian of the mean loss over a dataset, times a vector.

    .. math:: \nabla^2 L(w) \, v = \frac{d}{dt} \nabla L(w + t v) \Big|_{t=0}

    Forward over reverse differentiation: about twice a gradient's operations, and of each
    batch about twice its memory, which `num_microbatches=2` halves.

    Args:
      loss_fn: as in `sam_sharpness`.
      params: likewise.
      batches: likewise.
      vector: a tree like `params`, of the same shapes; cast to their dtypes.
      mask: which parameters the Hessian is of; the product is zero elsewhere.
      has_aux: as in `sam_sharpness`.
      num_microbatches: likewise.
      progress: likewise.

    Returns:
      A tree like `params`, in float32 or wider, sharded as they are.

    Raises:
      ValueError: if `vector` isn't like `params`, or as `sam_sharpness`.
      TypeError: as `sam_sharpness`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> def loss_fn(w, batch):
      ...     return 0.5 * batch["x"] * w[0] ** 2 + w[0] * w[1]
      >>> batches = [{"x": jnp.array([1.0, 3.0])}]
      >>> w, v = jnp.array([5.0, 7.0]), jnp.array([1.0, 10.0])
      >>> sharpness.hessian_vector_product(loss_fn, w, batches, v).tolist()
      [12.0, 1.0]

    Reference:
      Pearlmutter, Fast Exact Multiplication by the Hessian, 1994.
    """
    problem = Problem(
        "hessian_vector_product",
        loss_fn,
        params,
        batches,
        mask,
        has_aux,
        num_microbatches,
        progress,
    )
    leaves = _arguments.like_parameters(problem.call, "vector", vector, problem.params)
    along = [
        jnp.asarray(v).astype(x.dtype)
        for v, x in zip(problem.leaves(leaves), problem.free, strict=True)
    ]
    if not all_finite(along):
        raise ValueError(
            f"{problem.call}(vector=...): vector must be finite where the Hessian is "
            f"measured; got inf or nan; pass finite numbers."
        )
    with problem.showing("Hessian-vector product", 1):
        return problem.tree(problem.product(along))


def product_on_host(problem: Problem, vector: np.ndarray) -> np.ndarray:
    """The same for a flat vector of the host."""
    return flat(problem.product(problem.vector(vector)))


def normal_on_host(problem: Problem, rng: np.random.Generator) -> np.ndarray:
    """A random flat vector, to begin Lanczos with."""
    like = like_flat(problem)
    return rng.standard_normal(like.shape).astype(like.dtype)


def like_flat(problem: Problem) -> jax.ShapeDtypeStruct:
    """Shape and dtype of all measured parameters as one vector."""
    return jax.ShapeDtypeStruct(
        (problem.size,), np.result_type(*[x.dtype for x in problem.free])
    )
