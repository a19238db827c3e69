"""K-SAM: both gradients use the examples with the highest loss."""

from typing import Any, Unpack

import optax

from ..checks import _values
from ..parts._examples import rank_by_loss
from ..parts._radius import scale_to_radius
from ..step._method import Method
from ._common import Common, built, with_common


@with_common
def k_sam(
    rho: Any = 0.05,
    k: Any = 0.25,
    skip: Any = None,
    mean_over: str = "chosen",
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""K-SAM: both gradients use only the k examples with the highest loss.

    .. math::
      K = \mathrm{top}_k \, \ell_i(w), \qquad
      \epsilon = \rho \, \nabla L_K(w) / \|\nabla L_K(w)\|_2, \qquad
      u = \nabla L_K(w + \epsilon)

    Forward passes' worth of work per example: 1 + 6k, or 1 + 5k where `per_example`
    shares the forward pass; SGD's is 3. With mislabelled examples the highest losses are
    the wrong labels: `skip` some there, or use `sam`.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`.
      k: an integer is a number of examples, another real number in (0, 1] a fraction,
        rounded half up: `k=1` is one example, `k=1.0` all, which is SAM. Or
        `by_coverage()`, for a k that follows training.
      skip: how many of the very highest losses are left out before k are taken: None
        for none, an integer is a number, another real number in [0, 1) a fraction. For
        mislabelled examples; on clean labels it hurts.
      mean_over: what the sum over the chosen is divided by: "chosen" by their number, or
        "batch" by N, as if the others' loss were zero; see `highest_loss`.
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups and
        num_microbatches, which all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho`, `k` or `skip` is out of range, or `mean_over` another word;
        if `sync_ascent` is False without `axis_name` or `groups`.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.k_sam(rho=0.05, k=1), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-4.35, -5.8]

    Reference:
      Ni et al., K-SAM: Sharpness-Aware Minimization at the Speed of SGD, 2022; `skip` is
      ours.
    """
    _values.radius("k_sam", rho)
    hardest = rank_by_loss("k_sam", k, skip, mean_over)
    return built(Method("k_sam", hardest, scale_to_radius(rho), hardest), common)
