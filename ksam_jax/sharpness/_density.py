"""The density of the Hessian's spectrum: how much curvature there is of each size."""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, PyTree

from ..checks import _values
from . import _arguments
from ._hessian import normal_on_host, product_on_host
from ._lanczos import lanczos
from ._problem import Problem


class Spectrum(NamedTuple):
    """Where the eigenvalues are, as points with weights, for each random vector.

    Attributes:
      nodes: approximate eigenvalues, shape (num_samples, num_steps).
      weights: the share of all eigenvalues near each, likewise; a row sums to one.
    """

    nodes: Float[np.ndarray, "samples steps"]
    weights: Float[np.ndarray, "samples steps"]

    def density(
        self, at: Float[np.ndarray, " points"], width: float | None = None
    ) -> Float[np.ndarray, " points"]:
        """The share of eigenvalues per unit of curvature, smoothed by a Gaussian.

        Args:
          at: where, shape (points,).
          width: the Gaussian's standard deviation, above 0; None: a hundredth of the range.

        Returns:
          Shape (points,); its integral is one.

        Raises:
          ValueError: if `width` isn't above 0.
        """
        if width is None:
            spread = float(np.ptp(self.nodes)) / 100
            width = spread or 1e-3 * max(1.0, float(np.abs(self.nodes).max()))
        _values.positive("Spectrum.density", "width", width)
        at = _arguments.points("Spectrum.density", at, "(points,)")
        width = float(width)
        distance = (np.reshape(at, (-1, 1, 1)) - self.nodes) / width
        bells = np.exp(-0.5 * distance**2) / (width * np.sqrt(2 * np.pi))
        return np.mean(np.sum(self.weights * bells, axis=2), axis=1)


def spectral_density(
    loss_fn: Any,
    params: PyTree,
    batches: Any,
    *,
    num_steps: Any = 40,
    num_samples: Any = 4,
    seed: Any = 0,
    mask: Any = None,
    has_aux: Any = False,
    num_microbatches: Any = 1,
    progress: Any = True,
) -> Spectrum:
    r"""The density of the eigenvalues of the Hessian of the mean loss.

    .. math:: \phi(t) = \frac{1}{n} \sum_{i=1}^{n} \delta(t - \lambda_i) \approx
      \frac{1}{S} \sum_{s=1}^{S} \sum_{j} w_{sj} \, \delta(t - \theta_{sj})

    Stochastic Lanczos quadrature: for each random vector matfree's Lanczos iteration gives
    a small matrix, whose eigenvalues are the points and whose eigenvectors' first entries,
    squared, their weights. It costs `num_samples * num_steps` Hessian-vector products.

    Args:
      loss_fn: as in `sam_sharpness`; differentiable twice.
      params: likewise.
      batches: likewise.
      num_steps: of Lanczos for each vector; at most the number of parameters are taken.
      num_samples: random vectors.
      seed: of them.
      mask: which parameters the Hessian is of; None for all.
      has_aux: as in `sam_sharpness`.
      num_microbatches: likewise.
      progress: likewise.

    Returns:
      A `Spectrum`, in units of the loss per square of the parameters' units.

    Raises:
      ValueError: if a number is below 1, or as `sam_sharpness`.
      TypeError: as `sam_sharpness`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ksam_jax import sharpness
      >>> def loss_fn(w, batch):
      ...     return 0.5 * batch["scale"] * (3.0 * w[0] ** 2 + w[1] ** 2)
      >>> batches = [{"scale": jnp.array([2.0])}]
      >>> found = sharpness.spectral_density(loss_fn, jnp.ones(2), batches)
      >>> [round(float(node), 3) for node in found.nodes[0]]
      [2.0, 6.0]

    Reference:
      Ghorbani et al., An Investigation into Neural Net Optimization via Hessian Eigenvalue
      Density, ICML 2019.
    """
    problem = Problem(
        "spectral_density",
        loss_fn,
        params,
        batches,
        mask,
        has_aux,
        num_microbatches,
        progress,
    )
    _values.size(problem.call, "num_steps", num_steps)
    _values.size(problem.call, "num_samples", num_samples)
    steps = min(int(num_steps), problem.size)
    rng = _arguments.generator(problem.call, seed)
    with problem.showing("spectrum", num_samples * steps):
        rows = [_quadrature(problem, rng, steps) for _ in range(num_samples)]
    nodes, weights = zip(*rows, strict=True)
    return Spectrum(np.stack(nodes), np.stack(weights))


def _quadrature(
    problem: Problem, rng: np.random.Generator, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights from one random vector, as many as there are steps."""
    start = normal_on_host(problem, rng)
    product = functools.partial(product_on_host, problem)
    nodes, vectors = np.linalg.eigh(lanczos(product, start, steps).matrix)
    # Steps that weren't needed, since the vector's subspace was exhausted.
    missing = steps - len(nodes)
    return (
        np.pad(nodes, (0, missing), mode="edge"),
        np.pad(vectors[0] ** 2, (0, missing)),
    )
