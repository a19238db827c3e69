"""Our BERT against the one of the `transformers` library, from the same folders.

Needs transformers and PyTorch, which nothing else here does: `make parity` puts them into
an environment of their own (5 GB) and runs this, in a minute or two once they are there.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bert_oracle import (  # pyright: ignore[reportMissingImports]
    CONFIG,
    OUTPUTS,
    forward,
    random_tensors,
    texts,
    write_checkpoint,
)
from flax import nnx

from experiments.data.tokens import Tokens
from experiments.models.bert import BertClassifier
from experiments.models.huggingface import load, read_config, weights

torch: Any = pytest.importorskip("torch", reason="see `make parity`")
transformers: Any = pytest.importorskip("transformers", reason="see `make parity`")

TOKENS = Tokens(*texts())


def theirs(folder, make=transformers.BertForSequenceClassification, **options):
    """All hidden states, the pooled output and the logits."""
    model = make.from_pretrained(folder, attn_implementation="eager", **options).eval()
    ids, segments = (torch.tensor(part.astype(np.int64)) for part in TOKENS)
    inputs = {"attention_mask": (ids != 0).long(), "token_type_ids": segments}
    with torch.no_grad():
        encoded = model.bert(ids, output_hidden_states=True, **inputs)
        logits = model(ids, **inputs).logits
    arrays = (*encoded.hidden_states, encoded.pooler_output, logits)
    return [array.double().numpy() for array in arrays]


def ours(folder):
    """The same, and the parameters."""
    make = partial(BertClassifier, read_config(folder), OUTPUTS)
    fresh = nnx.state(make(rngs=nnx.Rngs(0)), nnx.Param)
    params = load(fresh, folder)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))

    @jax.jit
    def run(params):
        model = nnx.merge(graphdef, params)
        return *model.bert.layers(TOKENS), model.bert(TOKENS)[1], model(TOKENS)

    return run(params), params


def assert_near(actual, expected, record):
    assert len(actual) == len(expected)
    largest = max(np.abs(a - e).max() for a, e in zip(actual, expected, strict=True))
    record("largest_difference", float(largest))
    print(f"largest difference: {largest:.2g}")
    assert largest < 1e-5


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_the_same_folder_gives_the_same(tmp_path, record_property, activation):
    config = CONFIG | {"hidden_act": activation, "num_labels": OUTPUTS}
    folder = write_checkpoint(tmp_path, random_tensors(), config)
    expected = theirs(folder, num_labels=OUTPUTS)
    assert_near(ours(folder)[0], expected, record_property)
    # The oracle of the default suite is right, too.
    states, pooled, logits = forward(random_tensors(), *TOKENS, config)
    assert_near((*states, pooled, logits), expected, record_property)


def saved(folder, make, **options):
    """A folder that transformers wrote, of a new model with its own config."""
    sizes = {k: v for k, v in CONFIG.items() if k not in ("model_type", "layer_norm_eps")}
    config = transformers.BertConfig(**sizes, num_labels=OUTPUTS)
    config.initializer_range = 0.3
    torch.manual_seed(0)
    model = make(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder, **options)
    (folder / "vocab.txt").write_text("\n".join(f"word{i}" for i in range(41)))
    return model


def test_a_folder_that_transformers_wrote(tmp_path, record_property):
    saved(tmp_path, transformers.BertForSequenceClassification)
    assert_near(ours(tmp_path)[0], theirs(tmp_path), record_property)


def test_a_folder_of_several_files(tmp_path, record_property):
    make = transformers.BertForSequenceClassification
    saved(tmp_path, make, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_near(ours(tmp_path)[0], theirs(tmp_path), record_property)


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("BertModel", {"classifier"}),
        ("BertForPreTraining", {"classifier"}),
        ("BertForMaskedLM", {"classifier", "pooler"}),
    ],
)
def test_other_models_give_their_encoder(tmp_path, record_property, name, lacking):
    model = saved(tmp_path, getattr(transformers, name))
    (*layers, _, _), params = ours(tmp_path)
    encoder = model if name == "BertModel" else model.bert
    ids, segments = (torch.tensor(part.astype(np.int64)) for part in TOKENS)
    with torch.no_grad():
        mask = (ids != 0).long()
        out = encoder.eval()(ids, mask, segments, output_hidden_states=True)
    expected = [state.double().numpy() for state in out.hidden_states]
    assert_near(layers, expected, record_property)
    places = {place for place, _ in nnx.to_flat_state(params)}
    kept = places - weights(params, tmp_path).keys()
    assert {place[1] if place[0] == "bert" else place[0] for place in kept} == lacking


def test_bfloat16_weights(tmp_path, record_property):
    model = saved(tmp_path, transformers.BertForSequenceClassification)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    expected = theirs(tmp_path, dtype=torch.float32)
    assert_near(ours(tmp_path)[0], expected, record_property)


def test_base_gives_the_same(tmp_path, record_property):
    """At full size: 12 blocks of width 768."""
    torch.manual_seed(1)
    config = transformers.BertConfig(num_labels=OUTPUTS)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    actual, params = ours(tmp_path)
    encoder = [leaf for place, leaf in nnx.to_flat_state(params) if place[0] == "bert"]
    assert sum(leaf.size for leaf in jax.tree.leaves(encoder)) == 109_482_240
    assert actual[0].dtype == jnp.float32
    assert_near(actual, theirs(tmp_path), record_property)
