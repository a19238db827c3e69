"""Files of a folder as transformers' `save_pretrained` writes it: text, JSON and tensors.

Nothing is unpickled: weights come from safetensors, and config.json is data.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from experiments.shell.cli import UsageError

CONFIG = "config.json"
VOCABULARY = "vocab.txt"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
PICKLED = "pytorch_model.bin"


def tensors(folder: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """The tensors of these names, or of their older ones, in float32.

    Raises:
      UsageError: if a file can't be read, or there are only pickled weights.
    """
    found = {}
    for path in _files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                for stored in file.keys():  # noqa: SIM118 (not a dictionary)
                    if (name := _modern(stored)) in wanted:
                        found[name] = _float32(path, stored, file.get_tensor(stored))
        # Types that NumPy doesn't have raise others than the library's own.
        except (OSError, SafetensorError, AttributeError, TypeError) as error:
            raise UsageError(
                f"can't read {path}: {error}; fetch the checkpoint again"
            ) from error
    return found


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        parts = json_of(folder / INDEX).get("weight_map")
        names = set(map(str, parts.values())) if isinstance(parts, dict) else None
        if not names:
            raise UsageError(f"{folder / INDEX} must have a weight_map of names to files")
        return [folder / name for name in sorted(names)]
    if (folder / PICKLED).exists():
        raise UsageError(
            f"{folder} has its weights only in {PICKLED}, a pickle, which could run any "
            f"code and isn't read; convert it with the safetensors library to {WEIGHTS}, "
            f"where you trust it"
        )
    raise UsageError(
        f"{folder} has no {WEIGHTS}; a checkpoint's folder has its weights there"
    )


def _modern(name: str) -> str:
    name = name.removeprefix("bert.")
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    return name.replace("LayerNorm.beta", "LayerNorm.bias")


def _float32(path: Path, name: str, tensor: np.ndarray) -> np.ndarray:
    # NumPy doesn't know that bfloat16 is a floating-point type; JAX does.
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise UsageError(
            f"{name} in {path} must be in a floating-point type; got {tensor.dtype}"
        )
    return tensor.astype(np.float32)


def json_of(path: Path) -> dict[str, Any]:
    """The object in a file; raises a UsageError if there is none."""
    try:
        content = json.loads(text_of(path))
    except ValueError as error:
        raise UsageError(f"{path} isn't JSON: {error}; fetch it again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a JSON object; got {content!r:.60}")
    return content


def text_of(path: Path) -> str:
    """What a file says; raises a UsageError if it can't be read."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UsageError(
            f"can't read {path}: {error.strerror}; say which folder holds the pretrained "
            f"model's files"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} isn't text in UTF-8: {error}; fetch it again") from error
