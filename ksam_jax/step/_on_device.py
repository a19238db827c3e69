"""The part of a step that one device, or one group, does for itself.

It climbs, moves, and comes back with the descent gradient at the perturbed weights. With
`sync_ascent=True` the ascent gradient is averaged over the devices on the way.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ..checks import _kinds, _leaves
from ..loss._residuals import depends_on_example
from ..parts._ascent import Ascent
from ..parts._selection import Evidence
from ..trees._mask import hide, masked, only, unhide
from ._gradient import Gradient, Note, Problem, given_gradient, gradient_over, perturb
from ._info import geometry, what_losses_tell
from ._method import Method
from ._state import SharpnessAwareState


class Climb(NamedTuple):
    """How far and along what: what is compared with the descent gradient afterwards."""

    gradient: PyTree
    epsilon: PyTree
    applied: Float[Array, ""]


class Found(NamedTuple):
    """What a device has to tell; with groups, one row for each of them.

    Attributes:
      descent: the descent gradient.
      told: the numbers of the info; only those of the losses if the climb is compared with
        the averaged descent.
      aux: of the pass that the method says.
      ascent_note: what the ascent's selection may learn from.
      descent_note: what the descent's may.
      climb: if it is that of all devices, to be compared; else None, as without one.
    """

    descent: PyTree
    told: Float[Array, " numbers"]
    aux: Any
    ascent_note: Note | None
    descent_note: Note | None
    climb: Climb | None


class States(NamedTuple):
    """The next states, the same on all devices."""

    perturbation: Any
    ascent: Any
    descent: Any


def on_device(
    method: Method,
    problem: Problem,
    params: PyTree,
    given: PyTree | None,
    state: SharpnessAwareState,
    extra_args: dict[str, Any],
) -> tuple[Found, States]:
    """Climbs, moves and looks back, without learning from it yet."""
    if method.perturbation is None or not method.climbs:
        return _without_climb(method, problem, params, given, state)
    flags = method.flags
    ascent = _ascent_gradient(method, problem, params, given, state.ascent)
    perturbation = masked(method.perturbation, flags)
    if not method.sync_ascent:
        _refuse_memory(method, perturbation, ascent.value, state, params, extra_args)
    epsilon, perturbation_state = perturbation.update(
        ascent.value, state.perturbation, params, **extra_args
    )
    epsilon = only(flags, _leaves.as_epsilon(method.call, epsilon, params))
    is_measured = method.info == "all"
    perturbed, applied = perturb(params, epsilon, method.perturbed_dtype, is_measured)
    perturbed = problem.axis.varying(perturbed)
    descent = _descent_gradient(method, problem, perturbed, ascent, state.descent)
    told = what_losses_tell(method, problem, ascent, descent, state.info)
    climb = Climb(ascent.value, epsilon, applied)
    aux = _aux(method, problem, ascent, descent)
    found = Found(descent.value, told, aux, ascent.note, descent.note, climb)
    states = States(perturbation_state, ascent.state, descent.state)
    if not method.sync_ascent:
        found = _compared_alone(method, problem, params, found, state)
    return found, states


def _aux(method: Method, problem: Problem, ascent: Gradient, descent: Gradient) -> Any:
    """Aux of the pass over the whole batch at the weights that are asked for."""
    if method.aux == "clean":
        return ascent.aux
    # Where there are rows, nobody else ran.
    if problem.loss.has_aux and descent.rows is not None:
        raise ValueError(
            f'{method.call}(aux="perturbed"): the whole batch must run at the perturbed '
            f"weights, and with {method.descent.call} the chosen examples run there "
            f'alone; leave aux at "clean".'
        )
    return descent.aux


def _compared_alone(
    method: Method,
    problem: Problem,
    params: PyTree,
    found: Found,
    state: SharpnessAwareState,
) -> Found:
    """The device's own climb, compared with the device's own descent."""
    assert found.climb is not None
    climb, compared = found.climb, (found.climb.gradient, found.descent)
    own = geometry(method, problem, params, *compared, climb.applied, state.info)
    return found._replace(told=jnp.concatenate([found.told, own]), climb=None)


def _without_climb(
    method: Method,
    problem: Problem,
    params: PyTree,
    given: PyTree | None,
    state: SharpnessAwareState,
) -> tuple[Found, States]:
    """The gradient at the weights as they are."""
    local = problem.axis.varying(params)
    look_first = problem.loss.has_aux or bool(method.descent.reads)
    if given is not None:
        found = given_gradient(given, problem, local, state.descent, look_first)
    else:
        # Perturbed by nothing, they are the same.
        def see(losses: Array | None) -> Evidence:
            return Evidence(problem.batch, losses, losses)

        selection, memory = method.descent, state.descent
        found = gradient_over(problem, local, selection, memory, see, look_first)
    told = what_losses_tell(method, problem, found, found, state.info)
    result = Found(found.value, told, found.aux, None, found.note, None)
    return result, States(state.perturbation, state.ascent, found.state)


def _ascent_gradient(
    method: Method,
    problem: Problem,
    params: PyTree,
    given: PyTree | None,
    state: Any,
) -> Gradient:
    """The gradient to climb along, computed or given, averaged if it is to be."""
    ascent = method.ascent
    look_first = method.needs_clean or (problem.loss.has_aux and method.aux == "clean")
    local = problem.axis.varying(params)
    if isinstance(ascent, Ascent):
        hidden = hide(method.flags, params)
        takes, made_by = "the state and the parameters", ascent.direction
        made = _kinds.called(ascent.call, "direction", made_by, takes, state, hidden)
        direction = _leaves.as_direction(ascent.call, made, hidden)
        direction = unhide(method.flags, direction, params)
        return given_gradient(direction, problem, local, state, look_first)
    assert ascent is not None
    if given is not None:
        found = given_gradient(given, problem, local, state, look_first)
    else:
        see = functools.partial(Evidence, problem.batch)
        found = gradient_over(problem, local, ascent, state, see, look_first)
    if not method.sync_ascent:
        return found
    return found._replace(value=problem.axis.mean(found.value, params)[0])


def _descent_gradient(
    method: Method, problem: Problem, perturbed: PyTree, ascent: Gradient, state: Any
) -> Gradient:
    """The descent gradient, over the examples of the climb if it is the same selection."""
    # Losses that ran for aux alone must not change what is chosen.
    clean = ascent.losses if method.needs_clean else None
    see = functools.partial(Evidence, problem.batch, clean)
    needed = {"perturbed"} if clean is not None else {"perturbed", "first"}
    again = ascent.chosen if method.descends_on_the_same else None
    look_first = again is None and bool(set(method.descent.reads) & needed)
    return gradient_over(problem, perturbed, method.descent, state, see, look_first, again)


def _refuse_memory(
    method: Method,
    perturbation: optax.GradientTransformationExtraArgs,
    gradient: PyTree,
    state: SharpnessAwareState,
    params: PyTree,
    extra_args: dict[str, Any],
) -> None:
    """Checks that no device would remember its own gradients in a state that all share."""

    def next_state(params: PyTree, gradient: PyTree) -> PyTree:
        return perturbation.update(gradient, state.perturbation, params, **extra_args)[1]

    batched = jax.tree.map(lambda g: g[None], gradient)
    if any(depends_on_example(next_state, params, batched)):
        raise ValueError(
            f"{method.call}(sync_ascent=False): sync_ascent must be True with a "
            f"perturbation that remembers gradients, such as subtract_ema: it needs the "
            f"averaged gradient, or every device would remember another one; leave "
            f"sync_ascent at True."
        )
