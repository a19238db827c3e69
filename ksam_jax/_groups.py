"""Groups that climb each for itself: on one device, what as many devices would do."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from ._axis import GROUPS, Axis
from ._microbatches import mean_or_first
from ._move import Move, Recipe, States, move
from ._passes import Note, Problem
from ._rows import join_groups, split_groups
from ._state import SharpnessAwareState


def move_in_groups(
    recipe: Recipe,
    problem: Problem,
    params: PyTree,
    state: SharpnessAwareState,
    extra_args: dict[str, Any],
) -> tuple[Move, States]:
    """`move` of every group, and the means of what they come back with."""

    def each(axis: Axis, params: PyTree, state: Any, batch: PyTree) -> tuple[Move, States]:
        axis = Axis((*axis.names, GROUPS))

        def of_group(rows: PyTree) -> tuple[Move, States]:
            part = problem._replace(batch=rows, groups=1, axis=axis)
            return move(recipe, part, params, None, state, extra_args)

        return jax.vmap(of_group, out_axes=(0, None), axis_name=GROUPS)(batch)

    def on_shard(params: PyTree, state: Any, batch: PyTree) -> tuple[Move, States]:
        names = (*problem.axis.names, shards)
        if jax.tree.leaves(batch)[0].shape[0] > 1:
            return each(Axis(names), params, state, batch)
        # Not by vmap: XLA doesn't keep a convolution with weights per group on the shard.
        rows = jax.tree.map(lambda x: x[0], batch)
        part = problem._replace(batch=rows, groups=1, axis=Axis(names))
        moved, states = move(recipe, part, params, None, state, extra_args)
        return jax.tree.map(lambda x: x[None], moved), states

    shards = _sharded_over(problem)
    batch = split_groups(problem.batch, problem.groups)
    if shards is not None:
        specs = (P(), P(), P(shards))
        spread = jax.shard_map(
            on_shard, in_specs=specs, out_specs=(P(shards), P()), axis_names={shards}
        )
        # A loss that has sharding constraints of its own can't be run in there.
        with contextlib.suppress(ValueError, TypeError, NotImplementedError):
            return _together(problem, *spread(params, state, batch))
    return _together(problem, *each(problem.axis, params, state, batch))


def _sharded_over(problem: Problem) -> Any:
    """The axis of the mesh that the groups lie along; None if that can't be known.

    With Explicit axes the batch's type says it. With Auto ones it is the only axis there is
    in the mesh of `jax.set_mesh`, if it is the only one.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    sizes = {name: size for name, size, kind in axes if kind != AxisType.Manual}
    specs = [jax.typeof(leaf).sharding.spec for leaf in jax.tree.leaves(problem.batch)]
    typed = {spec[0] for spec in specs if spec and spec[0] is not None}
    found = typed or {name for name, size in sizes.items() if size > 1}
    (name, *others) = found or [None]
    if others or name not in sizes or problem.groups % sizes[name]:
        return None
    return name


def _together(problem: Problem, moved: Move, states: States) -> tuple[Move, States]:
    descent, told = jax.tree.map(lambda x: jnp.mean(x, axis=0), (moved.descent, moved.told))
    if problem.loss.is_per_example:
        aux = join_groups(moved.aux)
    else:
        aux = jax.tree.map(mean_or_first, moved.aux)
    notes = _of_all_groups(moved.climb), _of_all_groups(moved.fall)
    return Move(descent, told, aux, *notes, climbed=None), states


def _of_all_groups(note: Note | None) -> Note | None:
    return note and Note(note.chosen, join_groups(note.losses))
