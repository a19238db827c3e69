"""A BERT from a folder as transformers' `save_pretrained` writes it: what goes where."""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.data.tokens import PAD
from experiments.models.bert_config import BertConfig
from experiments.models.checkpoint_files import (
    CONFIG,
    VOCABULARY,
    json_of,
    tensors,
    text_of,
)
from experiments.shell.cli import UsageError

# Where a leaf is in a tree of parameters, as `nnx.to_flat_state` has it.
Place = tuple[Any, ...]

# What the model can be; what config.json leaves out is as here.
_SUPPORTED = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "pad_token_id": PAD,
}

# By our modules' names, in the model and in a block.
_MODULES = {
    "embeddings.words": "embeddings.word_embeddings",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.segments": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
    "pooler": "pooler.dense",
    "classifier": "classifier",
}

# What a checkpoint may do without.
_HEAD = ("classifier.weight", "classifier.bias")
_POOLER = ("pooler.dense.weight", "pooler.dense.bias")


def read_config(folder: Path) -> BertConfig:
    """Reads sizes and rates from config.json; what isn't there is as in BERT-base.

    Raises:
      UsageError: if config.json or vocab.txt can't be read, the model isn't one that
        `Bert` can be, or the vocabulary has more tokens than the model.
    """
    path = folder / CONFIG
    content = json_of(path)
    for name, supported in _SUPPORTED.items():
        value = content.get(name, supported)
        if value != supported:
            raise UsageError(
                f"{name} in {path} must be {json.dumps(supported)}, which is all that is "
                f"supported; got {json.dumps(value)}"
            )
    known = {field.name for field in dataclasses.fields(BertConfig)}
    try:
        config = BertConfig(**{k: v for k, v in content.items() if k in known})
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    _check_vocabulary(folder / VOCABULARY, config)
    return config


def load(params: nnx.State, folder: Path) -> nnx.State:
    """Returns parameters with the folder's weights in place of those that it has.

    The others, a head or a pooler that the folder lacks, stay as they are.

    Args:
      params: of a `Bert` or a `BertClassifier`.
      folder: of the checkpoint.

    Raises:
      UsageError: as `weights`.
    """
    return put(params, weights(params, folder))


def weights(params: nnx.State, folder: Path) -> dict[Place, np.ndarray]:
    """Reads the weights that a folder has for a model, in float32.

    Names may start with "bert.", and LayerNorm's may be gamma and beta, as in old files.
    What the model has no place for, such as the heads of pretraining, isn't read. As in
    transformers a folder may lack the pooler, which pretraining without sentence pairs
    doesn't have, and the classifier. A classifier of another shape counts as lacking,
    since it is of another task.

    Args:
      params: of a `Bert` or a `BertClassifier`; only the shapes matter.
      folder: of the checkpoint, with model.safetensors, or the parts that
        model.safetensors.index.json names.

    Returns:
      Weights by their place in `params`, without those that the folder may lack, and does.

    Raises:
      UsageError: if a file can't be read, a tensor is missing or has another shape, or
        there are only pickled weights.
    """
    wanted = {place: _name(place) for place, _ in nnx.to_flat_state(params)}
    shapes = {place: leaf.shape for place, leaf in nnx.to_flat_state(params)}
    found = tensors(folder, set(wanted.values()))
    given = {p: _as_here(p, found[name]) for p, name in wanted.items() if name in found}
    misfits = [p for p, weight in given.items() if weight.shape != shapes[p]]
    if any(wanted[place] in _HEAD for place in misfits):
        given = {p: weight for p, weight in given.items() if wanted[p] not in _HEAD}
    for place in misfits:
        if place in given:
            raise UsageError(
                f"{wanted[place]} in {folder} must have shape "
                f"{_as_there(place, shapes[place])} for the sizes in {CONFIG}; got "
                f"{found[wanted[place]].shape}"
            )
    _check_complete(folder, wanted.values(), [wanted[place] for place in given])
    return given


def put(params: nnx.State, weights: Mapping[Place, np.ndarray]) -> nnx.State:
    """Returns parameters with these weights in their places, in the parameters' dtype.

    Leaves of `params` may have leading axes more, of replicas: all get the same.
    """

    def placed(place: Place, leaf: Any) -> Any:
        if place not in weights:
            return leaf
        weight = weights[place]
        # NumPy's: of several processes each has the same, on none of whose devices yet.
        return jax.tree.map(
            lambda old: np.broadcast_to(weight.astype(old.dtype), old.shape), leaf
        )

    return nnx.map_state(placed, params)


def _name(place: Place) -> str:
    """A tensor's name in a checkpoint, without "bert."."""
    if place[0] == "bert":
        place = place[1:]
    block = ""
    if place[0] == "blocks":
        block, place = f"encoder.layer.{place[1]}.", place[2:]
    *module, leaf = place
    last = "bias" if leaf == "bias" else "weight"
    return f"{block}{_MODULES['.'.join(module)]}.{last}"


def _as_here(place: Place, tensor: np.ndarray) -> np.ndarray:
    """PyTorch's linear layers have an output a row, ours a column."""
    return tensor.T if place[-1] == "kernel" else tensor


def _as_there(place: Place, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if place[-1] == "kernel" else shape


def _check_complete(folder: Path, wanted: Collection[str], given: Collection[str]) -> None:
    optional = [part for part in (_HEAD, _POOLER) if not set(part) & set(given)]
    without = {name for part in optional for name in part}
    missing = [name for name in wanted if name not in given and name not in without]
    if missing:
        others = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise UsageError(
            f"the weights in {folder} lack {missing[0]}{others}, which a model of the "
            f"sizes in {CONFIG} has; fetch the checkpoint again"
        )


def _check_vocabulary(path: Path, config: BertConfig) -> None:
    tokens = len(text_of(path).removesuffix("\n").split("\n"))
    if tokens > config.vocab_size:
        raise UsageError(
            f"{path} may have at most as many lines as {CONFIG} says in vocab_size, "
            f"{config.vocab_size}; got {tokens}"
        )
