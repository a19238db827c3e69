"""BERT against NumPy in float64, and checkpoints good and bad."""

import json
import math
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bert_oracle import (
    CONFIG,
    OUTPUTS,
    TYPES,
    forward,
    random_tensors,
    texts,
    write_checkpoint,
)
from flax import nnx
from problems import quick_jit, updater
from safetensors.numpy import save_file

import ksam_jax
from experiments.data.tokens import Tokens
from experiments.models import zoo
from experiments.models.bert import Bert, BertClassifier
from experiments.models.bert_config import BASE, BertConfig
from experiments.models.huggingface import load, put, read_config, weights
from experiments.shell.cli import UsageError

SIZES = BertConfig(**{k: v for k, v in CONFIG.items() if k != "model_type"})
# For what one block shows as well as three.
SHALLOW = replace(SIZES, num_hidden_layers=1)
TOKENS = Tokens(*texts())
PRESENT = TOKENS.ids != 0


def build(config=SIZES, make: Any = BertClassifier, **options):
    """A function that makes the model, for `nnx.eval_shape` and the like."""
    sizes: tuple[Any, ...] = (config, OUTPUTS) if make is BertClassifier else (config,)
    return lambda: make(*sizes, **options, rngs=nnx.Rngs(0))


@cache
def fresh(config=SIZES, make=BertClassifier):
    """Parameters that no checkpoint has."""
    rng = np.random.default_rng(7)
    shapes = nnx.state(nnx.eval_shape(build(config, make)), nnx.Param)
    return jax.tree.map(lambda leaf: jnp.float32(rng.normal(0.0, 0.3, leaf.shape)), shapes)


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    """Those of the random checkpoint."""
    folder = write_checkpoint(tmp_path_factory.mktemp("bert"), random_tensors())
    return load(fresh(), folder)


@pytest.fixture(scope="module")
def shallow(params):
    """The same, of the first block alone."""
    kept = {p: w for p, w in flat(params).items() if "blocks" not in p or p[2] == 0}
    return put(fresh(SHALLOW), kept)


def model_of(params, config=SIZES, **options):
    """To be called under jit, or the like."""
    graphdef = nnx.graphdef(nnx.eval_shape(build(config, **options)))
    return nnx.merge(graphdef, params, copy=True)


@cache
def logits_of(config=SIZES, dtype=None, dropout=None):
    def logits(params, tokens, key=None):
        return model_of(params, config, dtype=dtype, dropout=dropout)(tokens, key)

    return quick_jit(logits)


def flat(params):
    return {place: np.asarray(leaf[...]) for place, leaf in nnx.to_flat_state(params)}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for place, weight in one.items():
        assert weight.dtype == other[place].dtype
        np.testing.assert_array_equal(weight, other[place], err_msg=str(place))


# The model.


