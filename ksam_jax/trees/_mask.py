"""Which parameters something applies to: one bool per leaf, as in `optax.masked`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import PyTree

from ..checks import _kinds, _leaves


def resolve_mask(call: str, name: str, mask: Any, params: PyTree) -> PyTree:
    """The mask as one bool per leaf of `params`: a pytree, a prefix of one, a function."""
    _leaves.no_generator(call, name, mask)
    # A module can be both callable and a tree; one whose leaves are bools is a mask.
    is_tree = all(map(_is_bool, jax.tree.leaves(mask)))
    given = mask
    if callable(mask) and not is_tree:
        given = _kinds.called(call, name, mask, "the parameters", params)
    try:
        flags = jax.tree.broadcast(given, params)
    except ValueError as error:
        raise ValueError(
            f"{call}({name}=...): {name} must be a pytree of bools with the structure of "
            f"params (or a prefix of it), or a function of params that returns one; got "
            f"{_leaves.structure_of(given)} for params {_leaves.structure_of(params)}."
        ) from error
    for path, flag in jax.tree.leaves_with_path(flags):
        if not _is_bool(flag):
            raise TypeError(
                f"{call}({name}=...): the leaves of {name} must be bools known when the "
                f"step is traced, but {name}{jax.tree_util.keystr(path)} is of type "
                f"{type(flag).__name__}."
            )
    return jax.tree.map(bool, flags)


def perturbed_leaves(call: str, mask: Any, params: PyTree) -> PyTree | None:
    """The resolved `mask`, or None for all; checks that there is something to perturb."""
    if mask is None:
        return None
    if _leaves.stands_in(params):
        return True  # which fits whatever it stands for
    flags = resolve_mask(call, "mask", mask, params)
    if not any(jax.tree.leaves(flags)):
        raise ValueError(
            f"{call}(mask=...): mask must name at least one parameter to perturb, and it "
            f"names none; leave the method out for a plain step."
        )
    return flags


def masked(
    perturbation: optax.GradientTransformation, flags: PyTree | None
) -> optax.GradientTransformationExtraArgs:
    """The perturbation, with state for the perturbed leaves alone."""
    if flags is None:
        return optax.with_extra_args_support(perturbation)
    return optax.masked(perturbation, flags)


def only(flags: PyTree | None, tree: PyTree) -> PyTree:
    """Zeros where a leaf isn't perturbed."""
    if flags is None:
        return tree
    return jax.tree.map(lambda flag, x: x if flag else jnp.zeros_like(x), flags, tree)


def hide(flags: PyTree | None, tree: PyTree) -> PyTree:
    """`optax.MaskedNode` where a leaf isn't perturbed: state that isn't needed."""
    if flags is None:
        return tree
    return jax.tree.map(lambda flag, x: x if flag else optax.MaskedNode(), flags, tree)


def unhide(flags: PyTree | None, hidden: PyTree, like: PyTree) -> PyTree:
    """Undoes `hide`, with zeros for what was hidden."""
    if flags is None:
        return hidden
    return jax.tree.map(
        lambda flag, x, h: h if flag else jnp.zeros_like(x), flags, like, hidden
    )


def _is_bool(value: Any) -> bool:
    if isinstance(value, Tracer):
        return False
    is_array = isinstance(value, jax.Array | np.ndarray) and not value.ndim
    return isinstance(value, bool | np.bool_) or (is_array and value.dtype == bool)
