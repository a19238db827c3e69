"""matfree's Lanczos iteration with products that walk over batches on the host.

matfree traces the product, and a walk over batches with a progress display can't be
traced. So the product is a primitive, whose evaluation is a Python function, and matfree
runs step by step, outside of XLA. That also leaves its vectors, one per step, in the host's
memory: on the devices is no more than a product takes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from matfree import decomp

from ._host import on_the_host

# (n,) -> (n,), both on the host.
Product = Callable[[np.ndarray], np.ndarray]

# A remainder so small beside the matrix is rounding, and its direction means nothing.
ROUNDING = 32


class Tridiagonal(NamedTuple):
    """An orthonormal basis in which the matrix is tridiagonal.

    Attributes:
      basis: vectors (steps, n).
      matrix: `basis @ A @ basis.T`, (steps, steps).
      remainder: length of what the matrix makes of the last vector outside of the basis.
    """

    basis: np.ndarray
    matrix: np.ndarray
    remainder: float


def tridiagonal(product: Product, start: np.ndarray, steps: int) -> list[Tridiagonal]:
    """Lanczos from a start, and anew from a random one where a subspace is exhausted.

    The matrix keeps an exhausted subspace for itself, as it does what is orthogonal to it,
    so the parts' eigenvalues are the matrix's. Without this a multiple eigenvalue is seen
    once, and a matrix of zeros is a division by zero.

    Args:
      product: with a symmetric matrix.
      start: not zero, (n,).
      steps: products in all, at most n.
    """
    rng = np.random.default_rng(0)
    parts = [lanczos(product, start, steps)]
    while (done := sum(len(part.basis) for part in parts)) < steps:
        known = np.concatenate([part.basis for part in parts])
        beside = _without(known, product)
        start = _orthogonal(known, rng.standard_normal(start.shape).astype(start.dtype))
        parts.append(lanczos(beside, start, steps, steps - done))
    return parts


def lanczos(
    product: Product, start: np.ndarray, steps: int, most: int | None = None
) -> Tridiagonal:
    """As many steps as there are before only rounding remains; no product after that.

    `most` are taken. That matfree is asked for `steps` whatever remains spares it from
    compiling anew.
    """
    iterate = decomp.tridiag_sym(steps, custom_vjp=False)
    # Behind the last product it may divide by zero, and that part is cut off.
    with on_the_host() as outside, jax.disable_jit(), jax.debug_nans(False):
        walk = _Walk(product, steps if most is None else most, outside)
        found = iterate(walk.multiply, jnp.asarray(start))
    basis, matrix = np.asarray(found.Q_tall), np.asarray(found.J_small, np.float64)
    taken = walk.taken
    return Tridiagonal(basis[:taken], matrix[:taken, :taken], walk.remainder)


class _Walk:
    """The product as matfree gets it, which notices when a subspace is exhausted."""

    def __init__(self, product: Product, most: int, outside: Any):
        self._product, self._most, self._outside = product, most, outside
        self._last: list[np.ndarray] = []
        self._scale = 0.0
        self.taken = 0
        self.remainder = np.inf
        self._primitive = Primitive("streamed_product")
        self._primitive.def_impl(self._evaluate)
        self._primitive.def_abstract_eval(lambda vector: vector)

    def multiply(self, vector: jax.Array) -> jax.Array:
        """The matrix times a vector, traced or not."""
        return self._primitive.bind(vector)

    def _evaluate(self, vector: jax.Array) -> jax.Array:
        if not self.remainder or self.taken == self._most:
            return jnp.zeros_like(vector)
        given = np.asarray(vector)
        with self._outside():
            result = self._product(given)
        self.taken += 1
        # A symmetric matrix takes a vector of the basis no further back than this.
        self._last = [*self._last[-1:], given]
        self._scale = max(self._scale, float(np.linalg.norm(result)))
        rest = float(np.linalg.norm(_orthogonal(np.stack(self._last), result)))
        tiny = ROUNDING * float(np.finfo(result.dtype).eps) * self._scale
        self.remainder = rest if rest > tiny else 0.0
        return jnp.asarray(result)


def _without(known: np.ndarray, product: Product) -> Product:
    def beside(vector: np.ndarray) -> np.ndarray:
        return _orthogonal(known, product(vector))

    return beside


def _orthogonal(known: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """The vector without its part in the known ones' span; twice, for rounding."""
    for _ in range(2):
        vector = vector - (known @ vector) @ known
    return vector
