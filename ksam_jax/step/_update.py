"""One step: what every device or group finds, put together into the update."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..checks import _kinds, _leaves
from ..devices._axis import placed_as, split_aux, undivided
from ..loss._residuals import depends_on_example
from ..nodes._with_rows import with_rows
from ..parts._ascent import Ascent
from ..parts._selection import Selection
from ..trees._lengths import all_finite
from ..trees._mask import hide, masked
from ..trees._numbers import wide_zeros
from ._branch import one_of
from ._gradient import Note, Problem
from ._groups import in_groups
from ._info import SharpnessAwareInfo, as_info, asked_for, geometry
from ._method import Method
from ._on_device import Climb, Found, on_device
from ._state import SharpnessAwareState


def take_step(
    method: Method,
    problem: Problem,
    params: PyTree,
    given: PyTree | None,
    state: SharpnessAwareState,
    extra_args: dict[str, Any],
) -> tuple[PyTree, SharpnessAwareState]:
    """The update, the same on all devices, in the dtype of params, and the next state."""
    args = problem, params, given, state, extra_args
    if method.sized is None:
        return _step(method, *args)
    # One program for each size; the state is the same on all devices, and so is the turn.
    n = problem.num_examples // problem.groups
    sizes = [method.of_size(number, n) for number in range(len(method.sized.sizes))]
    turn = method.sized.turn(getattr(state, sizes[0].coverage_in))
    return one_of([functools.partial(_step, size, *args) for size in sizes], turn)


def _step(
    method: Method,
    problem: Problem,
    params: PyTree,
    given: PyTree | None,
    state: SharpnessAwareState,
    extra_args: dict[str, Any],
) -> tuple[PyTree, SharpnessAwareState]:
    if problem.groups > 1 and not method.sync_ascent:
        found, states = in_groups(method, problem, params, state, extra_args)
    else:
        found, states = on_device(method, problem, params, given, state, extra_args)
    descent, told, aux = _averaged(problem, params, found)
    updates, combined, past = descent, state.combine, states.ascent
    if method.sync_ascent:
        climb = found.climb or _no_climb(params, descent)
        compared = climb.gradient, descent, climb.applied
        own = geometry(method, problem, params, *compared, state.info)
        told = jnp.concatenate([told, own])
        if method.coverage is None and method.info == "all":
            updates, past = _told_first((descent, past), told)
        updates, combined = _combined(method, climb, params, updates, state, extra_args)
    info, measured = as_info(told)
    after = SharpnessAwareState(
        _perturbation_after(method, params, descent, states.perturbation, extra_args),
        _ascent_learned(method, problem, params, descent, found, past),
        _learned(problem, method.descent, found.descent_note, states.descent),
        combined,
        asked_for(method, info),
        _both_finite(problem, params, info, descent, state),
        aux,
    )
    updates = jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params)
    updates = placed_as(updates, params)
    return updates, _absorbed(method, after, measured)


def _both_finite(
    problem: Problem,
    params: PyTree,
    info: SharpnessAwareInfo,
    descent: PyTree,
    state: SharpnessAwareState,
) -> Array:
    """Whether the two gradients are finite, the same on all devices; with a loss scale.

    Of the ascent gradient the norm tells it. Where it isn't finite there was no climb, so
    the descent gradient alone would hide it, and what `combine` makes of that might, too.
    """
    if problem.loss.scale is None:
        return state.both_finite
    return jnp.isfinite(info.ascent_norm) & all_finite(descent, like=params)


def _absorbed(
    method: Method, state: SharpnessAwareState, measured: Array
) -> SharpnessAwareState:
    """What was measured of all devices' losses, in the memory of who chooses the size."""
    if method.coverage is None:
        return state
    field = method.coverage_in
    after = method.coverage.absorb(getattr(state, field), measured)
    return state._replace(**{field: after})


def _perturbation_after(
    method: Method,
    params: PyTree,
    descent: PyTree,
    state: Any,
    extra_args: dict[str, Any],
) -> Any:
    """Its state; where a climb was left out that of one along the gradient there is."""
    if method.climbs or method.perturbation is None:
        return state
    perturbation = masked(method.perturbation, method.flags)
    return perturbation.update(descent, state, params, **extra_args)[1]


