"""One problem for the tests of methods that take turns: its losses, and sums in NumPy.

The loss of an example is `a . w + c . w^2 / 2` with a vector c of both signs, so that its
gradient is `a + c w`, and the two gradients of a step point different ways.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import (
    batched,
)

import ksam_jax

N, STEPS, RATE = 8, 7, 0.1
RHO = 0.3
WEIGHTS = np.array([0.7, -1.2, 0.4, -0.3])


@pytest.fixture(autouse=True)
def float64(request: Any) -> Any:
    """But for the tests that say otherwise."""
    with jax.enable_x64("float32" not in request.fixturenames):
        yield


@pytest.fixture
def float32() -> None:
    """Says otherwise."""


in_float32 = pytest.mark.usefixtures("float32")


# ------------------------------------------------------------------- the problem


def as_tree(w: Any) -> Any:
    """Two leaves, over which norms and inner products run together."""
    w = jnp.asarray(w)
    return {"u": w[:1], "v": w[1:].reshape(3, 1)}


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in tree.values()])


class Numbers(NamedTuple):
    """A batch in NumPy: the slopes and curvatures of its examples."""

    slopes: np.ndarray
    curves: np.ndarray

    def gradient(self, w: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        """Of the mean loss over some of the examples."""
        return (self.slopes + self.curves * w)[rows].mean(0)

    def losses(self, w: np.ndarray) -> np.ndarray:
        return self.slopes @ w + self.curves @ (w * w) / 2

    def sam(self, w: np.ndarray, rho: float = RHO) -> np.ndarray:
        g = self.gradient(w)
        return self.gradient(w + rho * g / np.linalg.norm(g))


def numbers(t: int) -> Numbers:
    rng = np.random.default_rng(50 + t)
    return Numbers(rng.normal(0.4, 1.0, (N, 4)), rng.normal(0.2, 1.0, (N, 4)))


def as_batch(found: Numbers, dtype: Any = None) -> Any:
    return {"a": jnp.asarray(found.slopes, dtype), "c": jnp.asarray(found.curves, dtype)}


def batches(steps: int = STEPS) -> list[Any]:
    return [as_batch(numbers(t)) for t in range(steps)]


def example_loss(params: Any, example: Any) -> Any:
    w = jnp.concatenate([params["u"], params["v"][:, 0]])
    return jnp.sum(example["a"] * w + example["c"] * w * w / 2)


def example_loss_with_aux(params: Any, example: Any) -> Any:
    aux = {"first": example["a"][0] * params["u"][0], "is_steep": example["c"][0] > 0}
    return example_loss(params, example), aux


loss_fn = batched(example_loss)


def moved(params: Any, updates: Any) -> Any:
    return jax.tree.map(lambda p, u: p - RATE * u, params, updates)


def walk(update: Any, state: Any, inputs: Any, params: Any = None) -> Any:
    """The updates, infos, states and weights of a run, one of each per step."""
    params, found = as_tree(WEIGHTS) if params is None else params, []
    for batch in inputs:
        updates, state = update(state, params, batch)
        found.append((updates, ksam_jax.get_info(state), state, params))
        params = moved(params, updates)
    return found


def rising(count: Any) -> Any:
    return 0.1 * (1 + jnp.asarray(count, jnp.float64))
