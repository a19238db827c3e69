"""Whether a state is one that a transformation's `init` would make: judged here alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from . import _leaves

# Of params, the state that init would make of them: shapes and dtypes.
Expected = Callable[[PyTree], PyTree]


def expected(init: Callable[[PyTree], PyTree]) -> Expected:
    """What `init` makes of parameters, asked once for parameters of the same shapes.

    None where it can't be asked: a part or a mask of the user's own that looks at values.
    """
    known: dict[Any, PyTree] = {}

    def of(params: PyTree) -> PyTree:
        leaves, treedef = jax.tree.flatten(params)
        key = treedef, tuple((np.shape(x), x.dtype) for x in leaves)
        if key not in known:
            try:
                known[key] = jax.eval_shape(init, params)
            except Exception:
                known[key] = None
        return known[key]

    return of


def checked(call: str, state: PyTree, like: PyTree) -> PyTree:
    """The state as arrays, if it has the structure, shapes and dtypes of `init`'s."""
    if like is None:
        return state
    found = _difference(state, like)
    if found:
        raise ValueError(
            f"{call}(state=...): state must be what this transformation's init, or its "
            f"last update, returned for parameters of these shapes; got {found}; make one "
            f"with tx.init(params), or pass the state that belongs to this transformation."
        )
    return jax.tree.map(jnp.asarray, state)


def _difference(state: PyTree, like: PyTree) -> str | None:
    """In what a state is first unlike that of `init`; None if it is like it."""
    found, wanted = (dict(jax.tree.leaves_with_path(tree)) for tree in (state, like))
    for path in [*wanted, *found]:
        where = _leaves.path_to("state", path)
        if path not in found:
            return f"none of {where}"
        if path not in wanted:
            return f"{where}, which it doesn't have"
    for path, leaf in wanted.items():
        if not _fits(found[path], leaf):
            shape, dtype = np.shape(found[path]), _leaves.dtype_of(found[path])
            return (
                f"{_leaves.path_to('state', path)} of shape {shape} and dtype {dtype} "
                f"for shape {leaf.shape} and dtype {leaf.dtype}"
            )
    if jax.tree.structure(state) != jax.tree.structure(like):
        return f"structure {_leaves.structure_of(state)} for {_leaves.structure_of(like)}"
    return None


def _fits(leaf: Any, like: Any) -> bool:
    """Whether it is an array like that, or a number of Python's that becomes one."""
    if np.shape(leaf) != like.shape:
        return False
    if isinstance(leaf, bool | int | float | complex):
        return bool(np.can_cast(np.result_type(type(leaf)), like.dtype, "same_kind"))
    dtype = _leaves.dtype_of(leaf)
    # As JAX takes it: in 32 bits unless it is told to take 64.
    return dtype == like.dtype or jax.dtypes.canonicalize_dtype(dtype) == like.dtype