def assert_near(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_all_layers_are_as_in_float64(params):
    @quick_jit
    def run(params, tokens):
        bert = model_of(params).bert
        return bert.layers(tokens), *bert(tokens)

    layers, last, pooled = run(params, TOKENS)
    expected, expected_pooled, expected_logits = forward(random_tensors(), *TOKENS)
    assert len(layers) == 4
    for ours, theirs in zip((*layers, last), (*expected, expected[-1]), strict=True):
        assert_near(ours, theirs)
    assert_near(pooled, expected_pooled)
    assert_near(logits_of()(params, TOKENS), expected_logits)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations(shallow, activation):
    logits = logits_of(replace(SHALLOW, hidden_act=activation))(shallow, TOKENS)
    config = CONFIG | {"hidden_act": activation, "num_hidden_layers": 1}
    assert_near(logits, forward(random_tensors(), *TOKENS, config)[2])


def test_padding_changes_no_other_token(shallow):
    @quick_jit
    def hidden(params, tokens):
        return model_of(params, SHALLOW).bert(tokens)[0]

    place = ("bert", "embeddings", "words", "embedding")
    words = flat(shallow)[place].copy()
    words[0] = words[1]
    before, after = hidden(shallow, TOKENS), hidden(put(shallow, {place: words}), TOKENS)
    np.testing.assert_array_equal(before[PRESENT], after[PRESENT])
    assert (np.abs(before - after)[~PRESENT].max(-1) > 0.1).all()
    longer = Tokens(*texts(length=16))
    assert_near(hidden(shallow, longer)[:, :13][PRESENT], before[PRESENT])


def test_one_example_at_a_time_gives_what_the_batch_gives(shallow):
    def one(row):
        return model_of(shallow, SHALLOW)(jax.tree.map(lambda x: x[None], row))[0]

    alone = quick_jit(jax.vmap(one))(TOKENS)
    assert_near(alone, logits_of(SHALLOW)(shallow, TOKENS))


def test_a_row_of_padding_alone_is_finite():
    nothing = Tokens(np.zeros((1, 13), np.uint16), np.zeros((1, 13), np.uint8))

    def first(params):
        return model_of(params, SHALLOW)(nothing)[0, 0]

    value, gradient = quick_jit(jax.value_and_grad(first))(fresh(SHALLOW))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_base_has_the_size_that_is_known():
    model = nnx.eval_shape(build(BASE, Bert))
    _, params, others = nnx.split(model, nnx.Param, ...)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 109_482_240
    assert not jax.tree.leaves(others)


def test_leaves_are_named_as_flax_names_them():
    names = {place[-1] for place in flat(fresh())}
    assert names == {"kernel", "bias", "scale", "embedding"}


def test_new_weights_have_the_standard_deviation_asked_for():
    config = replace(SHALLOW, initializer_range=0.07)
    new = flat(quick_jit(lambda: nnx.state(build(config)(), nnx.Param))())
    drawn = [w.ravel() for p, w in new.items() if p[-1] in ("kernel", "embedding")]
    # Of 10,272 numbers the standard error is 0.7 percent.
    assert np.concatenate(drawn).std() == pytest.approx(0.07, rel=0.03)
    assert len(drawn) == 3 + 6 + 2
    assert {w.std() for p, w in new.items() if p[-1] in ("bias", "scale")} == {0.0}


def with_large_scores():
    """Scores of 8 * 200**2 / sqrt(8), which float16 doesn't have."""
    params = fresh(SHALLOW)
    large = {
        place: np.full_like(weight, 200.0)
        for place, weight in flat(params).items()
        if place[-2:] in (("query", "bias"), ("key", "bias"))
    }
    return put(params, large)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_has_finite_gradients(dtype):
    def loss(params, key):
        logits = model_of(params, SHALLOW, dtype=dtype)(TOKENS, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(4) % 3)
        return losses.mean()

    run = quick_jit(jax.value_and_grad(loss))
    value, gradient = run(with_large_scores(), jax.random.key(0))
    assert np.isfinite(value)
    leaves = jax.tree.leaves(gradient)
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    # Equal large biases leave softmax to the rest of queries and keys, which is rounded.
    assert sum(np.abs(leaf).any() for leaf in leaves) > 20


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.25), ("float16", 0.03)])
def test_half_precision_is_near_float64(shallow, dtype, tolerance):
    encoded = nnx.eval_shape(lambda: build(SHALLOW, dtype=dtype)().bert(TOKENS))
    assert {output.dtype for output in encoded} == {np.dtype(dtype)}
    logits = logits_of(SHALLOW, dtype=dtype)(shallow, TOKENS)
    assert logits.dtype == np.float32
    config = CONFIG | {"num_hidden_layers": 1}
    expected = forward(random_tensors(), *TOKENS, config)[2]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


def test_one_forward_pass_is_shared():
    """An integer `keep` refuses a loss that can't share; "auto" is then the same."""

    def loss(params, example):
        tokens, label, key = example
        tokens = jax.tree.map(lambda x: x[None], tokens)
        logits = model_of(params, SHALLOW)(tokens, key)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    batch = TOKENS, jnp.array([0, 2, 1, 2]), jax.random.split(jax.random.key(3), 4)
    params, tx = fresh(SHALLOW), ksam_jax.k_sam(rho=0.05, k=2)
    update = updater(tx, ksam_jax.per_example(loss, keep=100))
    gradient, _ = jax.eval_shape(update, tx.init(params), params, batch)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)


# Dropout.


