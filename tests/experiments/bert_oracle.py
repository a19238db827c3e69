"""BERT in NumPy's float64 from tensors by their published names, and checkpoints of it."""

import json
import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "model_type": "bert",
    "vocab_size": 41,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 49,
    "max_position_embeddings": 17,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-3,  # large, so that a model that ignores it is found out
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.2,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}
OUTPUTS = 3
TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def linear(name, before, after):
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def norm(name, width):
    return {f"{name}.LayerNorm.weight": (width,), f"{name}.LayerNorm.bias": (width,)}


def shapes(config, outputs):
    width, inner = config["hidden_size"], config["intermediate_size"]
    found = {
        "bert.embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "bert.embeddings.position_embeddings.weight": (
            config["max_position_embeddings"],
            width,
        ),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], width),
        **norm("bert.embeddings", width),
    }
    for i in range(config["num_hidden_layers"]):
        block = f"bert.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            found |= linear(f"{block}.attention.self.{part}", width, width)
        found |= linear(f"{block}.attention.output.dense", width, width)
        found |= norm(f"{block}.attention.output", width)
        found |= linear(f"{block}.intermediate.dense", width, inner)
        found |= linear(f"{block}.output.dense", inner, width)
        found |= norm(f"{block}.output", width)
    found |= linear("bert.pooler.dense", width, width)
    return found | linear("classifier", width, outputs)


def random_tensors(config=CONFIG, outputs=OUTPUTS, seed=0):
    """Nothing is zero or one, so that nothing can be left out without being noticed."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(float("LayerNorm.weight" in name), 0.3, shape).astype(np.float32)
        for name, shape in shapes(config, outputs).items()
    }


def write_checkpoint(folder, tensors, config=CONFIG, dtype="F32", name="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    words = [f"word{i}" for i in range(config["vocab_size"] - 5)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    cast = {
        name: tensor.astype(TYPES[dtype]) if tensor.dtype.kind == "f" else tensor
        for name, tensor in tensors.items()
    }
    save_file(cast, folder / name, metadata={"format": "pt"})
    return folder


def texts(lengths=((4, 0), (3, 6), (1, 9), (11, 1)), length=13, config=CONFIG, seed=1):
    """Ids and segments, filled up with padding; `lengths` of the first and second text."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), length), np.uint16)
    segments = np.zeros((len(lengths), length), np.uint8)
    for row, (first, second) in enumerate(lengths):
        present = first + second
        ids[row, :present] = rng.integers(1, config["vocab_size"], present)
        segments[row, first:present] = 1
    return ids, segments


def forward(tensors, ids, segments, config=CONFIG):
    """Returns all hidden states, embeddings first, the pooled output, and the logits."""
    rows = [_one(tensors, *row, config) for row in zip(ids, segments, strict=True)]
    hidden, pooled, logits = zip(*rows, strict=True)
    states = [np.stack(layer) for layer in zip(*hidden, strict=True)]
    return states, np.stack(pooled), np.stack(logits)


def _one(tensors, ids, segments, config):
    one = _Text({k: v.astype(np.float64) for k, v in tensors.items()}, config, ids != 0)
    x = one.normalized("bert.embeddings", one.embedded(ids, segments))
    hidden = [x]
    for i in range(config["num_hidden_layers"]):
        x = one.block(f"bert.encoder.layer.{i}", x)
        hidden.append(x)
    pooled = np.tanh(one.dense("bert.pooler.dense", x[0]))
    return hidden, pooled, one.dense("classifier", pooled)


class _Text(NamedTuple):
    """The layers by their names, for one text."""

    weights: dict[str, np.ndarray]
    config: dict[str, Any]
    present: np.ndarray

    def dense(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def normalized(self, name, x):
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        scale, shift = (
            self.weights[f"{name}.LayerNorm.{kind}"] for kind in ("weight", "bias")
        )
        return centred / np.sqrt(variance + self.config["layer_norm_eps"]) * scale + shift

    def embedded(self, ids, segments):
        table = "bert.embeddings.{}_embeddings.weight".format
        rows = [
            self.weights[table("word")][word]
            + self.weights[table("position")][place]
            + self.weights[table("token_type")][segment]
            for place, (word, segment) in enumerate(zip(ids, segments, strict=True))
        ]
        return np.stack(rows)

    def attended(self, name, x):
        q, k, v = (
            self.dense(f"{name}.self.{kind}", x) for kind in ("query", "key", "value")
        )
        width = x.shape[1] // self.config["num_attention_heads"]
        mixed = np.zeros_like(x)
        for start in range(0, x.shape[1], width):
            head = slice(start, start + width)
            for place in range(len(x)):
                scores = [q[place, head] @ k[other, head] for other in range(len(x))]
                powers = np.exp(np.array(scores) / math.sqrt(width)) * self.present
                mixed[place, head] = powers / powers.sum() @ v[:, head]
        return self.dense(f"{name}.output.dense", mixed)

    def block(self, name, x):
        attended = self.attended(f"{name}.attention", x)
        x = self.normalized(f"{name}.attention.output", x + attended)
        activation = ACTIVATIONS[self.config["hidden_act"]]
        inner = activation(self.dense(f"{name}.intermediate.dense", x))
        return self.normalized(
            f"{name}.output", x + self.dense(f"{name}.output.dense", inner)
        )


ACTIVATIONS = {
    "gelu": np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
    "gelu_new": np.vectorize(
        lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "relu": np.vectorize(lambda x: max(x, 0.0)),
}
