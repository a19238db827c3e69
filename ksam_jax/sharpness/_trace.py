"""The trace of the Hessian: curvature over all directions together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree
from matfree import stochtrace

from ..checks import _values
from ..trees._keys import key_of
from ._hessian import like_flat, product_on_host
from ._host import on_the_host
from ._problem import Problem


class Trace(NamedTuple):
    """An estimate of the trace.

    Attributes:
      samples: one unbiased estimate each, shape (num_samples,).
    """

    samples: Float[np.ndarray, " samples"]

    @property
    def value(self) -> float:
        """The estimate: the mean of the samples."""
        return float(np.mean(self.samples))

    @property
    def error(self) -> float:
        """Its standard error."""
        return float(np.std(self.samples, ddof=1) / np.sqrt(len(self.samples)))


def hessian_trace(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    *,
    num_samples: Any = 32,
    seed: Any = 0,
    mask: Any = None,
    has_aux: Any = False,
    num_microbatches: Any = 1,
    progress: Any = True,
) -> Trace:
    r"""The trace of the Hessian of the mean loss, estimated with random signs.

    .. math:: \mathrm{tr} \, \nabla^2 L(w) \approx
      \frac{1}{S} \sum_{s=1}^{S} z_s^\top \nabla^2 L(w) \, z_s,
      \qquad z_s \in \{-1, 1\}^n

    Hutchinson's estimator, from matfree: one Hessian-vector product per sample. It has no
    bias, and its standard error falls with the square root of the number of samples.

    Args:
      loss_fn: as in `sam_sharpness`; differentiable twice.
      params: likewise.
      batches: likewise.
      num_samples: at least 2, so that there is an error to tell.
      seed: of the signs.
      mask: which parameters the Hessian is of; None for all.
      has_aux: as in `sam_sharpness`.
      num_microbatches: likewise.
      progress: likewise.

    Returns:
      A `Trace`; `value` in units of the loss per square of the parameters' units.

    Raises:
      ValueError: if `num_samples` is below 2, or as `sam_sharpness`.
      TypeError: as `sam_sharpness`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> def loss_fn(w, batch):
      ...     return 0.5 * batch["scale"] * (3.0 * w[0] ** 2 + w[1] ** 2)
      >>> batches = [{"scale": jnp.array([1.0, 3.0])}]
      >>> found = sharpness.hessian_trace(loss_fn, jnp.ones(2), batches)
      >>> round(found.value, 3), round(found.error, 3)  # no error: the Hessian is diagonal
      (8.0, 0.0)

    Reference:
      Hutchinson, A Stochastic Estimator of the Trace of the Influence Matrix, 1990.
    """
    problem = Problem(
        "hessian_trace", loss_fn, params, batches, mask, has_aux, num_microbatches, progress
    )
    _values.size(problem.call, "num_samples", num_samples, "an integer >= 2", least=2)
    _values.seed(problem.call, seed)
    with problem.showing("trace", num_samples), on_the_host() as outside:
        sample = _sampler(problem, outside)
        keys = jax.random.split(key_of(seed), num_samples)
        return Trace(np.array([sample(key) for key in keys]))


def _sampler(problem: Problem, outside: Any) -> Callable[[jax.Array], jax.Array]:
    """One estimate from a key; whole vectors are on the host only."""
    like = like_flat(problem)
    signs = stochtrace.sampler_signs(jnp.zeros(like.shape, like.dtype), num=1)
    quadratic_form = stochtrace.monte_carlo_trace()

    def product(vector: jax.Array) -> jax.Array:
        with outside():
            found = product_on_host(problem, np.asarray(vector))
        return jnp.asarray(found)

    return lambda key: quadratic_form(product, signs(key)[0])
