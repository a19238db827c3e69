"""Trees of rows, some of whose nodes know how many rows there are.

The rows of most trees are those of their leaves. A sparse matrix has its shape beside its
arrays, as static data, which would stay what it was when the arrays are cut. `jax.vmap`
knows what one row of such a node is, and what many of them are together: so it is asked.
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

# Python's own, which know no size.
_PLAIN = (dict, list, collections.OrderedDict, collections.defaultdict)


def with_rows(
    function: Callable[[Any], Any],
    tree: PyTree,
    before: int = 1,
    after: int = 1,
    unknown: int = 0,
) -> PyTree:
    """The tree with `function` of every leaf, in nodes of the size that the leaves have.

    `function` gathers rows, cuts them or joins them. Of the leading axes, the first
    `unknown` are such as a loop puts before, without telling the nodes of `tree`; the next
    `before` they know, and `after` are what they know of afterwards.
    """

    def of(x: Any) -> Any:
        if not is_own_node(x):
            return function(x)
        leaves, structure = jax.tree.flatten(x)
        leaves = [function(leaf) for leaf in leaves]
        if not knows_size(x, unknown):
            return structure.unflatten(leaves)
        build: Any = _row_structure(x, before, unknown).unflatten
        for _ in range(after):
            build = jax.vmap(build)
        return build(leaves)

    return jax.tree.map(of, tree, is_leaf=is_own_node)


def renewed(tree: PyTree) -> PyTree:
    """The tree, with nodes of the size of leaves that were cut without telling them."""
    return with_rows(lambda leaf: leaf, tree)


def knows_size(node: PyTree, unknown: int = 0) -> bool:
    """Whether one row of it is another node to `jax.vmap`, and not just other leaves."""
    structure = jax.tree.structure(node)
    try:
        return bool(structure.num_leaves) and _row_structure(node, 1, unknown) != structure
    except Exception:
        # A sparse matrix without an axis of rows; another node that can't be made of a
        # row's leaves may well be made of a part of the batch's.
        if is_sparse(node):
            raise
        return False


def is_sparse(node: Any) -> bool:
    """Whether it is a sparse matrix, of whatever format."""
    return hasattr(node, "todense") and is_own_node(node)


def is_own_node(x: Any) -> bool:
    """Whether it is a node of a tree, and of a type that isn't one of Python's."""
    is_plain = x is None or type(x) in _PLAIN or isinstance(x, tuple | jax.Array)
    return not is_plain and not jax.tree_util.all_leaves([x])


def _row_structure(node: PyTree, depth: int, unknown: int) -> Any:
    """What `jax.vmap` makes of a node for one row of it, or of `depth` axes of rows."""
    leaves, structure = jax.tree.flatten(node)
    found = [structure]

    def look(row: PyTree) -> None:
        found.append(jax.tree.structure(row))

    for _ in range(depth):
        look = jax.vmap(look)
    shapes = [_shape_of(leaf, unknown) for leaf in leaves]
    jax.eval_shape(look, structure.unflatten(shapes))
    return found[-1]


def _shape_of(leaf: Any, unknown: int) -> jax.ShapeDtypeStruct:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jax.ShapeDtypeStruct(jnp.shape(leaf)[unknown:], dtype)
