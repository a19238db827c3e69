"""The transformation: a climb, a descent, and what the step says about itself."""

import functools
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import PyTree

from . import _arguments, _checks
from ._forward import Loss
from ._info import SharpnessAwareInfo, blank_info, describe
from ._mask import masked, only, perturbed_leaves
from ._passes import GradientPass, Problem, given_gradient, gradient_pass, perturb
from ._selection import Chosen, Evidence, Selection


class SharpnessAwareState(NamedTuple):
    """What a sharpness-aware transformation carries from step to step.

    Attributes:
      perturbation: state of the perturbation, for example F-SAM's moving average.
      ascent: state of the selection for the climb.
      descent: state of the selection for the descent.
      info: what the last step says about itself.
      aux: aux of the clean pass, between `update` and `take_aux`; None at rest.
    """

    perturbation: optax.OptState
    ascent: Any
    descent: Any
    info: SharpnessAwareInfo
    aux: Any = None


def transformation(
    call: str,
    perturbation: optax.GradientTransformation,
    ascent: Selection,
    descent: Selection,
    *,
    mask: Any,
    perturbed_dtype: Any,
    axis_name: Any,
    sync_ascent: bool,
    groups: int | None,
    num_microbatches: int | None,
) -> optax.GradientTransformationExtraArgs:
    """The transformation behind `call`, which is what the user typed, for messages."""
    _checks.float_dtype(call, perturbed_dtype)
    _checks.not_yet(call, "axis_name", axis_name, (None,))
    _checks.not_yet(call, "sync_ascent", sync_ascent, (True,))
    _checks.not_yet(call, "groups", groups, (None, 1))
    _checks.not_yet(call, "num_microbatches", num_microbatches, (None, 1))

    def init_fn(params):
        params = _arguments.parameters("tx.init", params)
        flags = perturbed_leaves(call, mask, params)
        return SharpnessAwareState(
            perturbation=masked(perturbation, flags).init(params),
            ascent=ascent.init(),
            descent=descent.init(),
            info=blank_info(params),
        )

    def update_fn(
        updates,
        state,
        params=None,
        *,
        loss_fn: Any = None,
        batch: Any = None,
        has_aux=False,
        **extra_args,
    ):
        climbs_on = None if ascent.choose is None else ascent.call
        problem, params, given = _checked(
            updates, params, loss_fn, batch, has_aux, climbs_on
        )
        flags = perturbed_leaves(call, mask, params)
        look_first = has_aux or "clean" in ascent.reads | descent.reads
        climb = _climb(problem, params, given, ascent, state.ascent, look_first)

        epsilon, perturbation_state = masked(perturbation, flags).update(
            climb.gradient, state.perturbation, params, **extra_args
        )
        _arguments.same_structure(call, epsilon, params)
        perturbed, applied = perturb(params, only(flags, epsilon), perturbed_dtype)

        again = climb.chosen if descent is ascent else None
        fall = _fall(problem, perturbed, climb.losses, descent, state.descent, again)
        gradients = only(flags, climb.gradient), only(flags, fall.gradient)
        info = describe(climb, fall, *gradients, applied, state.info)
        return _cast_like(fall.gradient, params), SharpnessAwareState(
            perturbation_state, climb.state, fall.state, info, climb.aux
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _checked(
    updates: Any,
    params: Any,
    loss_fn: Any,
    batch: Any,
    has_aux: bool,
    climbs_on: str | None,
) -> tuple[Problem, PyTree, PyTree | None]:
    """What `update` was given, in order: the problem, the parameters, their gradient."""
    _arguments.present(params, loss_fn, batch)
    params = _arguments.parameters("tx.update", params)
    given = _arguments.gradient_or_none(updates, params, climbs_on)
    batch, n = _arguments.batch_arrays(batch)
    return Problem(Loss(loss_fn, has_aux), batch, n), params, given


def _climb(
    problem: Problem,
    params: PyTree,
    given: PyTree | None,
    ascent: Selection,
    state: Any,
    look_first: bool,
) -> GradientPass:
    """The ascent gradient, computed or given."""
    if given is not None:
        return given_gradient(given, problem, params, state, look_first)
    see = functools.partial(Evidence, problem.num_examples)
    return gradient_pass(problem, params, ascent, state, see, look_first)


def _fall(
    problem: Problem,
    perturbed: PyTree,
    clean_losses: Any,
    descent: Selection,
    state: Any,
    again: Chosen | None,
) -> GradientPass:
    """The descent gradient, over the examples of the climb `again` if there are some."""
    see = functools.partial(Evidence, problem.num_examples, clean_losses)
    look_first = "perturbed" in descent.reads
    return gradient_pass(problem, perturbed, descent, state, see, look_first, again)


def _cast_like(tree: PyTree, params: PyTree) -> PyTree:
    return jax.tree.map(lambda x, p: x.astype(p.dtype), tree, params)
