"""What `init` and `update` are given, checked, and turned into a step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ..checks import _arguments, _front, _kinds, _leaves, _sizes, _spread, _state, _values
from ..devices._axis import named, on_mesh_of
from ..loss._forward import Loss
from ..parts._ascent import Ascent
from ..parts._selection import Selection
from ..seen._tell import tell
from ..trees._keys import drawn_alone
from ..trees._mask import hide, masked, perturbed_leaves
from ._gradient import Problem
from ._info import blank_info
from ._method import Execution, Method
from ._reading import without_aux
from ._state import SharpnessAwareState
from ._told import telling
from ._update import take_step


def transformation(
    method: Method, execution: Execution
) -> optax.GradientTransformationExtraArgs:
    """The transformation that a method is, from its answers and checked arguments."""
    method = _carried_out(method, execution)
    call, groups = method.call, execution.groups

    def init_fn(params):
        return _first_state(method, execution.mask, params)

    expected = _state.expected(init_fn)

    def update_fn(
        updates,
        state,
        params=None,
        *,
        loss_fn: Any = None,
        batch: Any = None,
        has_aux=False,
        loss_scale: Any = None,
        **extra_args,
    ):
        _arguments.present(params, loss_fn, batch)
        _arguments.state_of("tx.update", state, SharpnessAwareState)
        _kinds.switch("tx.update", "has_aux", has_aux)
        _values.loss_scale(loss_scale)
        params = _leaves.parameters("tx.update", _leaves.of_gradients(params))
        given = _arguments.gradient_or_none(updates, params, _climbs_on(method, groups))
        if given is None:
            _front.nothing_in_front(call)
        state = _state.checked("tx.update", without_aux(state), expected(params))
        batch = drawn_alone(_arguments.batch_arrays(batch))
        _check_places(method, execution, given, params, batch)
        loss = Loss(loss_fn, has_aux, execution.num_microbatches, loss_scale)
        _warn_of_hidden(method, execution, loss, params, batch)
        problem = Problem(loss, batch, groups, named(execution.axis_name))
        here = method._replace(flags=perturbed_leaves(call, execution.mask, params))
        with on_mesh_of(batch), telling(execution):
            return _told_step(here, problem, params, given, state, extra_args)

    vars(update_fn)["execution"] = execution
    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _carried_out(method: Method, execution: Execution) -> Method:
    """The method with what it has to know of how its step is carried out."""
    combine = method.combine
    return method._replace(
        combine=combine and optax.with_extra_args_support(combine),
        perturbed_dtype=execution.perturbed_dtype,
        info=execution.info,
        # Without a climb there is nothing in which devices could differ.
        sync_ascent=execution.sync_ascent or method.perturbation is None,
    )


def _first_state(method: Method, mask: Any, params: PyTree) -> SharpnessAwareState:
    params = _leaves.of_init("tx.init", _leaves.of_gradients(params))
    flags = perturbed_leaves(method.call, mask, params)
    return SharpnessAwareState(
        perturbation=_init_perturbation(method, flags, params),
        ascent=_init_ascent(method, flags, params),
        descent=_init_descent(method),
        combine=_init_combine(method, params),
        info=blank_info(params),
        both_finite=jnp.array(True),
    )


def _told_step(
    method: Method,
    problem: Problem,
    params: PyTree,
    given: PyTree | None,
    state: SharpnessAwareState,
    extra_args: dict[str, Any],
) -> tuple[PyTree, SharpnessAwareState]:
    """The step, and what its trace tells of how the examples depend on each other."""
    found = take_step(method, problem, params, given, state, extra_args)
    if given is None:  # else it may be that no pass runs at all
        seen, alone = _as_seen(method, params), _alone(method, problem)
        tell(method.call, problem.loss, seen, problem.batch, *alone)
    return found


def _check_places(
    method: Method,
    execution: Execution,
    given: PyTree | None,
    params: PyTree,
    batch: PyTree,
) -> None:
    """Checks that examples and weights lie where the step can be carried out as asked."""
    call, axis, groups = method.call, named(execution.axis_name), execution.groups
    _arguments.bound(call, axis)
    _arguments.divides(call, batch, groups, execution.num_microbatches)
    if method.selects or (groups > 1 and not method.sync_ascent):
        _arguments.selects_on_shards(call, batch, groups)
    if not method.sync_ascent:
        _arguments.device_s_own(call, given, batch, axis)
    _spread.weights(call, axis, params, batch, together=method.sync_ascent)


def _warn_of_hidden(
    method: Method, execution: Execution, loss: Loss, params: PyTree, batch: PyTree
) -> None:
    """Warns of what may be spread, or may not be cut, without that it can be seen."""
    _spread.hidden_weights(method.call, loss, params, batch)
    in_parts = execution.groups > 1 or execution.num_microbatches > 1
    if method.selects or in_parts or loss.is_per_example:
        _sizes.warn_of_static_size(method.call, batch)


def _init_perturbation(method: Method, flags: PyTree | None, params: PyTree) -> Any:
    if method.perturbation is None:
        return optax.EmptyState()
    return masked(method.perturbation, flags).init(params)


def _init_ascent(method: Method, flags: PyTree | None, params: PyTree) -> Any:
    if method.ascent is None:
        return optax.EmptyState()
    if isinstance(method.ascent, Ascent):
        hidden = hide(flags, params)
        return _leaves.first_state(method.ascent.call, "init", method.ascent.init, hidden)
    return _leaves.first_state(method.ascent.call, "init", method.ascent.init)


def _init_descent(method: Method) -> Any:
    if method.descends_on_the_same:
        return optax.EmptyState()
    return _leaves.first_state(method.descent.call, "init", method.descent.init)


def _init_combine(method: Method, params: PyTree) -> Any:
    if method.combine is None:
        return optax.EmptyState()
    return method.combine.init(params)


def _climbs_on(method: Method, groups: int) -> str | None:
    """What the first pass uses if that isn't the whole batch, for the message."""
    first = method.descent if method.ascent is None else method.ascent
    if isinstance(first, Ascent) or first.choose is not None:
        return first.call
    if not method.sync_ascent and groups > 1:
        return f"{method.call}(sync_ascent=False, groups={groups})"
    return None


def _as_seen(method: Method, params: PyTree) -> PyTree:
    """The parameters as the first pass of a step is given them, for their dtypes."""
    dtype = method.perturbed_dtype
    if dtype is None or isinstance(method.ascent, Selection):
        return params

    def seen(p: Any) -> Any:
        return p if jnp.iscomplexobj(p) else jax.ShapeDtypeStruct(p.shape, dtype)

    return jax.tree.map(seen, params)


def _alone(method: Method, problem: Problem) -> tuple[str, int]:
    """Which rows run without the rest of the batch, and in how many parts all do."""
    groups = 1 if method.sync_ascent else problem.groups
    parts = groups * problem.loss.num_microbatches
    if method.selects:
        return "the chosen rows", parts
    if parts > 1:
        return f"the batch's {parts} parts", parts
    return "", 1
