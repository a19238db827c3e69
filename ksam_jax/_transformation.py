"""What `init` and `update` are given, checked, and turned into a step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from . import _arguments, _checks, _leaves
from ._ascent import climbing
from ._axis import named
from ._forward import Loss
from ._info import blank_info
from ._mask import masked, perturbed_leaves
from ._move import Recipe
from ._passes import Problem
from ._past_descent import PastDescent
from ._placement import on_mesh_of
from ._selection import Selection
from ._state import SharpnessAwareState
from ._step import take_step
from ._tree import all_finite


def transformation(
    call: str,
    perturbation: optax.GradientTransformation,
    ascent: Selection | PastDescent,
    descent: Selection,
    *,
    mask: Any,
    perturbed_dtype: Any,
    axis_name: Any,
    sync_ascent: Any,
    groups: Any,
    num_microbatches: Any,
) -> optax.GradientTransformationExtraArgs:
    """The transformation behind `call`, which is what the user typed, for messages."""
    _checks.float_dtype(call, perturbed_dtype)
    _checks.devices(call, axis_name, sync_ascent, groups)
    groups = _checks.parts(call, "groups", groups)
    num_microbatches = _checks.parts(call, "num_microbatches", num_microbatches)
    axis = named(axis_name)
    recipe = Recipe(
        call, perturbation, climbing(ascent), descent, None, perturbed_dtype, sync_ascent
    )

    def init_fn(params):
        params = _leaves.of_init("tx.init", params)
        flags = perturbed_leaves(call, mask, params)
        return SharpnessAwareState(
            perturbation=masked(perturbation, flags).init(params),
            ascent=recipe.ascent.init(flags, params),
            descent=optax.EmptyState() if descent is ascent else descent.init(),
            info=blank_info(params),
            both_finite=jnp.array(True),
        )

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
        _checks.switch("tx.update", "has_aux", has_aux)
        _checks.loss_scale(loss_scale)
        params = _leaves.parameters("tx.update", params)
        given = _arguments.gradient_or_none(updates, params, _climbs_on(recipe, groups))
        batch = _arguments.batch_arrays(batch)
        _arguments.bound(call, axis)
        _arguments.divides(call, batch, groups, num_microbatches)
        if recipe.selects or (groups > 1 and not sync_ascent):
            _arguments.selects_on_shards(call, batch, groups)
        if not sync_ascent:
            _arguments.device_s_own(call, given, batch, axis)
        loss = Loss(loss_fn, has_aux, num_microbatches, loss_scale)
        problem = Problem(loss, batch, groups, axis)
        here = recipe._replace(flags=perturbed_leaves(call, mask, params))
        with on_mesh_of(batch):
            gradient, state = take_step(here, problem, params, given, state, extra_args)
        gradient = _cast_like(gradient, params)
        return gradient, state if loss_scale is None else _judged(state, gradient)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _climbs_on(recipe: Recipe, groups: int) -> str | None:
    """What the climb uses if that isn't the whole batch, for the message."""
    if recipe.ascent.climbs_on_all and not recipe.sync_ascent and groups > 1:
        return f"{recipe.call}(sync_ascent=False, groups={groups})"
    return None if recipe.ascent.climbs_on_all else recipe.ascent.call


def _judged(state: SharpnessAwareState, gradient: PyTree) -> SharpnessAwareState:
    """Tells whether the two gradients are finite, the same on all devices.

    Of the ascent gradient the norm tells it. Where it isn't finite there was no climb, so
    the descent gradient alone would hide it.
    """
    both = jnp.isfinite(state.info.ascent_norm) & all_finite(gradient)
    return state._replace(both_finite=both)


def _cast_like(tree: PyTree, params: PyTree) -> PyTree:
    return jax.tree.map(lambda x, p: x.astype(p.dtype), tree, params)
