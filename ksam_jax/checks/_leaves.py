"""Checks of trees: what their leaves are, and whether one is like another."""

import functools
from types import GeneratorType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from ..nodes._with_rows import is_own_node, is_sparse, knows_size
from . import _kinds, _remedies
from ._words import shortened, shown


def no_generator(call: str, name: str, tree: Any) -> None:
    """Checks that there is nothing in it that can be read only once."""

    def is_one(node: Any) -> bool:
        return isinstance(node, GeneratorType)

    if any(map(is_one, jax.tree.leaves(tree, is_leaf=is_one))):
        raise TypeError(
            f"{call}({name}=...): {name} must be a tree of arrays, and has a generator in "
            f"it, which can be read once; pass a list of what it yields."
        )


def of_gradients(params: PyTree) -> PyTree:
    """What gradients are taken of: of the two sets that Lookahead has, the fast one."""
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def of_init(call: str, params: PyTree) -> PyTree:
    """What `init` may be given: parameters, their shapes, or what Optax puts for them."""
    no_generator(call, "params", params)
    if stands_in(params):
        return params
    shapes = jax.tree.leaves(params)
    if shapes and all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in shapes):
        _all_inexact(call, "params", params, "describe the parameters alone")
        return params
    return parameters(call, params)


def stands_in(params: PyTree) -> bool:
    """Whether it is what `optax.tree.map_params` gives to `init` for the parameters."""
    return type(params) is _stand_in()


@functools.cache
def _stand_in() -> type:
    """The class of it, which has no public name."""
    given = []

    def init(params: PyTree) -> optax.EmptyState:
        given.append(type(params))
        return optax.EmptyState()

    optax.tree.map_params(init, lambda leaf: leaf, optax.EmptyState())
    return given[0]


def parameters(call: str, params: PyTree, name: str = "params") -> PyTree:
    """The parameters as JAX arrays, if there are any and all are floating-point."""
    remedy = "convert it, or keep it apart from the parameters"
    arrays = floating(call, name, params, remedy)
    if not jax.tree.leaves(arrays):
        raise ValueError(
            f"{call}({name}={shown(params)}): {name} has no leaves; pass the model's "
            f"parameters."
        )
    return arrays


def floating(call: str, name: str, tree: PyTree, remedy: str = "convert it") -> PyTree:
    """The tree as JAX arrays, if all are floating-point."""
    no_generator(call, name, tree)
    _all_inexact(call, name, tree, remedy, jax.Array | np.ndarray | np.generic)
    return jax.tree.map(jnp.asarray, tree)


def _all_inexact(
    call: str, name: str, tree: PyTree, remedy: str, kinds: Any = jax.ShapeDtypeStruct
) -> None:
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not isinstance(leaf, kinds):
            kind = f"type {type(leaf).__name__}"
            if _remedies.is_foreign_array(leaf):
                remedy = f"pass np.asarray({path_to(name, path)})"
        elif jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        else:
            kind = f"dtype {leaf.dtype}"
        raise TypeError(
            f"{call}({name}=...): {name} must be floating-point arrays, but "
            f"{path_to(name, path)} has {kind}; {remedy}."
        )


def alike(call: str, name: str, tree: PyTree, params: PyTree, known: str) -> None:
    """Checks that a tree has the structure and shapes of `params`, which are `known`."""
    found = difference(name, tree, params)
    if found:
        raise ValueError(
            f"{call}({name}=...): {name} must be a tree like {known}, with their "
            f"structure, shapes and kind of numbers; got {found}."
        )


def as_epsilon(call: str, epsilon: PyTree, params: PyTree) -> PyTree:
    """What a perturbation made of the gradient, as arrays, if it can be added to params."""
    found = difference("epsilon", epsilon, params)
    if found:
        raise ValueError(
            f"{call}(perturbation=...): perturbation must turn a gradient into an epsilon "
            f"of the same structure, shapes and kind of numbers; got {found}."
        )
    return jax.tree.map(jnp.asarray, epsilon)


def as_direction(call: str, direction: PyTree, params: PyTree) -> PyTree:
    """What an ascent made of its state, as arrays, if it can stand for a gradient."""
    found = difference("direction", direction, params)
    if found:
        raise ValueError(
            f"{call}: direction must return a tree like params (with an optax.MaskedNode "
            f"for each parameter that mask leaves out), with their structure, shapes and "
            f"kind of numbers; got {found}."
        )
    return jax.tree.map(jnp.asarray, direction)


