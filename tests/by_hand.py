"""Training steps written out by hand, of a small network written out in jax.numpy.

What the steps of Flax's and Equinox's models are compared with: no layer of theirs, no
transformation of ours. Batches, masks and statistics are arguments.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from problems import Draw, cross_entropy, quick_jit

N, RATE, MOMENTUM, NORM_MOMENTUM = 10, 0.2, 0.9, 0.7
BATCHES = [{"x": draw((N, 3), 2.0), "y": draw.labels(N, 3)} for draw in map(Draw, range(3))]


class Net(NamedTuple):
    """Weights and statistics of dense, BatchNorm if there are any, tanh, dense."""

    weights: Any
    stats: Any = None


def losses(weights, batch, mask=None):
    """Losses of shape (N,), and the statistics of this batch, None without BatchNorm."""
    hidden = batch["x"] @ weights["hidden"]["kernel"] + weights["hidden"]["bias"]
    seen = None
    if "norm" in weights:
        mean, var = hidden.mean(0), hidden.var(0)
        hidden = (hidden - mean) / jnp.sqrt(var + 1e-5)
        hidden = hidden * weights["norm"]["scale"] + weights["norm"]["bias"]
        seen = {"mean": mean, "var": var}
    hidden = jnp.tanh(hidden)
    if mask is not None:
        hidden = jnp.where(mask, hidden / 0.5, 0.0)
    logits = hidden @ weights["out"]["kernel"] + weights["out"]["bias"]
    return jax.vmap(cross_entropy)(logits, batch["y"]), seen


@quick_jit
def of_rows(weights, batch, mask, rows, divisor):
    """Of these rows alone: their losses, and the gradient of their sum over a divisor."""

    def total(weights):
        part = jax.tree.map(lambda x: x[rows], (batch, mask))
        found = losses(weights, *part)[0]
        return found.sum() / divisor, found

    return jax.grad(total, has_aux=True)(weights)[::-1]


def moved(weights, direction, radius):
    """The weights, moved by this much; where there is no direction, as they are."""
    squares = [np.sum(np.square(np.asarray(x, np.float64))) for x in leaves(direction)]
    length = np.sqrt(sum(squares))
    by = np.float32(radius / length if length else 0.0)
    return jax.tree.map(lambda w, d: w + by * d, weights, direction)


def leaves(tree):
    return jax.tree.leaves(tree)


def hardest(found, k):
    return jnp.asarray(np.argsort(-np.asarray(found), kind="stable")[:k])


ALL = jnp.arange(N)


def sam(weights, batch, mask, past):
    del past
    _, up = of_rows(weights, batch, mask, ALL, N)
    return of_rows(moved(weights, up, 0.1), batch, mask, ALL, N)[1]


def k_sam(weights, batch, mask, past):
    del past
    rows = hardest(of_rows(weights, batch, mask, ALL, N)[0], 4)
    _, up = of_rows(weights, batch, mask, rows, N)
    return of_rows(moved(weights, up, 0.1), batch, mask, rows, N)[1]


def k_momentum_sam(weights, batch, mask, past):
    if past is not None:
        weights = moved(weights, past, -0.1)
    rows = hardest(of_rows(weights, batch, mask, ALL, N)[0], 4)
    return of_rows(weights, batch, mask, rows, N)[1]


def esam(weights, batch, mask, past):
    del past
    clean, up = of_rows(weights, batch, mask, ALL, N)
    there = moved(weights, up, 0.1)
    rows = hardest(of_rows(there, batch, mask, ALL, N)[0] - clean, 4)
    return of_rows(there, batch, mask, rows, N)[1]


def _averaged(old, new):
    return NORM_MOMENTUM * old + (1 - NORM_MOMENTUM) * new


STEPS = {"sam": sam, "k_sam": k_sam, "k_momentum_sam": k_momentum_sam, "esam": esam}


def train(method, net, masks=(None,) * 3, batches=BATCHES, trained=lambda weights: weights):
    """Three steps of SGD with momentum; statistics are those of the clean pass."""
    weights, stats = net
    past, speed = None, None
    for batch, mask in zip(batches, masks, strict=True):
        seen = losses(weights, batch, mask)[1]
        past = trained(STEPS[method](weights, batch, mask, past))
        if speed is not None:
            speed = jax.tree.map(lambda s, u: MOMENTUM * s + u, speed, past)
        else:
            speed = past
        weights = jax.tree.map(lambda w, s: w - RATE * s, weights, speed)
        if stats is not None:
            stats = jax.tree.map(
                lambda old, new: NORM_MOMENTUM * old + (1 - NORM_MOMENTUM) * new,
                stats,
                seen,
            )
    return Net(weights, stats)
