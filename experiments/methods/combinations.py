"""Methods that are combinations of the library's parts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import optax

import ksam_jax


def remembered_k_sam(
    rho: Any,
    k: float,
    num_examples: int,
    *,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """K-SAM whose examples are ranked by the losses they had when last used.

    In units of a forward pass over the batch this costs 6k, against SGD's 3.
    """
    remembered = _remembered(k, num_examples)
    return _in_both(remembered, rho, axis_name, sync_ascent, groups)


def remembered_k_momentum_sam(
    rho: Any,
    decay: Any,
    k: float,
    num_examples: int,
    *,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Momentum-SAM on examples ranked by the losses they had when last used: 3k."""
    return ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(rho),
        ascent=ksam_jax.past_descent(decay),
        descent=_remembered(k, num_examples),
        axis_name=axis_name,
        sync_ascent=sync_ascent,
        groups=groups,
    )


def random_k_sam(
    rho: Any = 0.05,
    m: float = 0.25,
    seed: Any = 0,
    *,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The control of K-SAM: as many examples, drawn at random, in both passes; cost 6m."""
    drawn = ksam_jax.random_subset(m, seed)
    return _in_both(drawn, rho, axis_name, sync_ascent, groups)


def k_sam_at(
    share: float, climbs: bool
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """All steps of which are like one of `k_sam()` whose k follows training."""
    return partial(ksam_jax.k_sam, k=_always(share, climbs))


def k_momentum_at(
    share: float, climbs: bool
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """The same of `k_momentum_sam()`."""
    return partial(ksam_jax.k_momentum_sam, k=_always(share, climbs))


def sam_at(
    share: float, climbs: bool
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """The same of SAM in some of the steps, which all take all examples."""
    del share
    return ksam_jax.sam if climbs else _plain


def _always(share: float, climbs: bool) -> Any:
    """A k that follows training with nowhere to go; one example is less than any share."""
    return ksam_jax.by_coverage(among=(share,), climb_up_to=1.0 if climbs else 1)


def _plain(rho: Any = 0.0, **devices: Any) -> optax.GradientTransformationExtraArgs:
    """SGD's gradient, given the radius of what it stands in for."""
    del rho
    return ksam_jax.mean_gradient(**devices)


def _remembered(k: float, num_examples: int) -> ksam_jax.Selection:
    """A mean over the chosen, as K-SAM's paper has it and the search had."""
    return ksam_jax.highest_remembered_loss(k, num_examples, mean_over="chosen")


def _in_both(
    selection: ksam_jax.Selection,
    rho: Any,
    axis_name: Any,
    sync_ascent: bool,
    groups: int | None,
) -> optax.GradientTransformationExtraArgs:
    """The same examples point uphill and decide the descent, as in K-SAM."""
    return ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(rho),
        ascent=selection,
        descent=selection,
        axis_name=axis_name,
        sync_ascent=sync_ascent,
        groups=groups,
    )


def sam_last_fifth(
    rho: Any = 0.05,
    *,
    num_steps: int,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The plain gradient, and SAM in the last fifth of the steps."""
    plain = ksam_jax.mean_gradient(axis_name=axis_name, groups=groups)
    sam = ksam_jax.sam(rho, axis_name=axis_name, sync_ascent=sync_ascent, groups=groups)
    return ksam_jax.join_methods([plain, sam], [round(0.8 * num_steps)])
