"""Small models, losses and batches that several test files share.

Every model is a function of one example, `example_loss(params, example) -> scalar`;
`batched` makes the hand-written batch-level loss of it. Data are deliberately plain:
no lower bound at zero, no sorted labels, batch sizes that nothing divides.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax


def on_one_worker(name, *values, slow=False):
    """A test's parameters; tests of one name share compiled programs, so one process."""
    marks = [pytest.mark.xdist_group(name)] + [pytest.mark.slow] * slow
    return pytest.param(name, *values, marks=marks)


def slow_but(quick, names):
    """A test's parameters, of which all but `quick` are left to the slow tests."""
    marks = pytest.mark.slow
    return [pytest.param(n, marks=() if n in quick else marks) for n in names]


class Problem(NamedTuple):
    """Parameters, the loss of one example, and one batch."""

    params: Any
    example_loss: Any
    batch: Any


def batched(example_loss):
    """Lifts the loss of one example to a batch, without the library."""

    def loss_fn(params, batch):
        return jax.vmap(example_loss, in_axes=(None, 0))(params, batch)

    return loss_fn


def mean_loss(loss_fn):
    """The scalar training loss that a plain optimizer differentiates."""
    return lambda params, batch: jnp.mean(loss_fn(params, batch))


class Draw:
    """Normal float32 arrays from one NumPy generator: `Draw(seed)(shape, scale)`."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, shape, scale=1.0, dtype=jnp.float32):
        values = self.rng.normal(0.2, 1.0, shape) * scale
        return jnp.asarray(values.astype(np.float32)).astype(dtype)

    def labels(self, n, classes):
        return jnp.asarray(self.rng.integers(0, classes, n), jnp.int32)


def cross_entropy(logits, label):
    """Softmax cross-entropy of one example with an integer label."""
    return jax.nn.logsumexp(logits) - logits[label]


def dropout(key, x, keep=0.8):
    """Drops coordinates of `x` by a Bernoulli mask that depends on `key` alone."""
    return jnp.where(jax.random.bernoulli(key, keep, x.shape), x / keep, 0)


def dense(draw, n_in, n_out):
    return {"w": draw((n_in, n_out), n_in**-0.5), "b": draw((n_out,), 0.1)}


def apply_dense(p, x):
    return x @ p["w"] + p["b"]


# The contract table's problem: a two-layer network whose batch has floats, integers
# and typed keys, and a factor per example, so that one compiled step also sees zero,
# NaN and infinite losses.


def mlp(seed=0, n=10, width=5, dtype=jnp.float32):
    """A tanh network that tells label 0 from others; 0.25 of 10 examples is 2.5."""
    draw = Draw(seed)
    params = {"hidden": dense(draw, 3, width), "out": {"w": draw((width, 1))}}
    return Problem(
        jax.tree.map(lambda a: a.astype(dtype), params), mlp_loss, mlp_batch(seed, n)
    )


def mlp_batch(seed=0, n=10):
    draw = Draw(1000 + seed)
    return {
        "x": draw((n, 3), 2.0),
        "y": draw.labels(n, 3),
        "key": jax.random.split(jax.random.key(seed), n),
        "factor": jnp.ones(n, jnp.float32),
    }


def mlp_loss(params, example):
    return mlp_loss_with_aux(params, example)[0]


def mlp_loss_with_aux(params, example):
    """Logistic loss times the example's factor; aux are its logit and its hit."""
    return _mlp(params, example, lambda hidden: hidden)


def mlp_dropout_loss(params, example):
    """The same with dropout by the example's own key."""
    return _mlp(params, example, lambda hidden: dropout(example["key"], hidden))[0]


def _mlp(params, example, between):
    dtype = params["out"]["w"].dtype
    x = example["x"].astype(dtype)
    hidden = between(jnp.tanh(apply_dense(params["hidden"], x)))
    logit = (hidden @ params["out"]["w"])[0]
    is_zero = example["y"] == 0
    loss = jax.nn.softplus(jnp.where(is_zero, -logit, logit))
    aux = {"logit": logit, "correct": is_zero == (logit > 0)}
    return loss * example["factor"].astype(dtype), aux


# A loss that shows the perturbation. Its gradient at w is slope + curvature * w, so the
# descent gradient minus the clean one is curvature * epsilon, exactly.


def bowl_loss(params, example):
    """`slope . w + curvature |w|^2 / 2`: linear where the curvature is zero."""
    linear = jax.tree.map(lambda w, s: jnp.sum(w * s), params, example["slope"])
    square = jax.tree.map(lambda w: jnp.sum(w * w) / 2, params)
    total = sum(jax.tree.leaves(linear))
    return total + example["curvature"] * sum(jax.tree.leaves(square))


