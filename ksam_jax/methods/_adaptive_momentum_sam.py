"""Adaptive Momentum-SAM: its climb in ASAM's metric."""

from typing import Any, Unpack

import optax

from ..checks import _kinds, _values
from ..parts._ascent import along_past
from ..parts._examples import everything
from ..parts._radius import scale_to_adaptive_radius
from ..step._method import AUX, Method
from ._common import Common, built, with_common


@with_common
def adaptive_momentum_sam(
    rho: Any = 3.0,
    eta: Any = 0.01,
    decay: Any = 0.9,
    aux: str = "clean",
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum-SAM with the radius measured relative to the size of each weight.

    .. math::
      \epsilon = -\rho \, T^2 m_{t-1} / \|T m_{t-1}\|_2, \qquad
      T = |w| + \eta, \qquad
      u = \nabla L(w + \epsilon), \qquad
      m_t = \lambda m_{t-1} + (1 - \lambda) u, \qquad m_0 = 0

    The cost of SGD. `has_aux=True` adds a forward pass at the unperturbed weights, where
    aux belongs, unless `aux="perturbed"`.

    Args:
      rho: radius in that metric; a float, a traced scalar or an `optax.Schedule`. The paper
        gives none for this form: search for it (3 is ten times `momentum_sam`'s, as ASAM's
        is ten times SAM's). In a warm-up of the learning rate let it be
        0, as the paper does for vision transformers.
      eta: added to the modulus of each weight, so that weights at zero move too. T = 1 for
        leaves of less than two axes (biases, norm parameters).
      decay: lambda, in [0, 1): the momentum of the optimizer gives its momentum buffer's
        direction, as in the paper; 0 is the previous gradient alone.
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
      ValueError: if `rho`, `eta` or `decay` is out of range, or `aux` another word; if
        `sync_ascent` is False without `axis_name` or `groups`.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.adaptive_momentum_sam(rho=0.3), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> loss_fn = lambda w, b: (b @ w) ** 2
      >>> opt_state = tx.init(w)
      >>> for _ in range(2):  # the first step has no past, and is a plain one
      ...     updates, opt_state = tx.update(
      ...         None, opt_state, w, loss_fn=loss_fn, batch=batch
      ...     )
      >>> [round(float(u), 2) for u in updates]
      [-1.88, -2.67]

    Reference:
      Becker et al., Momentum-SAM: Sharpness Aware Minimization without Computational
      Overhead, 2024, its adaptive form, at 84.15 on CIFAR-100 with WRN-28-10 (SGD 81.51,
      SAM 84.16); the metric is that of Kwon et al., ASAM, 2021.
    """
    call = "adaptive_momentum_sam"
    _values.radius(call, rho)
    _values.weight(call, "eta", eta)
    past, climb = along_past(call, decay), scale_to_adaptive_radius(rho, eta)
    _kinds.one_of(call, "aux", aux, AUX)
    return built(Method(call, past, climb, everything(), aux=aux), common)
