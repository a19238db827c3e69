"""Momentum-SAM: the climb goes along the steps already taken."""

from typing import Any, Unpack

import optax

from ..checks import _kinds, _values
from ..parts._ascent import along_past
from ..parts._examples import everything
from ..parts._radius import scale_to_radius
from ..step._method import AUX, Method
from ._common import Common, built, with_common


@with_common
def momentum_sam(
    rho: Any = 0.3,
    decay: Any = 0.0,
    aux: str = "clean",
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum-SAM: SAM whose climb is the direction of the past steps, which is free.

    .. math::
      \epsilon = -\rho \, m_{t-1} / \|m_{t-1}\|_2, \qquad
      u = \nabla L(w + \epsilon), \qquad
      m_t = \lambda m_{t-1} + (1 - \lambda) u, \qquad m_0 = 0

    The cost of SGD. `has_aux=True` adds a forward pass at the unperturbed weights, where
    aux belongs, unless `aux="perturbed"`.

    Args:
      rho: radius in the parameters' units, larger than SAM's; a float, a traced scalar
        or an `optax.Schedule`.
      decay: lambda, in [0, 1); 0 is the previous gradient alone, and the momentum of the
        optimizer gives its momentum buffer's direction, as in the paper.
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
      ValueError: if `rho` or `decay` is out of range, or `aux` another word; if
        `sync_ascent` is False without `axis_name` or `groups`.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.momentum_sam(rho=0.3), optax.sgd(0.1))
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
      Overhead, 2024.
    """
    _values.radius("momentum_sam", rho)
    _values.decay_rate("momentum_sam", decay)
    past = along_past("momentum_sam", decay)
    _kinds.one_of("momentum_sam", "aux", aux, AUX)
    climb = scale_to_radius(rho)
    return built(Method("momentum_sam", past, climb, everything(), aux=aux), common)
