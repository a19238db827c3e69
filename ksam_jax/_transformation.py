"""The transformation: a climb, a descent, and what the step says about itself."""

import functools
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import PyTree

from . import _arguments, _checks
from ._forward import Loss
from ._info import SharpnessAwareInfo, blank_info, describe
from ._mask import hide, masked, only, perturbed_leaves, unhide
from ._passes import GradientPass, Problem, given_gradient, gradient_pass, perturb
from ._past_descent import PastDescent, average_in, backwards, no_past
from ._selection import Evidence, Selection


class SharpnessAwareState(NamedTuple):
    """What a sharpness-aware transformation carries from step to step.

    Attributes:
      perturbation: state of the perturbation, for example F-SAM's moving average.
      ascent: state of the selection for the climb, or of `past_descent`.
      descent: state of the selection for the descent, unless it is the climb's.
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
    ascent: Selection | PastDescent,
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
        if isinstance(ascent, PastDescent):
            ascent_state = no_past(hide(flags, params))
        else:
            ascent_state = ascent.init()
        return SharpnessAwareState(
            perturbation=masked(perturbation, flags).init(params),
            ascent=ascent_state,
            descent=optax.EmptyState() if descent is ascent else descent.init(),
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
        problem, params, given = _checked(updates, params, loss_fn, batch, has_aux, ascent)
        flags = perturbed_leaves(call, mask, params)
        if isinstance(ascent, PastDescent):
            given = unhide(flags, backwards(state.ascent), params)
        climb = _climb(problem, params, given, ascent, descent, state.ascent)

        epsilon, perturbation_state = masked(perturbation, flags).update(
            climb.gradient, state.perturbation, params, **extra_args
        )
        _arguments.same_structure(call, epsilon, params)
        perturbed, applied = perturb(params, only(flags, epsilon), perturbed_dtype)

        fall = _fall(problem, perturbed, climb, ascent, descent, state.descent)
        gradients = only(flags, climb.gradient), only(flags, fall.gradient)
        info = describe(climb, fall, *gradients, applied, state.info)
        ascent_state = climb.state
        if isinstance(ascent, PastDescent):
            ascent_state = average_in(ascent, ascent_state, hide(flags, fall.gradient))
        return _cast_like(fall.gradient, params), SharpnessAwareState(
            perturbation_state, ascent_state, fall.state, info, climb.aux
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _checked(
    updates: Any,
    params: Any,
    loss_fn: Any,
    batch: Any,
    has_aux: bool,
    ascent: Selection | PastDescent,
) -> tuple[Problem, PyTree, PyTree | None]:
    """What `update` was given, in order: the problem, the parameters, their gradient."""
    _arguments.present(params, loss_fn, batch)
    params = _arguments.parameters("tx.update", params)
    climbs_on_all = isinstance(ascent, Selection) and ascent.choose is None
    given = _arguments.gradient_or_none(
        updates, params, None if climbs_on_all else ascent.call
    )
    batch = _arguments.batch_arrays(batch)
    return Problem(Loss(loss_fn, has_aux), batch), params, given


def _climb(
    problem: Problem,
    params: PyTree,
    given: PyTree | None,
    ascent: Selection | PastDescent,
    descent: Selection,
    state: Any,
) -> GradientPass:
    """The gradient to climb along, computed or given."""
    look_first = problem.loss.has_aux or _needs_clean(ascent, descent)
    if given is not None or isinstance(ascent, PastDescent):
        # `past_descent` was resolved to a gradient before.
        return given_gradient(given, problem, params, state, look_first)
    see = functools.partial(Evidence, problem.batch)
    return gradient_pass(problem, params, ascent, state, see, look_first)


def _fall(
    problem: Problem,
    perturbed: PyTree,
    climb: GradientPass,
    ascent: Selection | PastDescent,
    descent: Selection,
    state: Any,
) -> GradientPass:
    """The descent gradient, over the examples of the climb if it is the same selection."""
    # Losses that ran for aux alone must not change what is chosen.
    clean = climb.losses if _needs_clean(ascent, descent) else None
    see = functools.partial(Evidence, problem.batch, clean)
    needed = {"perturbed"} if clean is not None else {"perturbed", "first"}
    again = climb.chosen if descent is ascent else None
    look_first = again is None and bool(descent.reads & needed)
    return gradient_pass(problem, perturbed, descent, state, see, look_first, again)


def _needs_clean(ascent: Selection | PastDescent, descent: Selection) -> bool:
    """Whether choosing needs the losses at the unperturbed weights.

    Without a climb the first losses of the step are those at the perturbed ones.
    """
    if isinstance(ascent, PastDescent):
        return "clean" in descent.reads
    return bool({"first", "clean"} & (ascent.reads | descent.reads))


def _cast_like(tree: PyTree, params: PyTree) -> PyTree:
    return jax.tree.map(lambda x, p: x.astype(p.dtype), tree, params)
