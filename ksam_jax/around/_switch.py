"""Several methods, of which one runs in each step: the index comes from a count alone.

The count is the same on all devices, so all take the same branch, and no collective stands
in a branch that another device doesn't enter.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from ..checks import _arguments, _kinds, _leaves, _state
from ..devices._axis import named as named_axis
from ..seen._tell import together
from ..step._branch import one_of
from ..step._method import execution_of
from ..step._reading import without_aux
from ..step._state import SharpnessAwareState, SwitchState, our_states, with_fields

# The fields of a SharpnessAwareState that methods may share.
SHAREABLE = ("perturbation", "ascent", "descent", "combine")


def switched(
    call: str,
    named: dict[str, Any],
    turn: Callable[[Int[Array, ""]], Int[Array, ""]],
    shared: Collection[str],
) -> optax.GradientTransformationExtraArgs:
    """The transformation that runs method number `turn(steps)`; `shared` names fields.

    `named` has the methods by what the user calls them.
    """
    _check_methods(call, named)
    shared = _kinds.words(call, "shared", shared, SHAREABLE)
    methods = [optax.with_extra_args_support(method) for method in named.values()]

    def init_fn(params):
        states = [method.init(params) for method in methods]
        ours = [only_one(call, *pair) for pair in zip(named, states, strict=True)]
        common = {name: _the_same(call, name, ours) for name in shared}
        hollow = tuple(_hollow(state, shared) for state in states)
        first = ours[0].info, ours[0].both_finite
        return SwitchState(jnp.zeros((), jnp.int32), hollow, common, *first)

    expected = _state.expected(init_fn)

    def update_fn(updates, state, params=None, **extra_args):
        _check_state(state, len(methods))
        if params is not None:  # else the method says what is missing
            known = _leaves.parameters("tx.update", params)
            state = _state.checked("tx.update", without_aux(state), expected(known))

        def run(number: int) -> tuple[PyTree, SwitchState]:
            own = _filled(state.methods[number], state)
            found, after = methods[number].update(updates, own, params, **extra_args)
            return found, _stepped(state, number, after)

        branches = [partial(run, number) for number in range(len(methods))]
        with together():
            return one_of(branches, turn(state.steps))

    vars(update_fn)["execution"] = execution_of(methods[0])
    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_state(state: Any, count: int) -> None:
    _arguments.state_of("tx.update", state, SwitchState)
    if len(state.methods) != count:
        raise TypeError(
            f"tx.update(state=...): state must be what init or the last update "
            f"returned, for {count} methods; got one for {len(state.methods)}; "
            f"pass that state."
        )


def _hollow(state: PyTree, shared: Collection[str]) -> PyTree:
    """A method's state without what the switch keeps for all of them."""
    gone = ("info", "both_finite", "aux", *shared)
    return with_fields(state, **dict.fromkeys(gone))


def _filled(hollow: PyTree, state: SwitchState) -> PyTree:
    """Undoes `_hollow`; aux of the last step, if nobody has taken it, is dropped."""
    common = {"info": state.info, "both_finite": state.both_finite, "aux": None}
    return with_fields(hollow, **common | state.shared)


def _stepped(state: SwitchState, number: int, after: PyTree) -> SwitchState:
    """The next state, in which the method that ran is `after` its step."""
    (ours,) = our_states(after)
    shared = {name: getattr(ours, name) for name in state.shared}
    methods = list(state.methods)
    methods[number] = _hollow(after, shared)
    steps = jnp.asarray(optax.safe_increment(state.steps))
    common = ours.info, ours.both_finite, ours.aux
    return SwitchState(steps, tuple(methods), shared, *common)


def only_one(call: str, name: str, state: PyTree) -> Any:
    """The state of ours in that of a method, if there is one."""
    found = our_states(state)
    if len(found) != 1:
        raise ValueError(
            f"{call}({name}=...): {name} must be one sharpness-aware transformation, alone "
            f"or in an optax.chain, and it has {len(found)} of them; for a plain step pass "
            f"ksam_jax.mean_gradient()."
        )
    return found[0]


def _the_same(call: str, name: str, states: list[Any]) -> Any:
    """A field that all methods share, if their inits agree about what it is."""
    for state in states:
        if not isinstance(state, SharpnessAwareState):
            raise ValueError(
                f'{call}(shared=("{name}",)): shared must name what all methods have, and '
                f"one of them is a switch, which has no {name} of its own."
            )
    first, *others = [getattr(state, name) for state in states]
    for other in others:
        if _leaves.kinds(other) != _leaves.kinds(first):
            raise ValueError(
                f'{call}(shared=("{name}",)): shared must name what is alike in all '
                f"methods, and the {name} of one is {_described(first)}, of another "
                f"{_described(other)}; leave it out."
            )
    return first


def _described(tree: PyTree) -> str:
    """Structure, shapes and dtypes."""
    return str(jax.eval_shape(lambda: tree))


def _check_methods(call: str, named: dict[str, Any]) -> None:
    for name, method in named.items():
        if not isinstance(method, optax.GradientTransformation):
            raise TypeError(
                f"{call}({name}=...): {name} must be a method such as ksam_jax.k_sam(); "
                f"got {_kinds.described(method)}."
            )
    known = [run for run in map(execution_of, named.values()) if run is not None]
    axes = {run.axis_name for run in known}
    if len({named_axis(axis) for axis in axes}) > 1:
        raise ValueError(
            f"{call}({', '.join(named)}): axis_name must be the same in all methods, since "
            f"the gradient of each is averaged over its own; got "
            f"{' and '.join(sorted(map(repr, axes)))}; pass one to each of them."
        )
