"""What the tests of recipes share: the pages' code, and a method's step by hand.

Gradients are in float64, and the pages' code runs as a reader runs it.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
from problems import quick_jit
from test_pages import ROOT, blocks, types_unchecked

import ksam_jax

RHO = 0.1


@contextlib.contextmanager
def as_a_reader_with_more_digits():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), types_unchecked():
        yield


@functools.cache
def page(name):
    """All names that the page's code defines."""
    names = {}
    for block in blocks("python", ROOT / "docs" / "how-to" / f"{name}.md"):
        exec(compile(block, name, "exec"), names)
    return names


class Draw:
    """Normal float64 arrays, and labels."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape):
        return jnp.asarray(self.rng.normal(0.3, 1.0, shape))

    def labels(self, classes, *shape):
        return jnp.asarray(self.rng.integers(0, classes, shape))


def by_hand(objective, params):
    """The gradient at weights that are RHO uphill of the objective."""

    @quick_jit
    def gradient(params):
        first = jax.grad(objective)(params)
        length = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(first)))
        moved = jax.tree.map(lambda p, g: p + RHO * g / length, params, first)
        return jax.grad(objective)(moved)

    return gradient(params)


def handed_on(method, loss_fn, params, batch):
    @quick_jit
    def step(params, batch):
        state = method.init(params)
        return method.update(None, state, params, loss_fn=loss_fn, batch=batch)[0]

    return step(params, batch)


def assert_same(found, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, wanted)


def highest(numbers, params, k):
    """The places of the k highest of some numbers."""
    return np.argsort(-np.asarray(quick_jit(lambda p: jnp.stack(numbers(p)))(params)))[:k]


def check(loss_fn, params, batch, numbers, k=2):
    """`numbers(params)` are the N whose mean is wanted, by hand; k of them are chosen."""
    whole = functools.partial(handed_on, loss_fn=loss_fn, params=params, batch=batch)
    mean = by_hand(lambda p: jnp.mean(jnp.stack(numbers(p))), params)
    assert_same(whole(ksam_jax.sam(rho=RHO)), mean)
    chosen = highest(numbers, params, k)

    def of_chosen(params):
        found = numbers(params)
        return sum(found[i] for i in chosen) / len(found)

    assert_same(whole(ksam_jax.k_sam(rho=RHO, k=k)), by_hand(of_chosen, params))
