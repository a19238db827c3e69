"""A dataset whose mean loss is a quadratic of known spectrum, and what follows of it."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Quadratic:
    """Losses `s_i * (0.5 (w - c)^T H (w - c) + 3)` of examples with mean of s equal to one.

    Attributes:
      hessian: of the mean loss, float64.
      gradient: of the mean loss at `params`, float64.
      centre: c, float64.
      params: {"a": (2, 3), "b": (n - 6,)}.
      batches: of different sizes.
    """

    hessian: np.ndarray
    gradient: np.ndarray
    centre: np.ndarray
    params: Any
    batches: list[Any]

    def loss_fn(self, params, batch):
        w = flat(params) - jnp.asarray(self.centre, jnp.float32)
        value = 0.5 * w @ jnp.asarray(self.hessian, jnp.float32) @ w + 3.0
        return batch["s"] * value


def flat(params):
    return jnp.concatenate([params["a"].reshape(-1), params["b"]])


def quadratic(eigenvalues, seed=0, shift=None):
    """One with these eigenvalues, in directions that are no axes; w - c is `shift`."""
    rng = np.random.default_rng(seed)
    n = len(eigenvalues)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    hessian = basis @ np.diag(eigenvalues) @ basis.T
    w = rng.standard_normal(n).astype(np.float32) + 0.3
    params = {"a": jnp.asarray(w[:6].reshape(2, 3)), "b": jnp.asarray(w[6:])}
    shift = rng.standard_normal(n) if shift is None else shift
    # What float32 makes of the difference is what there is.
    centre = (w - shift).astype(np.float32).astype(np.float64)
    gradient = hessian @ (w - centre)
    batches = [{"s": jnp.asarray(s, jnp.float32)} for s in ([0.5, 2.0, 0.7], [1.2, 0.6])]
    return Quadratic(hessian, gradient, centre, params, batches)


def largest_rise(gradient, hessian, rho):
    """max of g.e + e.H.e / 2 over |e| <= rho for a positive definite H, by bisection."""
    values, basis = np.linalg.eigh(hessian)
    turned = basis.T @ gradient

    def at(mu):
        return turned / (mu - values)

    low = values[-1] + 1e-12
    high = low + np.linalg.norm(gradient) / rho + 1.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.linalg.norm(at(middle)) > rho else (low, middle)
    e = at(high)
    return float(turned @ e + 0.5 * e @ (values * e))
