"""The general form, of which every method is a row."""

from typing import Any, Unpack

import optax

from ..checks import _kinds
from ..checks._words import shown
from ..parts._ascent import Ascent
from ..parts._examples import everything
from ..parts._selection import Selection
from ..parts._sized import SizedSelection
from ..step._method import AUX, Method
from ._common import (
    COMPARES,
    Common,
    built,
    check_transformation,
    is_identity,
    with_common,
)


@with_common
def sharpness_aware(
    perturbation: optax.GradientTransformation,
    *,
    ascent: Selection | Ascent | None = None,
    descent: Selection | None = None,
    combine: optax.GradientTransformation = optax.identity(),  # noqa: B008
    aux: str = "clean",
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""The general form: any direction, with any examples for the climb and the descent.

    .. math::
      \epsilon_t = P(\nabla L_{A}(w_t)), \qquad
      u_t = C(\nabla L_{D}(w_t + \epsilon_t))

    with P the perturbation, A and D the examples that `ascent` and `descent` select, and C
    what `combine` makes of the descent gradient. The result `u_t` is a gradient: chain any
    optimizer behind it.

    `update(updates, state, params, *, loss_fn, batch, has_aux=False, loss_scale=None)`:

    - `updates`: None; or, where the climb uses all examples, the gradient of the mean
      loss at `params` if the caller has it already, which is then not computed again.
      The clean loss is computed then only with `has_aux=True` or for a selection that
      needs it; else `info.loss` and `info.sharpness` are infinite. Complex gradients, given
      or returned, are conjugated as Optax expects: they point where the loss rises.
    - `loss_fn(params, batch)` returns one loss per example, shape `(N,)`, or
      `(losses, aux)` with `has_aux=True`. It is called on the chosen examples alone too,
      so whatever is per example belongs into `batch`. With `per_example` the forward pass
      that selects may be shared.
    - `batch`: a pytree whose leaves share the leading axis N. Give each example its own
      (typed) dropout key, and it keeps it in both passes.
    - aux is that of the clean pass over the whole batch, which is run for it if the step
      has none, or with `aux="perturbed"` that of the perturbed pass; take it with
      `take_aux`.
    - `loss_scale`: for a model that computes in float16: a number > 0, may be traced, by
      which the loss is multiplied in every backward pass and its gradient divided again,
      so that nothing else sees it. `both_finite` of the state then tells whether that
      held; `dynamic_loss_scale` passes it, chooses it and skips the steps where it didn't.

    Chain clipping and weight decay behind it: in front there are no updates to act on, and
    but for `optax.identity()` what stands there is refused.
    `optax.masked`, `partition`, `flatten`, `MultiSteps` and `apply_if_finite` map over
    updates as well, so they go around the base optimizer.

    Args:
      perturbation: an Optax transformation from the ascent gradient to epsilon, such as
        `scale_to_radius(rho)`, or several in `optax.chain`.
      ascent: which examples the climb uses; or an `Ascent`, such as `past_descent(decay)`,
        for a climb without a pass of its own; None for `everything()`.
      descent: which examples the descent uses; None for `everything()`. The selection
        object of the ascent means the very same examples. `highest_loss(k)` ranks them
        by the loss before the climb, or after `past_descent` by that at its end.
      combine: what is made of the two gradients: an Optax transformation from the descent
        gradient to the updates, which is given `params` and, as extra arguments,
        `ascent_gradient` and `epsilon`, trees like params; or several in `optax.chain`.
        All are averaged over the devices. `optax.identity()` keeps the descent gradient.
      aux: of which weights aux is: "clean", of the unperturbed ones; or "perturbed", of
        the perturbed ones, as the pass over the whole batch there returns it: a forward
        pass less where the climb has none over the whole batch.
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups,
        num_microbatches and info, which all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Its updates are the descent gradient, in
      the structure and dtype of params, and its state a `SharpnessAwareState`.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if `ascent` needs losses that the climb can't have, or `sync_ascent` is
        False without devices or groups, or with a perturbation that remembers or a
        `combine`; in `init`
        and `update` if `mask` doesn't fit the parameters, `axis_name` isn't bound, `groups`
        or `num_microbatches` don't divide the batch, a fraction is less than one example of
        each device or group, `aux` is "perturbed" where no pass runs the whole batch there,
        and for bad input of theirs.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> hardest = ksam_jax.highest_loss(0.25)
      >>> climb = optax.chain(ksam_jax.subtract_ema(), ksam_jax.scale_to_radius(0.05))
      >>> tx = optax.chain(
      ...     ksam_jax.sharpness_aware(climb, ascent=hardest, descent=hardest),
      ...     optax.sgd(0.1, momentum=0.9),
      ... )
      >>> loss_fn = lambda w, batch: jnp.square(batch @ w - 1.0)
      >>> w, batch = jnp.zeros(2), jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=loss_fn, batch=batch
      ... )
      >>> updates.shape
      (2,)

    Reference:
      Foret et al., Sharpness-Aware Minimization, ICLR 2021; the split into four questions
      is ours.
    """
    ascent = everything() if ascent is None else ascent
    descent = everything() if descent is None else descent
    _check_parts(perturbation, ascent, descent, combine)
    _kinds.one_of("sharpness_aware", "aux", aux, AUX)
    method = Method("sharpness_aware", ascent, perturbation, descent, aux=aux)
    if is_identity(combine):
        return built(method, common)
    return built(method._replace(combine=combine), common, needs_sync=COMPARES)


def _check_parts(perturbation: Any, ascent: Any, descent: Any, combine: Any) -> None:
    call = "sharpness_aware"
    such_as = "ksam_jax.scale_to_radius(0.05)"
    check_transformation(call, "perturbation", perturbation, such_as)
    check_transformation(call, "combine", combine, "optax.identity()")
    for name, part in {"ascent": ascent, "descent": descent}.items():
        fits = (Selection, Ascent) if name == "ascent" else Selection
        if not isinstance(part, fits):
            or_past = ", ksam_jax.past_descent(0.9)" if name == "ascent" else ""
            raise TypeError(
                f"sharpness_aware({name}={shown(part)}): {name} must be a selection such "
                f"as ksam_jax.highest_loss(0.25){or_past}, or None for all examples."
            )
    sizes = [part for part in (ascent, descent) if isinstance(part, SizedSelection)]
    if len(sizes) == 2 and ascent is not descent:
        raise ValueError(
            f"sharpness_aware(ascent={ascent.call}, descent={descent.call}): ascent and "
            f"descent must be one object where both take by_coverage, since a step has one "
            f"size; make the selection once and pass it as both."
        )
    if isinstance(ascent, Selection) and "perturbed" in ascent.reads:
        raise ValueError(
            f"sharpness_aware(ascent={ascent.call}): the climb can't be chosen by losses "
            f"at the weights that it leads to; use {ascent.call} as descent."
        )
