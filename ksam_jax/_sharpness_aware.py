"""The general form, of which every method is a row."""

from typing import Any

import optax

from ._past_descent import PastDescent
from ._selection import Selection, everything
from ._transformation import transformation


def sharpness_aware(
    perturbation: optax.GradientTransformation,
    *,
    ascent: Selection | PastDescent | None = None,
    descent: Selection | None = None,
    mask: Any = None,
    perturbed_dtype: Any = None,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
    num_microbatches: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The general form: any direction, with any examples for the climb and the descent.

    .. math::
      \epsilon_t = P(\nabla L_{A}(w_t)), \qquad
      u_t = \nabla L_{D}(w_t + \epsilon_t)

    with P the perturbation, and A and D the examples that `ascent` and `descent` select.
    The result `u_t` is a gradient: chain any optimizer behind it.

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
      has none; take it with `take_aux`.
    - `loss_scale`: for a model that computes in float16: a number > 0, may be traced, by
      which the loss is multiplied in every backward pass and its gradient divided again,
      so that nothing else sees it. `both_finite` of the state then tells whether that
      held; `dynamic_loss_scale` passes it, chooses it and skips the steps where it didn't.

    Chain clipping and weight decay behind it: in front there are no updates to act on.
    `optax.masked`, `partition`, `flatten`, `MultiSteps` and `apply_if_finite` map over
    updates as well, so they go around the base optimizer.

    Args:
      perturbation: an Optax transformation from the ascent gradient to epsilon, such as
        `scale_to_radius(rho)`, or several in `optax.chain`.
      ascent: which examples the climb uses, or `past_descent(decay)` for a climb without
        a gradient of its own; None for `everything()`.
      descent: which examples the descent uses; None for `everything()`. The selection
        object of the ascent means the very same examples. `highest_loss(k)` ranks them
        by the loss before the climb, or after `past_descent` by that at its end.
      mask: which parameters are perturbed: a pytree of bools (or a prefix of one) or a
        function of params, as in `optax.masked`. Norms run over the perturbed ones only.
      perturbed_dtype: dtype of the perturbed weights, None to keep the parameters' own.
        In bfloat16 a small perturbation rounds away: of one of radius 0.05 on 1e7
        weights of standard deviation 0.02 the applied one keeps a cosine of 0.57 to
        the intended one. Pass jnp.float32 there. A model that itself casts its parameters
        to bfloat16 rounds all the same.
      axis_name: for `jax.shard_map` and `jax.vmap(axis_name=...)`: the mapped axis, or a
        tuple of axes, over which devices run this step, each on its own part of the
        batch. A device selects among its own examples, so that none moves; a fraction or
        a number of examples is of that part. Averaged over the devices are the gradients,
        `info` and, of a batch-level loss, the floating-point leaves of aux (BatchNorm
        statistics); aux of `per_example` and what is no float stays each device's own. The
        updates that come out are the same on all devices: average nothing again.
      sync_ascent: True averages the ascent gradient over devices or groups before the
        climb: one all-reduce more than SGD has. False lets each climb with its own
        gradient, as the SAM paper's m-sharpness does, with SGD's communication; `info` is
        then the mean over the devices. Not for perturbations that remember gradients.
        Masks of `random_mask` are the same on all devices, random subsets differ.
      groups: equal parts of the batch, in order, each selected from by itself as a
        device's examples are; None for one. Under plain `jax.jit` with a sharded batch make
        it a multiple of the number of shards, and each device works on its own examples.
        With `sync_ascent=False` each group climbs for itself: on one device what as many
        devices would do, at the memory of a set of weights per group; loss_fn then sees
        one group at a time. With axis_name, groups of each device.
      num_microbatches: how many parts the batch is run in, one after the other, to save
        memory; None for one. The result is the joined batch's, for losses that don't
        couple examples: selection still ranks the whole batch. `keep` doesn't apply, and
        aux of a batch-level loss is averaged.

    Returns:
      An `optax.GradientTransformationExtraArgs`. Its updates are the descent gradient, in
      the structure and dtype of params, and its state a `SharpnessAwareState`.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if `ascent` needs losses that the climb can't have, or `sync_ascent` is
        False without devices or groups, or with a perturbation that remembers; in `init`
        and `update` if `mask` doesn't fit the parameters, `axis_name` isn't bound, `groups`
        or `num_microbatches` don't divide the batch, a fraction is less than one example of
        each device or group, and for bad input of theirs.

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
      Foret et al., Sharpness-Aware Minimization, ICLR 2021; the split into three
      questions is ours.
    """
    ascent = everything() if ascent is None else ascent
    descent = everything() if descent is None else descent
    _check_parts(perturbation, ascent, descent)
    return transformation(
        "sharpness_aware",
        perturbation,
        ascent,
        descent,
        mask=mask,
        perturbed_dtype=perturbed_dtype,
        axis_name=axis_name,
        sync_ascent=sync_ascent,
        groups=groups,
        num_microbatches=num_microbatches,
    )


def _check_parts(perturbation: Any, ascent: Any, descent: Any) -> None:
    if not isinstance(perturbation, optax.GradientTransformation):
        raise TypeError(
            f"sharpness_aware(perturbation={perturbation!r}): perturbation must be an "
            f"optax.GradientTransformation such as ksam_jax.scale_to_radius(0.05)."
        )
    for name, selection in {"ascent": ascent, "descent": descent}.items():
        if name == "ascent" and isinstance(selection, PastDescent):
            continue
        if not isinstance(selection, Selection):
            or_past = ", ksam_jax.past_descent(0.9)" if name == "ascent" else ""
            raise TypeError(
                f"sharpness_aware({name}={selection!r}): {name} must be a selection such "
                f"as ksam_jax.highest_loss(0.25){or_past}, or None for all examples."
            )
    if isinstance(ascent, Selection) and "perturbed" in ascent.reads:
        raise ValueError(
            f"sharpness_aware(ascent={ascent.call}): the climb can't be chosen by losses "
            f"at the weights that it leads to; use {ascent.call} as descent."
        )