def test_dropout_needs_a_key_and_follows_it(shallow):
    logits = logits_of(SHALLOW)  # without a key those in float64; see above
    one, same, other = (logits(shallow, TOKENS, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (np.abs(one - other) > 1e-3).all()
    assert (np.abs(one - logits(shallow, TOKENS)) > 1e-3).all()


def test_every_dropout_has_a_key_of_its_own(params, monkeypatch):
    keys = []

    def record(self, x, *, deterministic, rngs):
        assert not deterministic
        keys.append(jax.random.key_data(rngs))
        return x

    monkeypatch.setattr(nnx.Dropout, "__call__", record)

    @quick_jit
    def run(params, key):
        model_of(params)(TOKENS, key)
        return jnp.stack(keys)

    found = run(params, jax.random.key(5)).tolist()
    # Of the embeddings, of attention's weights and the two sums of each block, of the head.
    assert len(found) == 1 + 3 * 3 + 1
    assert len({tuple(key) for key in found}) == len(found)


def _head(model, tokens, key):
    return model(tokens, key)


def _embeddings(model, tokens, key):
    return model.bert.embeddings(tokens, key)


def _attention(model, tokens, key):
    x = model.bert.embeddings(tokens, None)
    return model.bert.blocks[0].attention(x, tokens.ids != 0, key)


@pytest.mark.parametrize(
    ("part", "rates"),
    [
        (_head, {}),
        (_embeddings, {"hidden_dropout_prob": 0.3}),
        (_attention, {"attention_probs_dropout_prob": 0.3}),
    ],
)
def test_dropout_keeps_the_mean(shallow, part, rates):
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = replace(SHALLOW, **(none | rates))

    @quick_jit
    def run(params, keys):
        model = model_of(params, config, dropout=0.3)
        exact = part(model, TOKENS, None)
        return exact, jax.lax.map(lambda key: part(model, TOKENS, key), keys)

    exact, drawn = run(shallow, jax.random.split(jax.random.key(0), 600))
    error = np.asarray(drawn).std(0) / math.sqrt(600)
    assert (error > 0).mean() > 0.9
    # In standard errors; of 1,664 numbers at most, 5 is one in a thousand runs.
    assert (np.abs(np.mean(drawn, 0) - exact) <= 5 * error + 1e-5).all()


# Loading.


def without_prefix(tensors):
    return {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}


def legacy(tensors):
    renamed = {}
    for name, tensor in tensors.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        renamed[name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    return renamed


def pretrained(tensors):
    more = {
        "cls.predictions.bias": np.ones(41, np.float32),
        "cls.predictions.transform.LayerNorm.weight": np.ones(32, np.float32),
        "cls.seq_relationship.weight": np.ones((2, 32), np.float32),
        "bert.embeddings.position_ids": np.arange(17)[None],
    }
    return tensors | more


@pytest.mark.parametrize("names", [without_prefix, legacy, pretrained])
def test_other_names_give_the_same(params, tmp_path, names):
    folder = write_checkpoint(tmp_path, names(random_tensors()))
    assert_same(flat(load(fresh(), folder)), flat(params))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_becomes_float32(tmp_path, dtype):
    tensors = random_tensors()
    rounded = {name: np.float32(one.astype(TYPES[dtype])) for name, one in tensors.items()}
    folder = write_checkpoint(tmp_path / "half", tensors, dtype=dtype)
    read = weights(fresh(), folder).values()
    assert {weight.dtype for weight in read} == {np.dtype("float32")}
    half = load(fresh(), folder)
    full = load(fresh(), write_checkpoint(tmp_path / "full", rounded))
    assert_same(flat(half), flat(full))


def sharded(folder, tensors, parts=3):
    """Weights in several files, and the index that names them."""
    write_checkpoint(folder, {})
    (folder / "model.safetensors").unlink()
    files = [f"model-{i:05}-of-{parts:05}.safetensors" for i in range(1, parts + 1)]
    where = {name: files[i % parts] for i, name in enumerate(tensors)}
    for file in files:
        save_file({n: t for n, t in tensors.items() if where[n] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_weights_may_be_in_several_files(params, tmp_path):
    folder = sharded(tmp_path, random_tensors())
    assert_same(flat(load(fresh(), folder)), flat(params))


def less(*prefixes):
    tensors = random_tensors()
    return {n: tensor for n, tensor in tensors.items() if not n.startswith(prefixes)}


@pytest.mark.parametrize("prefix", ["classifier", "bert.pooler"])
def test_what_a_folder_may_lack_stays_as_it_was(params, tmp_path, prefix):
    loaded = flat(load(fresh(), write_checkpoint(tmp_path, less(prefix))))
    part = prefix.removeprefix("bert.")
    expected = {
        place: flat(fresh())[place] if part in place else weight
        for place, weight in flat(params).items()
    }
    assert_same(loaded, expected)


def test_a_head_of_another_task_is_not_taken(params, tmp_path):
    folder = write_checkpoint(tmp_path, random_tensors(outputs=OUTPUTS + 1))
    loaded = flat(load(fresh(), folder))
    for place, weight in loaded.items():
        source = fresh() if "classifier" in place else params
        np.testing.assert_array_equal(weight, flat(source)[place])


def test_an_encoder_alone(params, tmp_path):
    loaded = flat(load(fresh(make=Bert), write_checkpoint(tmp_path, random_tensors())))
    encoder = {place[1:]: w for place, w in flat(params).items() if place[0] == "bert"}
    assert_same(loaded, encoder)


def test_replicas_all_get_the_same(params, tmp_path):
    folder = write_checkpoint(tmp_path, less("classifier"))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1]), fresh())
    loaded = flat(put(stacked, weights(fresh(), folder)))
    for place, weight in flat(params).items():
        is_head = place[0] == "classifier"
        one = flat(fresh())[place] if is_head else weight
        expected = np.stack([one, one + 1 if is_head else one])
        np.testing.assert_array_equal(loaded[place], expected)


def test_the_config_is_read(tmp_path):
    folder = write_checkpoint(tmp_path, {})
    assert read_config(folder) == SIZES
    (folder / "config.json").write_text('{"vocab_size": 50, "architectures": ["x"]}')
    assert read_config(folder) == replace(BASE, vocab_size=50)


# What is refused.


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"model_type": "roberta"},
            r'model_type in .*config.json must be "bert", which is',
        ),
        (
            {"position_embedding_type": "relative_key"},
            r'position_embedding_type in .* must be "absolute", .*; got "relative_key"',
        ),
        ({"is_decoder": True}, "is_decoder in .* must be false, .*; got true"),
        ({"pad_token_id": 3}, "pad_token_id in .* must be 0, .*; got 3"),
        (
            {"hidden_act": "silu"},
            "hidden_act must be one of gelu, gelu_new, relu; got 'silu'",
        ),
        (
            {"hidden_size": 30},
            "hidden_size must be a multiple of num_attention_heads; got 30",
        ),
        ({"hidden_size": "32"}, "hidden_size must be an integer of at least 1; got '32'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be an integer .*; got True"),
        ({"layer_norm_eps": 0}, "layer_norm_eps must be a positive number; got 0"),
        (
            {"hidden_dropout_prob": 1.0},
            "hidden_dropout_prob must be at least 0 and below 1",
        ),
        ({"vocab_size": 40}, "vocab.txt may have at most .* vocab_size, 40; got 41"),
    ],
)
def test_a_config_that_is_not_supported(tmp_path, changed, message):
    folder = write_checkpoint(tmp_path, {})
    (folder / "config.json").write_text(json.dumps(CONFIG | changed))
    with pytest.raises(UsageError, match=message):
        read_config(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json isn't JSON: .*; fetch it again"),
        ("[1]", r"must hold a JSON object"),
    ],
)
def test_a_config_that_is_damaged(tmp_path, content, message):
    folder = write_checkpoint(tmp_path, {})
    (folder / "config.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_config(folder)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_a_file_that_is_missing(tmp_path, name):
    folder = write_checkpoint(tmp_path, {})
    (folder / name).unlink()
    with pytest.raises(
        UsageError, match=rf"can't read .*{name}: No such file or directory"
    ):
        read_config(folder)


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def truncated(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-7])


