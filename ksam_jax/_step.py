"""One step: every device or group moves, and what they found is put together."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import PyTree

from ._groups import move_in_groups
from ._info import as_info, geometry
from ._move import Recipe, move
from ._passes import Note, Problem
from ._selection import Selection
from ._state import SharpnessAwareState
from ._statistics import mean_with


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
    found, aux = (moved.descent, moved.told), moved.aux
    if problem.loss.is_per_example:
        # One row per example, which stays with it.
        descent, told = problem.axis.mean(found)
    else:
        (descent, told), aux = mean_with(problem.axis, found, aux)
    flags = recipe.flags
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
        state.both_finite,
        aux,
    )


def _learned(
    problem: Problem, selection: Selection | None, note: Note | None, state: Any
) -> Any:
    """The selection's state after it has seen what its examples lost."""
    if selection is None or selection.learn is None or note is None:
        return state
    return selection.learn(problem.batch, *note, state, problem.axis.gather)
