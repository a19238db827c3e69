"""One step: every device or group moves, and what they found is put together."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._groups import move_in_groups
from ._info import as_info, geometry
from ._mask import perturbed_leaves
from ._microbatches import can_average
from ._move import Move, Recipe, move
from ._passes import Note, Problem
from ._selection import Selection
from ._state import SharpnessAwareState


def take_step(
    recipe: Recipe,
    problem: Problem,
    params: PyTree,
    given: PyTree | None,
    state: SharpnessAwareState,
    extra_args: dict[str, Any],
) -> tuple[PyTree, SharpnessAwareState]:
    """The descent gradient, averaged over the devices, and the next state."""
    if problem.groups > 1 and not recipe.sync_ascent:
        moved, states = move_in_groups(recipe, problem, params, state, extra_args)
    else:
        moved, states = move(recipe, problem, params, given, state, extra_args)
    # The one collective of a step, but for that of a synchronized climb.
    descent, told, aux = _averaged(problem, moved)
    flags = perturbed_leaves(recipe.call, recipe.mask, params)
    if moved.climbed is not None:
        shared = geometry(
            flags, moved.climbed.gradient, descent, moved.climbed.applied, state.info
        )
        told = jnp.concatenate([told, shared])
    ascent = _learned(problem, recipe.ascent.selection, moved.climb, states.ascent)
    return descent, SharpnessAwareState(
        states.perturbation,
        recipe.ascent.after(flags, descent, ascent),
        _learned(problem, recipe.descent, moved.fall, states.descent),
        as_info(told),
        aux,
    )


def _averaged(problem: Problem, moved: Move) -> tuple[PyTree, Array, PyTree]:
    """Means over the devices; of aux what can be averaged and isn't one row per example."""
    leaves, treedef = jax.tree.flatten(moved.aux)
    means = {
        i: leaf
        for i, leaf in enumerate(leaves)
        if not problem.loss.is_per_example and can_average(leaf)
    }
    descent, told, means = problem.axis.mean((moved.descent, moved.told, means))
    aux = treedef.unflatten([means.get(i, leaf) for i, leaf in enumerate(leaves)])
    return descent, told, aux


def _learned(
    problem: Problem, selection: Selection | None, note: Note | None, state: Any
) -> Any:
    """The selection's state after it has seen what its examples lost."""
    if selection is None or selection.learn is None or note is None:
        return state
    return selection.learn(problem.batch, *note, state, problem.axis.gather)