def as_updates(call: str, updates: PyTree, params: PyTree) -> PyTree:
    """What `combine` made of the gradients, as arrays, if it is one for params."""
    found = difference("updates", updates, params)
    if found:
        raise ValueError(
            f"{call}(combine=...): combine must turn the descent gradient into updates of "
            f"the same structure, shapes and kind of numbers; got {found}."
        )
    return jax.tree.map(jnp.asarray, updates)


def difference(name: str, tree: PyTree, params: PyTree) -> str | None:
    """In what a tree is first unlike `params`; None if it is like them.

    Numbers have to be floating-point ones: real for real parameters, or both complex.
    """
    if jax.tree.structure(tree) != jax.tree.structure(params):
        return f"structure {structure_of(tree)} for {structure_of(params)}"
    pairs = zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(params), strict=True)
    for (path, leaf), param in pairs:
        shape, dtype = np.shape(leaf), dtype_of(leaf)
        kind = jnp.complexfloating if jnp.iscomplexobj(param) else jnp.floating
        if shape != param.shape or not jnp.issubdtype(dtype, kind):
            return (
                f"{path_to(name, path)} of shape {shape} and dtype {dtype} for a parameter "
                f"of shape {param.shape} and dtype {param.dtype}"
            )
    return None


def first_state(call: str, name: str, init: Any, *args: Any) -> PyTree:
    """What a part's `init` returns, as arrays, if it is made of them."""
    takes = "the parameters" if args else "nothing"
    state = _kinds.called(call, name, init, takes, *args)
    for path, leaf in jax.tree.leaves_with_path(state):
        if not is_numeric(leaf):
            raise TypeError(
                f"{call}: {name} must return a pytree of arrays, the first state; got type "
                f"{type(leaf).__name__} at {path_to('its result', path)}."
            )
    return jax.tree.map(jnp.asarray, state)


def next_state(call: str, name: str, state: Any, before: PyTree) -> PyTree:
    """What a part makes of its state, if it is like the one before."""
    found, known = kinds(state), kinds(before)
    if found != known:
        raise ValueError(
            f"{call}: {name} must return a state with the structure, shapes and dtypes of "
            f"that which it is given; got {shortened(str(found))} for "
            f"{shortened(str(known))}."
        )
    return state


def kinds(tree: PyTree) -> tuple[Any, list[Any]]:
    """What two trees have to agree in to stand for each other: structure and arrays."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(np.shape(leaf), dtype_of(leaf)) for leaf in leaves]


def structure_of(tree: PyTree) -> str:
    """A tree's structure, for a message."""
    return shortened(str(jax.tree.structure(tree)))


def rows_of_sparse(call: str, name: str, batch: PyTree) -> None:
    """Checks that each sparse matrix in there is one that JAX can take rows of."""
    for path, node in jax.tree.leaves_with_path(batch, is_leaf=is_own_node):
        if not is_sparse(node) or _has_rows(node):
            continue
        raise ValueError(
            f"{call}({name}=...): a sparse matrix in batch must be stored row by row, so "
            f"that examples can be taken out of it, but {path_to('batch', path)} is a "
            f"{type(node).__name__} of shape {node.shape} that isn't; pass "
            f"jax.experimental.sparse.BCOO.fromdense(x, n_batch=1), or of a BCOO "
            f"jax.experimental.sparse.bcoo_update_layout(x, n_batch=1)."
        )


def _has_rows(node: Any) -> bool:
    try:
        return knows_size(node)
    except Exception:
        return False


def dtype_of(leaf: Any) -> Any:
    """The dtype as an array; that of objects for what isn't one, nor a number."""
    is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
    return leaf.dtype if is_array else np.asarray(leaf).dtype


def is_numeric(leaf: Any) -> bool:
    """Whether JAX can make an array of it, but for its dtype."""
    kinds = jax.Array | np.ndarray | np.generic | float | int | complex
    return isinstance(leaf, kinds) or hasattr(leaf, "__jax_array__")


def path_to(root: str, path: Any) -> str:
    """A leaf as the user would write it."""
    return root + jax.tree_util.keystr(path)
