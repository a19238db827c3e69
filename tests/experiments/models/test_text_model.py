"""The text model against loops in NumPy, and what padding and dropout must not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import quick_jit
from text_oracle import (
    CLASSES,
    IDS,
    LENGTH,
    SEGMENTS,
    TOKENS,
    called,
    function,
    made,
    outputs,
)

from experiments.data.examples import Batch
from experiments.data.tokens import Tokens
from experiments.models import pure


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
