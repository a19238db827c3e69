"""The plain gradient, in the same form as the methods."""

from typing import Unpack

import optax

from ..parts._examples import everything
from ..step._method import Method
from ._common import Common, built, check_transformation, is_identity, with_common


@with_common
def mean_gradient(
    *,
    combine: optax.GradientTransformation = optax.identity(),  # noqa: B008
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""The gradient of the mean loss at the weights themselves: SGD's, without a climb.

    .. math:: u = \nabla L(w)

    The cost of SGD, with the protocol, `info` and aux of the methods, so that a training of
    which only a part is sharpness-aware is written in one form; see `join_methods`. In
    `info` the perturbed loss is the loss, the sharpness and the norm of the perturbation
    are 0, and the ascent gradient is the gradient.

    Args:
      combine: what is made of the gradient, as in `sharpness_aware`: it is the
        `ascent_gradient` as well, and `epsilon` is zero.
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups,
        num_microbatches and info, which all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`. Where `updates` has the gradient already, it is what comes out.

    Raises:
      ValueError: if `sync_ascent` is False without `axis_name` or `groups`.
      TypeError: if an argument has the wrong type.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.mean_gradient(), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-2.4, -3.4]

    Reference:
      None; Robbins and Monro, 1951, if one is wanted.
    """
    check_transformation("mean_gradient", "combine", combine, "optax.identity()")
    combine_or_none = None if is_identity(combine) else combine
    method = Method("mean_gradient", None, None, everything(), combine_or_none)
    return built(method, common)
