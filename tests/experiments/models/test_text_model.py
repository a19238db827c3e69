"""The text model against loops in NumPy, and what padding and dropout must not do."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import quick_jit

from experiments.data.datasets import Batch
from experiments.data.tokens import Tokens
from experiments.models import pure
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


def test_outputs_are_those_of_numpy():
    _, state = made()
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state)
    expected = [outputs(weights, *row) for row in zip(IDS, SEGMENTS, strict=True)]
    found = called()(TOKENS)
    assert (found.shape, found.dtype) == ((4, CLASSES), jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


# ------------------------------------------------------------------------ what is ignored


def test_more_padding_changes_nothing():
    more = 3
    wider = Tokens(*(np.pad(part, ((0, 0), (0, more))) for part in TOKENS))
    np.testing.assert_allclose(
        called(LENGTH + more)(wider), called()(TOKENS), rtol=1e-5, atol=1e-5
    )


def test_the_segment_of_padding_changes_nothing_and_that_of_a_token_does():
    padding = SEGMENTS.copy()
    padding[IDS == 0] = 1
    plain = called()(TOKENS)
    np.testing.assert_allclose(called()(Tokens(IDS, padding)), plain, rtol=1e-5, atol=1e-5)
    other = SEGMENTS.copy()
    other[:, 0] = 1
    assert (np.abs(called()(Tokens(IDS, other)) - plain).max(1) > 1e-3).all()


def test_a_batch_is_its_texts_one_by_one():
    alone = Tokens(*(part[:, None] for part in TOKENS))
    singly = quick_jit(jax.vmap(function()))(alone)[:, 0]
    np.testing.assert_allclose(singly, called()(TOKENS), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------- dropout


def test_without_a_key_nothing_is_dropped():
    np.testing.assert_array_equal(called(dropout=0.4)(TOKENS), called()(TOKENS))


def test_a_key_decides_what_is_dropped():
    model, (one, other) = called(dropout=0.4), jax.random.split(jax.random.key(0))
    plain, dropped = model(TOKENS), model(TOKENS, one)
    assert (np.abs(dropped - plain).max(1) > 1e-3).all()
    np.testing.assert_array_equal(dropped, model(TOKENS, one))
    assert (np.abs(dropped - model(TOKENS, other)).max(1) > 1e-3).all()


def test_each_text_of_a_batch_has_its_own_key():
    model = called(dropout=0.4)
    twice = Tokens(*(np.stack([part[:1]] * 3) for part in TOKENS))
    first, second = jax.random.split(jax.random.key(0))
    keys = jnp.stack([first, second, first])
    found = quick_jit(jax.vmap(function(dropout=0.4)))(twice, keys)[:, 0]
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 1e-3
    alone = model(Tokens(*(part[:1] for part in TOKENS)), second)[0]
    np.testing.assert_allclose(found[1], alone, rtol=1e-5)


def test_losses_take_the_keys_of_a_batch():
    graph, _ = made(dropout=0.4)
    model = pure(lambda rngs: nnx.clone(graph))
    params = nnx.state(graph, nnx.Param)
    labels, index = np.array([0, 1, 2, 0], np.int32), np.arange(4)
    keys = jax.random.split(jax.random.key(3), 4)
    losses = quick_jit(model.losses)
    with_keys = losses(params, Batch(TOKENS, labels, index, keys))
    # By hand: each text alone, with its own key.
    logits = [
        called(dropout=0.4)(Tokens(*(part[i : i + 1] for part in TOKENS)), keys[i])[0]
        for i in range(4)
    ]
    expected = [
        np.log(np.exp(row).sum()) - row[label]
        for row, label in zip(np.array(logits, np.float64), labels, strict=True)
    ]
    np.testing.assert_allclose(with_keys, expected, rtol=1e-4)
    without = losses(params, Batch(TOKENS, labels, index))
    assert np.abs(without - with_keys).max() > 1e-2


def test_as_many_are_dropped_as_is_said():
    # Of the tokens' embeddings: the first number of each is one, and stays or grows.
    dropout, key = made(dropout=0.4)[0].encoder.dropout, jax.random.key(1)
    kept = np.asarray(dropout(jnp.ones(20_000), deterministic=False, rngs=key))
    assert set(np.unique(kept)) == {0, np.float32(1 / 0.6)}
    assert (kept == 0).mean() == pytest.approx(0.4, abs=0.02)