def bowl_batch(slopes, curvature=1.0):
    """Batch whose examples have the given slopes (leaves with a leading axis N)."""
    n = jax.tree.leaves(slopes)[0].shape[0]
    return {"slope": slopes, "curvature": jnp.full(n, curvature, jnp.float32)}


# Models for the shared forward pass and the operation counts.


def group_norm(p, x, groups):
    """Group normalization of one image `(H, W, C)`."""
    h, w, c = x.shape
    grouped = x.reshape(h, w, groups, c // groups)
    centred = grouped - jnp.mean(grouped, (0, 1, 3), keepdims=True)
    variance = jnp.mean(centred**2, (0, 1, 3), keepdims=True)
    normal = (centred * lax.rsqrt(variance + 1e-5)).reshape(h, w, c)
    return normal * p["gain"] + p["shift"]


def convolve(kernel, x, stride):
    """One image `(H, W, C)` with a kernel `(h, w, C, D)`."""
    out = lax.conv_general_dilated(
        x[None], kernel, (stride, stride), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    return out[0]


def cnn(seed=0, n=7, side=8, widths=(4, 8), classes=3):
    """3x3 convolutions, group normalization, ReLU, average pooling."""
    draw = Draw(seed)
    blocks, before = [], 2
    for width in widths:
        kernel = draw((3, 3, before, width), (9 * before) ** -0.5)
        norm = {"gain": draw((width,), 0.1) + 1, "shift": draw((width,), 0.1)}
        blocks.append({"kernel": kernel, "norm": norm})
        before = width
    params = {"blocks": blocks, "head": dense(draw, before, classes)}
    batch = {"x": draw((n, side, side, 2)), "y": draw.labels(n, classes)}

    def example_loss(params, example):
        x = example["x"]
        for index, block in enumerate(params["blocks"]):
            x = convolve(block["kernel"], x, 2 if index == 1 else 1)
            x = jax.nn.relu(group_norm(block["norm"], x, 2))
        logits = apply_dense(params["head"], jnp.mean(x, (0, 1)))
        return cross_entropy(logits, example["y"])

    return Problem(params, example_loss, batch)


def layer_norm(p, x):
    centred = x - jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(centred**2, -1, keepdims=True)
    return centred * lax.rsqrt(variance + 1e-5) * p["gain"] + p["shift"]


def init_transformer_block(draw, width):
    norm = {"gain": jnp.ones(width), "shift": jnp.zeros(width)}
    return {
        "norm1": norm,
        "qkv": dense(draw, width, 3 * width),
        "mix": dense(draw, width, width),
        "norm2": norm,
        "up": dense(draw, width, 4 * width),
        "down": dense(draw, 4 * width, width),
    }


def apply_transformer_block(p, x, heads):
    """Pre-norm attention and MLP on one sequence `(T, D)`."""
    tokens, width = x.shape
    qkv = apply_dense(p["qkv"], layer_norm(p["norm1"], x))
    q, k, v = jnp.moveaxis(qkv.reshape(tokens, 3, heads, width // heads), 1, 0)
    scores = jnp.einsum("qhd,khd->hqk", q, k) * (width // heads) ** -0.5
    mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), v)
    x = x + apply_dense(p["mix"], mixed.reshape(tokens, width))
    hidden = jax.nn.gelu(apply_dense(p["up"], layer_norm(p["norm2"], x)))
    return x + apply_dense(p["down"], hidden)


def vit(seed=0, n=7, tokens=5, width=8, depth=2, heads=2, patch=6, classes=3):
    """A small vision transformer on already cut patches `(T, P)`."""
    draw = Draw(seed)
    params = {
        "embed": dense(draw, patch, width),
        "position": draw((tokens, width), 0.1),
        "blocks": [init_transformer_block(draw, width) for _ in range(depth)],
        "head": dense(draw, width, classes),
    }
    batch = {"x": draw((n, tokens, patch)), "y": draw.labels(n, classes)}

    def example_loss(params, example):
        x = apply_dense(params["embed"], example["x"]) + params["position"]
        for block in params["blocks"]:
            x = apply_transformer_block(block, x, heads)
        return cross_entropy(apply_dense(params["head"], x.mean(0)), example["y"])

    return Problem(params, example_loss, batch)


def scanned(seed=0, n=7, width=6, depth=3):
    """Residual layers under `lax.scan`, rematerialized, each with its own dropout."""
    draw = Draw(seed)
    layers = {"w": draw((depth, width, width), 0.4), "b": draw((depth, width), 0.1)}
    params = {"layers": layers, "head": dense(draw, width, 3)}
    batch = {
        "x": draw((n, width)),
        "y": draw.labels(n, 3),
        "key": jax.random.split(jax.random.key(seed), n),
    }

    @jax.checkpoint
    def layer(x, p_key):
        p, key = p_key
        return x + dropout(key, jnp.tanh(apply_dense(p, x))), None

    def example_loss(params, example):
        keys = jax.random.split(example["key"], depth)
        x, _ = lax.scan(layer, example["x"], (params["layers"], keys))
        return cross_entropy(apply_dense(params["head"], x), example["y"])

    return Problem(params, example_loss, batch)


def lstm(seed=0, n=7, steps=6, width=5):
    """An LSTM over time by `lax.scan`; its last state is classified."""
    draw = Draw(seed)
    params = {"gates": dense(draw, 2 + width, 4 * width), "head": dense(draw, width, 3)}
    batch = {"x": draw((n, steps, 2)), "y": draw.labels(n, 3)}

    def example_loss(params, example):
        def cell(carry, x):
            hidden, memory = carry
            gates = apply_dense(params["gates"], jnp.concatenate([x, hidden]))
            i, f, g, o = jnp.split(gates, 4)
            memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(memory), memory), None

        start = (jnp.zeros(width), jnp.zeros(width))
        (hidden, _), _ = lax.scan(cell, start, example["x"])
        return cross_entropy(apply_dense(params["head"], hidden), example["y"])

    return Problem(params, example_loss, batch)


def embedding(seed=0, n=7, words=11, length=4, width=5):
    """Integer inputs only: a bag of embedded words."""
    draw = Draw(seed)
    params = {"table": draw((words, width)), "head": dense(draw, width, 3)}
    tokens = jnp.stack([draw.labels(length, words) for _ in range(n)])
    batch = {"tokens": tokens, "y": draw.labels(n, 3)}

    def example_loss(params, example):
        hidden = jnp.tanh(params["table"][example["tokens"]].mean(0))
        return cross_entropy(apply_dense(params["head"], hidden), example["y"])

    return Problem(params, example_loss, batch)


# A loss whose derivative can't be taken example by example.


def cond_loss(params, example):
    logits = apply_dense(params["out"], example["x"])
    return jax.lax.cond(
        example["y"] == 0,
        lambda: jnp.sum(jnp.square(logits)),
        lambda: cross_entropy(jnp.sin(logits) * jnp.exp(-logits), example["y"]),
    )


# Steps and comparisons.


def accepted(options):
    """The options among `options` that this version of XLA knows."""

    def is_known(name, value):
        try:
            jax.jit(jnp.negative, compiler_options={name: value})(1.0)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):
                raise
            return False
        return True

    return {name: value for name, value in options.items() if is_known(name, value)}


# The tests compile hundreds of tiny programs and run each a few times. The arithmetic
# is the same with these, and compilation up to seven times faster.
QUICK = accepted(
    {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
)
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)


def initial(tx, params) -> Any:
    """`tx.init(params)`, of a type that a checker lets us look into."""
    return tx.init(params)


def updater(tx, loss_fn, **extra) -> Callable[..., tuple[Any, Any]]:
    """`update(state, params, batch)` of a transformation and a loss."""

    def update(state, params, batch, updates=None):
        return tx.update(updates, state, params, loss_fn=loss_fn, batch=batch, **extra)

    return update


def assert_close(actual, expected, rtol=2e-6, atol=2e-6):
    """Trees of equal structure and dtypes whose floats are close."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, e = jax.random.key_data(a), jax.random.key_data(e)
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(e, np.float64), rtol, atol
        )


def traced(f, *args) -> str:
    """The program that JAX traces, without addresses, which some versions print."""
    return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(f)(*args)))


def assert_same(actual, expected):
    """Trees that agree to the last bit (NaN equals NaN)."""
    assert_close(actual, expected, rtol=0, atol=0)


def is_close(a, b):
    try:
        assert_close(a, b)
    except AssertionError:
        return False
    return True


def is_finite(tree):
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return all(np.all(np.isfinite(np.asarray(x, np.float64))) for x in leaves)


def is_zero(tree):
    return all(not np.any(np.asarray(x)) for x in jax.tree.leaves(tree))


def is_same(a, b):
    """Trees with equal values (NaN isn't equal to itself)."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def abstract(tree):
    """Structure, shapes, dtypes and weak types of a pytree."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves]


def stacked(batches):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)


def descend(params, updates):
    """A plain descent step, so that trajectories of raw methods go somewhere."""
    return jax.tree.map(lambda p, u: p - 0.3 * u.astype(p.dtype), params, updates)