def missing_layer(folder):
    write_checkpoint(folder, less("bert.encoder.layer.2."))


def half_a_pooler(folder):
    write_checkpoint(folder, less("bert.pooler.dense.bias"))


def wrong_shape(folder):
    tensors = random_tensors()
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    write_checkpoint(folder, tensors | {name: tensors[name][:, 1:]})


def wrong_type(folder):
    ids = {"bert.pooler.dense.bias": np.arange(32)}
    write_checkpoint(folder, random_tensors() | ids)


def missing_part(folder):
    no_weights(folder)
    sharded(folder, random_tensors())
    (folder / "model-00002-of-00003.safetensors").unlink()


def empty_index(folder):
    no_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            pickled,
            "only in pytorch_model.bin, a pickle, .*; convert it with the safetensors",
        ),
        (no_weights, "has no model.safetensors;"),
        (truncated, "can't read .*model.safetensors: .*; fetch the checkpoint again"),
        (missing_layer, r"lack encoder.layer.2.attention\S* and 15 more, which"),
        (half_a_pooler, "lack pooler.dense.bias, which a model"),
        (
            wrong_shape,
            r"encoder.layer.1.intermediate.dense.weight in .* must have shape \(49, 32\) "
            r"for the sizes in config.json; got \(49, 31\)",
        ),
        (wrong_type, "bert.pooler.dense.bias in .* floating-point type; got int64"),
        (missing_part, "can't read .*model-00002-of-00003.safetensors"),
        (empty_index, "index.json must have a weight_map"),
    ],
)
def test_weights_that_cannot_be_read(tmp_path, damage, message):
    damage(write_checkpoint(tmp_path, random_tensors()))
    with pytest.raises(UsageError, match=message):
        weights(fresh(), tmp_path)


def test_a_sequence_may_not_be_longer_than_there_are_positions():
    tokens = Tokens(np.ones((1, 18), np.uint16), np.zeros((1, 18), np.uint8))
    with pytest.raises(
        ValueError, match=r"at most max_position_embeddings = 17 .*; got 18"
    ):
        jax.eval_shape(lambda p: model_of(p)(tokens), fresh())


def test_the_dropout_that_is_asked_for_is_everywhere():
    build = zoo.build("bert_tiny", (8,), 2, vocabulary=30, dropout=0.3)
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    rates = [n.rate for _, n in nnx.iter_graph(model) if isinstance(n, nnx.Dropout)]
    # Of the embeddings, of both blocks' weights and outputs, and of the head.
    assert len(rates) >= 1 + 2 * 2 + 1
    assert set(rates) == {0.3}
