"""Checks of weights that are spread over the devices of a mapped axis."""

import sys
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.extend.core import Jaxpr
from jaxtyping import PyTree

from ..devices._axis import Axis
from ..devices._spread import arrays_of, spread_over, types_tell
from ..nodes._programs import called
from ._user import level_of_user

# Primitives that move numbers between devices, by the beginning of their names.
COLLECTIVES = ("psum", "pmax", "pmin", "all_gather", "reduce_scatter", "ppermute")
COLLECTIVES += ("all_to_all", "pbroadcast", "ragged_all_to_all")


def spread_axes(params: PyTree) -> set[Hashable]:
    """The axes that some weight is spread over."""
    return {name for leaf in arrays_of(params) for name in spread_over(leaf)}


def whole_weights(call: str, params: PyTree, what_else: str, instead: str) -> None:
    """Checks that each device has all of the weights.

    `what_else` is what a device would do with its part, `instead` what to do besides
    sharding otherwise.
    """
    axes = spread_axes(params)
    if axes:
        raise ValueError(
            f"{call}: the weights must be the same on all devices, and some are spread "
            f"over {' and '.join(sorted(map(repr, axes)))}, where {what_else}; shard "
            f"weights by jax.jit's shardings instead of jax.shard_map{instead}."
        )


def weights(
    call: str, axis: Axis, params: PyTree, batch: PyTree, *, together: bool
) -> None:
    """Checks that weights which devices have parts of can be climbed with here.

    `together`: whether all devices climb along one gradient.
    """
    spread = [name for name in axis.names if name in spread_axes(params)]
    if spread and not together:
        raise ValueError(
            f"{call}(sync_ascent=False): sync_ascent must be True where weights are spread "
            f"over the axis {spread[0]!r} of axis_name, since no device has all weights to "
            f"climb with alone; leave sync_ascent at True."
        )
    examples = {name for leaf in jax.tree.leaves(batch) for name in spread_over(leaf)}
    for name in spread:
        if name not in examples:
            raise ValueError(
                f"{call}(axis_name={axis.names}): axis_name must name axes that examples "
                f"are spread over, and over {name!r} only weights are; leave {name!r} out."
            )


def hidden_weights(
    call: str, loss: Callable[[PyTree, PyTree], Any], params: PyTree, batch: PyTree
) -> None:
    """Warns if weights may be spread where the types of arrays don't tell.

    A loss of weights that are spread has to communicate; one that doesn't is traced for
    nothing, where nobody asked for `check_vma=True`.
    """
    names = jax.sharding.get_abstract_mesh().manual_axes
    if not names or types_tell(names):
        return
    found = _collectives(jax.make_jaxpr(loss)(params, batch).jaxpr)
    if found:
        warnings.warn(
            f"{call}: inside jax.shard_map(..., check_vma=False) it can't be seen whether "
            f"weights are spread over {' or '.join(map(repr, names))}, and loss_fn "
            f"communicates ({', '.join(sorted(found))}): weights are taken to be the same "
            f"on all devices; if a device has a part of them, use check_vma=True.",
            stacklevel=level_of_user(sys._getframe()),
        )


def _collectives(jaxpr: Jaxpr) -> set[str]:
    """Names of the primitives in it, and in what it calls, that communicate."""
    found = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name.startswith(COLLECTIVES):
            found.add(eqn.primitive.name)
        for program in called(eqn.params):
            found |= _collectives(program)
    return found
