"""Whether a state is one that a transformation's `init` would make: judged here alone."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from . import _leaves

# Of params, the state that init would make of them: shapes and dtypes.
Expected = Callable[[PyTree], PyTree]


def expected(init: Callable[[PyTree], PyTree]) -> Expected:
    """What `init` makes of parameters, asked once for parameters of the same shapes."""
    known: dict[Any, PyTree] = {}

    def of(params: PyTree) -> PyTree:
        leaves, treedef = jax.tree.flatten(params)
        key = treedef, tuple((np.shape(x), x.dtype) for x in leaves)
        if key not in known:
            known[key] = jax.eval_shape(init, params)
        return known[key]

    return of


def check(call: str, state: PyTree, like: PyTree) -> None:
    """Checks that a state has the structure, shapes and dtypes of one that `init` makes."""
    found = _difference(state, like)
    if found:
        raise ValueError(
            f"{call}(state=...): state must be what this transformation's init, or its "
            f"last update, returned for parameters of these shapes; got {found}; make one "
            f"with tx.init(params), or pass the state that belongs to this transformation."
        )


def _difference(state: PyTree, like: PyTree) -> str | None:
    """In what a state is first unlike that of `init`; None if it is like it."""
    found, wanted = (dict(jax.tree.leaves_with_path(tree)) for tree in (state, like))
    for path in wanted.keys() | found.keys():
        where = _leaves.path_to("state", path)
        if path not in found:
            return f"none of {where}"
        if path not in wanted:
            return f"{where}, which it doesn't have"
    for path, leaf in wanted.items():
        kind = np.shape(found[path]), _leaves.dtype_of(found[path])
        if kind != (leaf.shape, leaf.dtype):
            return (
                f"{_leaves.path_to('state', path)} of shape {kind[0]} and dtype {kind[1]} "
                f"for shape {leaf.shape} and dtype {leaf.dtype}"
            )
    if jax.tree.structure(state) != jax.tree.structure(like):
        return "one of the same shapes, but of other parts"
    return None
