"""The text model in NumPy loops, and one with weights that are nothing special."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from problems import quick_jit

from experiments.data.tokens import Tokens
from experiments.models.text import TextTransformer

LENGTH, VOCABULARY, CLASSES = 6, 11, 3
WIDTH, DEPTH, HEADS = 6, 2, 3
# Padding at the end, none at all, within a text, and all but one token.
IDS = np.array(
    [[4, 9, 2, 5, 0, 0], [1, 2, 3, 4, 5, 6], [7, 0, 8, 10, 1, 0], [3, 0, 0, 0, 0, 0]],
    np.uint16,
)
SEGMENTS = np.array([[0, 0, 1, 1, 0, 0], [0] * 6, [0, 0, 0, 1, 1, 0], [0] * 6], np.uint8)
TOKENS = Tokens(IDS, SEGMENTS)


@functools.cache
def made(length=LENGTH, dropout=0.0):
    """A model none of whose weights is zero or one; by their names."""

    def build(rngs):
        return TextTransformer(
            length,
            VOCABULARY,
            CLASSES,
            width=WIDTH,
            depth=DEPTH,
            heads=HEADS,
            dropout=dropout,
            rngs=rngs,
        )

    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.3, 0.5, leaf.shape), jnp.float32),
        _without_positions(shapes),
    )
    # The same whatever the length.
    positions = rng.normal(size=(50, WIDTH)).astype(np.float32)[:length]
    state["encoder"]["positions"] = jnp.asarray(positions)
    nnx.replace_by_pure_dict(shapes, state)
    return nnx.merge(graphdef, shapes), state


def _without_positions(shapes):
    found = nnx.to_pure_dict(shapes)
    del found["encoder"]["positions"]
    return found


def function(length=LENGTH, dropout=0.0):
    """The model as a function of tokens and, if there is dropout, a key."""
    graphdef, state = nnx.split(made(length, dropout)[0])
    return lambda tokens, key=None: nnx.merge(graphdef, state)(tokens, key)


@functools.cache
def called(length=LENGTH, dropout=0.0):
    """The same, compiled."""
    return quick_jit(function(length, dropout))


# ----------------------------------------------------------------------------- in NumPy


def dense(weights, x):
    kernel, bias = weights["kernel"], weights["bias"]
    inner = kernel.shape[: kernel.ndim - bias.ndim]
    flat = x.reshape(len(x), -1) @ kernel.reshape(math.prod(inner), -1)
    return (flat + bias.ravel()).reshape(len(x), *bias.shape)


def normalized(weights, x):
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return centred / deviation * weights["scale"] + weights["bias"]


def gelu(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attended(weights, x, present):
    _, heads, size = weights["query"]["kernel"].shape
    q, k, v = (dense(weights[name], x) for name in ("query", "key", "value"))
    mixed = np.zeros_like(q)
    for place in range(len(x)):
        for head in range(heads):
            powers = [
                math.exp(q[place, head] @ k[other, head] / math.sqrt(size))
                for other in present
            ]
            shares = np.array(powers) / sum(powers)
            mixed[place, head] = shares @ v[present, head]
    return dense(weights["out"], mixed)


def outputs(weights, ids, segments):
    """Of one text."""
    x = weights["embedding"]["embedding"][ids] + weights["segments"]["embedding"][segments]
    x = x + weights["encoder"]["positions"]
    present = np.flatnonzero(ids)
    for _, block in sorted(weights["encoder"]["blocks"].items()):
        x = x + attended(block["attention"], normalized(block["norm1"], x), present)
        hidden = gelu(dense(block["up"], normalized(block["norm2"], x)))
        x = x + dense(block["down"], hidden)
    mean = normalized(weights["encoder"]["norm"], x)[present].mean(0)
    return mean @ weights["head"]["kernel"] + weights["head"]["bias"]
