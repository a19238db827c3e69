"""Momentum-SAM on the examples with the highest loss."""

from typing import Any, Unpack

import optax

from ..checks import _kinds, _values
from ..parts._ascent import along_past
from ..parts._coverage import FOLLOWING
from ..parts._examples import rank_by_loss
from ..parts._radius import scale_to_radius
from ..step._method import AUX, Method
from ._common import Common, built, with_common


@with_common
def k_momentum_sam(
    rho: Any = 0.05,
    k: Any = FOLLOWING,
    decay: Any = 0.0,
    skip: Any = None,
    mean_over: str = "batch",
    aux: str = "clean",
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum-SAM on the k examples with the highest loss at the perturbed weights.

    .. math::
      \epsilon = -\rho \, m_{t-1} / \|m_{t-1}\|_2, \qquad
      K = \mathrm{top}_k \, \ell_i(w + \epsilon), \qquad
      u = \frac{1}{N} \sum_{i \in K} \nabla \ell_i(w + \epsilon), \qquad
      m_t = \lambda m_{t-1} + (1 - \lambda) u

    One forward pass over the batch gives the losses that choose, and only the chosen run
    backward. By default k follows training, with a climb where `k_sam` has one, and the sum
    is divided by the batch's N, as there. Forward passes' worth of work per example at one
    k: 1 + 3k, or 1 + 2k where `per_example` shares the forward pass; SGD's is 3, and so is
    that of all examples. `has_aux=True` adds a forward pass at the unperturbed weights,
    where aux belongs, unless `aux="perturbed"`.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`. Where the network fits its training data a larger one, 0.3, is
        worth a try; elsewhere that harms (docs/results.md).
      k: an integer is a number of examples, another real number in (0, 1] a fraction,
        rounded half up: `k=1` is one example, `k=1.0` all, which is `momentum_sam`. Or
        what `by_coverage` makes, for a k that follows training.
      decay: lambda, in [0, 1); 0 is the previous gradient alone.
      skip: how many of the very highest losses are left out before k are taken: None
        for none, an integer is a number, another real number in [0, 1) a fraction. For
        mislabelled examples; on clean labels it hurts.
      mean_over: what the sum over the chosen is divided by: "batch" by N, as if the others'
        loss were zero, or "chosen" by their number; see `highest_loss`.
      aux: of which weights aux (`has_aux=True`), such as BatchNorm's statistics, is:
        "clean", of the unperturbed ones, at the cost of a forward pass over the batch; or
        "perturbed", of the perturbed ones, as the pass there returns it, at no cost.
        `info.loss` and `info.sharpness` are then unknown.
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups,
        num_microbatches and info, which all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho`, `k`, `decay` or `skip` is out of range, or `mean_over` or `aux`
        another word; if `sync_ascent` is
        False without `axis_name` or `groups`.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.k_momentum_sam(rho=0.3, k=1), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> loss_fn = lambda w, b: (b @ w) ** 2
      >>> opt_state = tx.init(w)
      >>> for _ in range(2):  # the first step has no past, and is a plain one
      ...     updates, opt_state = tx.update(
      ...         None, opt_state, w, loss_fn=loss_fn, batch=batch
      ...     )
      >>> [round(float(u), 2) for u in updates]
      [-1.65, -2.2]

    Reference:
      The climb is that of Becker et al., Momentum-SAM, 2024, the examples are those of Ni
      et al., K-SAM, 2022; the combination is ours.
    """
    _values.radius("k_momentum_sam", rho)
    _values.decay_rate("k_momentum_sam", decay)
    hardest = rank_by_loss("k_momentum_sam", k, skip, mean_over)
    past = along_past("k_momentum_sam", decay)
    _kinds.one_of("k_momentum_sam", "aux", aux, AUX)
    climb = scale_to_radius(rho)
    return built(Method("k_momentum_sam", past, climb, hardest, aux=aux), common)
