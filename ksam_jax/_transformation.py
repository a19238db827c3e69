"""The transformation: a climb, a descent, and what the step says about itself."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from . import _arguments, _checks
from ._forward import Loss
from ._info import SharpnessAwareInfo, blank_info, describe
from ._passes import GradientPass, Problem, given_gradient, gradient_pass, perturb
from ._selection import Chosen, Evidence, Selection
from ._tree import resolve_mask


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


class Options(NamedTuple):
    """What all methods have in common besides their answers to the three questions."""

    mask: Any
    perturbed_dtype: Any


def checked_options(
    call: str,
    mask: Any,
    perturbed_dtype: Any,
    axis_name: Any,
    sync_ascent: bool,
    groups: int | None,
    num_microbatches: int | None,
) -> Options:
    """The options if they are good; `call` is what the user called, for messages."""
    _checks.inexact_dtype(call, perturbed_dtype)
    _checks.not_yet(
        call,
        axis_name=(axis_name, None),
        sync_ascent=(sync_ascent, True),
        groups=(groups, None),
        num_microbatches=(num_microbatches, None),
    )
    return Options(mask, perturbed_dtype)


def transformation(
    perturbation: optax.GradientTransformation,
    ascent: Selection,
    descent: Selection,
    options: Options,
) -> optax.GradientTransformationExtraArgs:
    """The transformation of `sharpness_aware`, from checked arguments."""

    def init_fn(params):
        params = _arguments.parameters("tx.init", params)
        return SharpnessAwareState(
            perturbation=_masked(perturbation, options.mask, params).init(params),
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
        problem, params, given = _checked(
            updates, params, loss_fn, batch, has_aux, ascent.call
        )
        needs_clean = has_aux or "clean" in ascent.reads | descent.reads
        climb = _climb(problem, params, given, ascent, state.ascent, needs_clean)
        epsilon, perturbation_state = _masked(perturbation, options.mask, params).update(
            climb.gradient, state.perturbation, params, **extra_args
        )
        only = functools.partial(_only, options.mask, params)
        perturbed, applied = perturb(params, only(epsilon), options.perturbed_dtype)
        again = climb.chosen if descent is ascent else None
        fall = _fall(problem, perturbed, climb.losses, descent, state.descent, again)

        info = describe(
            climb, fall, only(climb.gradient), only(fall.gradient), applied, state.info
        )
        new_state = SharpnessAwareState(
            perturbation_state, climb.state, fall.state, info, climb.aux
        )
        return _cast_like(fall.gradient, params), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _checked(
    updates: Any, params: Any, loss_fn: Any, batch: Any, has_aux: bool, climbs_on: str
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
    needs_losses: bool,
) -> GradientPass:
    """The ascent gradient, computed or given."""
    if given is not None:
        return given_gradient(given, problem, params, state, needs_losses)
    see = functools.partial(Evidence, problem.num_examples)
    return gradient_pass(problem, params, ascent, state, see, needs_losses)


def _fall(
    problem: Problem,
    perturbed: PyTree,
    clean_losses: Any,
    descent: Selection,
    state: Any,
    again: Chosen | None,
) -> GradientPass:
    """The descent gradient, over the examples of the climb `again` if there are some."""
    if again is not None:
        descent = descent._replace(choose=lambda evidence, state: (again, state))
    see = functools.partial(Evidence, problem.num_examples, clean_losses)
    look_first = "perturbed" in descent.reads
    return gradient_pass(problem, perturbed, descent, state, see, look_first)


def _masked(
    perturbation: optax.GradientTransformation, mask: Any, params: PyTree
) -> optax.GradientTransformationExtraArgs:
    if mask is None:
        return optax.with_extra_args_support(perturbation)
    return optax.masked(perturbation, resolve_mask("mask", mask, params))


def _only(mask: Any, params: PyTree, tree: PyTree) -> PyTree:
    """Zeros where the mask says that a parameter isn't perturbed."""
    if mask is None:
        return tree
    flags = resolve_mask("mask", mask, params)
    return jax.tree.map(lambda flag, x: x if flag else jnp.zeros_like(x), flags, tree)


def _cast_like(tree: PyTree, params: PyTree) -> PyTree:
    return jax.tree.map(lambda x, p: x.astype(p.dtype), tree, params)