def _averaged(
    problem: Problem, params: PyTree, found: Found
) -> tuple[PyTree, Float[Array, " _"], Any]:
    """Descent, numbers and aux: the one collective of a step but for the climb's."""
    # With `per_example` there is one row of aux per example, which stays with it.
    aux = None if problem.loss.is_per_example else found.aux
    means, put_back = split_aux(aux)
    descent, (told, means) = problem.axis.mean(found.descent, params, (found.told, means))
    return descent, told, found.aux if aux is None else put_back(means)


def _no_climb(params: PyTree, descent: PyTree) -> Climb:
    """What stands for it where the descent gradient is that at the weights themselves."""
    return Climb(descent, wide_zeros(params), jnp.zeros(()))


def _told_first(tree: PyTree, told: Float[Array, " numbers"]) -> PyTree:
    """The tree itself, which now waits for the numbers told of gradients and weights.

    Else XLA would write new weights and memories where the old ones were, which the numbers
    still need: it would copy those first.
    """
    # No length is negative and no cosine that large, but XLA doesn't know. What leaves a
    # branch waits for all of it anyway.
    never = (told[-2] < 0) | (told[-1] > 2)

    def waiting(x: Array) -> Array:
        # Counts and keys are no numbers that anything is told of.
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        return jnp.where(never, jnp.zeros_like(x), x)

    return jax.tree.map(waiting, tree)


def _combined(
    method: Method,
    climb: Climb,
    params: PyTree,
    descent: PyTree,
    state: SharpnessAwareState,
    extra_args: dict[str, Any],
) -> tuple[PyTree, Any]:
    """Question 4: what is made of the two gradients."""
    if method.combine is None:
        return descent, state.combine
    found = method.combine.update(
        descent,
        state.combine,
        params,
        **extra_args | {"ascent_gradient": climb.gradient, "epsilon": climb.epsilon},
    )
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(
            f"{method.call}(combine=...): combine must return (updates, state), as Optax's "
            f"transformations do; got {type(found).__name__}."
        )
    updates, combined = found
    return _leaves.as_updates(method.call, updates, params), combined


def _ascent_learned(
    method: Method,
    problem: Problem,
    params: PyTree,
    descent: PyTree,
    found: Found,
    state: Any,
) -> Any:
    ascent, flags = method.ascent, method.flags
    if not isinstance(ascent, Ascent):
        return _learned(problem, ascent, found.ascent_note, state)
    if ascent.learn is None:
        return state
    args = state, hide(flags, params), hide(flags, descent)
    takes = "the state, the parameters and the descent gradient"
    after = _kinds.called(ascent.call, "learn", ascent.learn, takes, *args)
    return _leaves.next_state(ascent.call, "learn", after, state)


def _learned(
    problem: Problem, selection: Selection | None, note: Note | None, state: Any
) -> Any:
    """The selection's state after it has seen what its examples lost."""
    if selection is None or selection.learn is None or note is None:
        return state
    if problem.axis.size > 1:
        _refuse_own_memory(problem, selection, note, state)
    args = undivided(problem.batch), *note, state, problem.axis.gather
    takes = "the batch, the chosen, their losses, the state and a function"
    after = _kinds.called(selection.call, "learn", selection.learn, takes, *args)
    return _leaves.next_state(selection.call, "learn", after, state)


def _refuse_own_memory(
    problem: Problem, selection: Selection, note: Note, state: Any
) -> None:
    """Checks that what is learned of a device's own examples goes through `join`."""
    learn = selection.learn
    assert learn is not None

    def joined(tree: PyTree) -> PyTree:
        size = problem.axis.size
        return jax.tree.map(
            lambda x: jnp.zeros((size * x.shape[0], *x.shape[1:]), x.dtype), tree
        )

    def next_state(nothing: Any, seen: tuple[PyTree, Note]) -> Any:
        del nothing
        batch, (chosen, losses) = seen
        return learn(batch, chosen, losses, state, joined)

    seen = with_rows(lambda x: x[None], (problem.batch, note), before=0)
    if jax.tree.leaves(state) and any(depends_on_example(next_state, (), seen)):
        raise ValueError(
            f"{selection.call}: the state that learn returns must depend on the examples "
            f"through join alone, since each device has others and all share one state; "
            f"pass what you remember through join."
        )
