"""How a checkpoint is verified: a checksum of each array, and the shapes there and here."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def digest(tree: PyTree) -> list[int]:
    """A checksum of each array, in the order of the tree's leaves."""
    return [_checksum(leaf) for leaf in jax.tree.leaves(tree)]


def _checksum(leaf: Any) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    # A copy on every device: this process's first one is the whole.
    local = leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf
    return zlib.crc32(np.ascontiguousarray(local).tobytes())


def difference(there: PyTree, here: PyTree) -> str:
    """The first array that two trees don't both have alike, in words; "" if there is none.

    Args:
      there: shapes and types that a checkpoint has.
      here: those that are wanted.
    """
    saved, wanted = _shapes(there), _shapes(here)
    names = sorted(n for n in saved | wanted if saved.get(n) != wanted.get(n))
    if not names:
        return ""
    # The weights say it best, if it is they that differ.
    name = ([name for name in names if name.startswith("params")] or names)[0]
    return (
        f"{name} is {saved.get(name, 'missing')} there, {wanted.get(name, 'missing')} here"
    )


def _shapes(tree: PyTree) -> dict[str, tuple[Any, str]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        ".".join(_key(part) for part in path): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in leaves
    }


def _key(part: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(part, name):
            return str(getattr(part, name))
    return str(part)
