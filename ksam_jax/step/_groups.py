"""Groups that climb each for itself: on one device, what as many devices would do."""

import functools
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from ..devices._axis import GROUPS, Axis, mean_of_parts, placed_as, spec_of, whole
from ..loss._rows import join_groups, split_groups
from ..nodes._with_rows import renewed, with_rows
from ._gradient import Note, Problem
from ._method import Method
from ._on_device import Found, States, on_device
from ._state import SharpnessAwareState


def in_groups(
    method: Method,
    problem: Problem,
    params: PyTree,
    state: SharpnessAwareState,
    extra_args: dict[str, Any],
) -> tuple[Found, States]:
    """`on_device` of every group, and the means of what they come back with."""
    run = functools.partial(_each_group, method, problem, extra_args)
    batch, shards = split_groups(problem.batch, problem.groups), _sharded_over(problem)
    if shards is not None:
        try:
            return _together(problem, *_on_shards(run, shards, params, state, batch))
        except ValueError as error:
            if "manual" not in str(error).lower():
                raise
            warnings.warn(
                f"{method.call}(sync_ascent=False, groups={problem.groups}): the loss "
                f"constrains shardings over the mesh's axis {shards!r}, so XLA decides "
                f"where each group runs, and may move examples; constrain it by "
                f"jax.P() and the like without {shards!r} and without a mesh.",
                stacklevel=2,
            )
    return _together(problem, *run((), params, state, batch))


def _each_group(
    method: Method,
    problem: Problem,
    extra_args: dict[str, Any],
    names: tuple[Any, ...],
    params: PyTree,
    state: Any,
    batch: PyTree,
) -> tuple[Found, States]:
    """`on_device` of the groups that are here; `names` are axes that others lie along."""
    names = (*problem.axis.names, *names)

    def of_group(rows: PyTree, names: Any) -> tuple[Found, States]:
        part = problem._replace(batch=rows, groups=1, axis=Axis(names))
        return on_device(method, part, params, None, state, extra_args)

    if jax.tree.leaves(batch)[0].shape[0] > 1:
        each = functools.partial(of_group, names=(*names, GROUPS))
        return jax.vmap(each, out_axes=(0, None), axis_name=GROUPS)(renewed(batch))
    # Not by vmap: XLA doesn't keep a convolution with weights per group on its device.
    found, states = of_group(with_rows(lambda x: x[0], batch, after=0), names)
    return jax.tree.map(lambda x: jnp.asarray(x)[None], found), states


def _on_shards(
    run: Any, shards: Any, params: PyTree, state: SharpnessAwareState, batch: PyTree
) -> tuple[Found, States]:
    """Runs the groups where they are: no weights of a group leave its device."""
    spread = jax.shard_map(
        functools.partial(run, (shards,)),
        in_specs=(P(), P(), P(shards)),
        out_specs=(P(shards), P()),
        axis_names={shards},
    )
    found, states = spread(*whole((params, state)), batch)
    before = States(state.perturbation, state.ascent, state.descent)
    return found, placed_as(states, before)


def _sharded_over(problem: Problem) -> Any:
    """The axis of the mesh that the groups lie along; None if that can't be known.

    With Explicit axes the batch's type says it. With Auto ones it is the only axis there is
    in the mesh of `jax.set_mesh`, if it is the only one.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    sizes = {name: size for name, size, kind in axes if kind != AxisType.Manual}
    typed = {spec_of(leaf)[0] for leaf in jax.tree.leaves(problem.batch)} - {None}
    found = typed or {name for name, size in sizes.items() if size > 1}
    if len(found) != 1:
        return None
    (name,) = found
    return name if problem.groups % sizes.get(name, math.inf) == 0 else None


def _together(problem: Problem, found: Found, states: States) -> tuple[Found, States]:
    descent, told = jax.tree.map(lambda x: jnp.mean(x, axis=0), (found.descent, found.told))
    is_per_example = problem.loss.is_per_example
    aux = join_groups(found.aux) if is_per_example else mean_of_parts(found.aux)
    notes = _of_all_groups(found.ascent_note), _of_all_groups(found.descent_note)
    return Found(descent, told, aux, *notes, climb=None), states


def _of_all_groups(note: Note | None) -> Note | None:
    return note and Note(note.chosen, join_groups(note.losses))
