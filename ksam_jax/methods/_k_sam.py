"""K-SAM: both gradients use the examples with the highest loss."""

from typing import Any, Unpack

import optax

from ..checks import _values
from ..parts._coverage import FOLLOWING
from ..parts._examples import rank_by_loss
from ..parts._radius import scale_to_radius
from ..step._method import Method
from ._common import Common, built, with_common


@with_common
def k_sam(
    rho: Any = 0.05,
    k: Any = FOLLOWING,
    skip: Any = None,
    mean_over: str = "batch",
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""K-SAM: both gradients use only the k examples with the highest loss.

    .. math::
      K = \mathrm{top}_k \, \ell_i(w), \qquad
      g_K(w) = \frac{1}{N} \sum_{i \in K} \nabla \ell_i(w), \qquad
      \epsilon = \rho \, g_K(w) / \|g_K(w)\|_2, \qquad
      u = g_K(w + \epsilon)

    By default k follows training: a quarter, and no climb yet, while the loss of all
    examples falls fast, and then as many as carry most of it, with a climb at a quarter;
    and the sum is divided by the batch's N, so that SGD's learning rate carries over. The
    paper has a fixed k and the mean over the chosen: `k_sam(k=0.25, mean_over="chosen")`,
    which wants a learning rate of its own.

    Forward passes' worth of work per example at one k: 1 + 6k, or 1 + 5k where
    `per_example` shares the forward pass; SGD's is 3, and by default no step costs more.
    With mislabelled examples the highest losses are the wrong labels: `skip` some there,
    or use `sam`.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`.
      k: an integer is a number of examples, another real number in (0, 1] a fraction,
        rounded half up: `k=1` is one example, `k=1.0` all, which is SAM. Or what
        `by_coverage` makes, for a k that follows training.
      skip: how many of the very highest losses are left out before k are taken: None
        for none, an integer is a number, another real number in [0, 1) a fraction. For
        mislabelled examples; on clean labels it hurts.
      mean_over: what the sum over the chosen is divided by: "batch" by N, as if the others'
        loss were zero, or "chosen" by their number; see `highest_loss`.
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups,
        num_microbatches and info, which all methods take: see `Common`.

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
      [-2.17, -2.9]

    Reference:
      Ni et al., K-SAM: Sharpness-Aware Minimization at the Speed of SGD, 2022; `skip`, the
      k that follows training and the sum over the batch are ours.
    """
    _values.radius("k_sam", rho)
    hardest = rank_by_loss("k_sam", k, skip, mean_over)
    return built(Method("k_sam", hardest, scale_to_radius(rho), hardest), common)
