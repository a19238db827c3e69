"""Sizes that a batch carries along where no cut can reach them."""

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jax
from jaxtyping import PyTree

from ..nodes._with_rows import is_own_node, knows_size
from . import _leaves
from ._user import level_of_user


def warn_of_static_size(call: str, batch: PyTree) -> None:
    """Warns of a node with the number of examples in its static data.

    Whether it is that number, or by chance another, can't be known. `jax.vmap` has the
    same difficulty, and knows the size of a node only where it is registered with it.
    """
    n = jax.tree.leaves(batch)[0].shape[0]
    for path, node in jax.tree.leaves_with_path(batch, is_leaf=is_own_node):
        if not is_own_node(node) or knows_size(node):
            continue
        if n in _static_numbers(jax.tree.structure(node)):
            warnings.warn(
                f"{call}.update(batch=...): {_leaves.path_to('batch', path)}, a "
                f"{type(node).__name__}, has {n} among its static data, as many as there "
                f"are examples, and keeps it where a part of them is run; if it is their "
                f"number, read that off an array's shape instead; if it is another one, "
                f"ignore this warning by a filter.",
                stacklevel=level_of_user(sys._getframe()),
            )


def _static_numbers(structure: Any) -> Iterator[int]:
    """The integers in the static data of a tree's nodes, but for Python's own."""
    data = structure.node_data()
    if data is None:
        return
    kind, static = data
    if not issubclass(kind, dict | list | tuple):
        yield from _integers(static)
    for child in structure.children():
        yield from _static_numbers(child)


def _integers(static: Any) -> Iterator[int]:
    if isinstance(static, int) and not isinstance(static, bool):
        yield static
    elif isinstance(static, tuple | list | set | frozenset):
        for item in static:
            yield from _integers(item)
    elif isinstance(static, dict):
        yield from _integers(list(static.values()))
