"""Methods without an ascent pass: the climb goes along the steps already taken."""

from typing import Any

import optax

from . import _checks, _counts
from ._past_descent import PastDescent
from ._perturbation import scale_to_radius
from ._selection import everything, rank_by_loss
from ._transformation import transformation


def momentum_sam(
    rho: Any = 0.3,
    decay: Any = 0.0,
    *,
    mask: Any = None,
    perturbed_dtype: Any = None,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
    num_microbatches: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum-SAM: SAM whose climb is the direction of the past steps, which is free.

    .. math::
      \epsilon = -\rho \, m_{t-1} / \|m_{t-1}\|_2, \qquad
      u = \nabla L(w + \epsilon), \qquad
      m_t = \lambda m_{t-1} + (1 - \lambda) u, \qquad m_0 = 0

    The cost of SGD. `has_aux=True` adds a forward pass at the unperturbed weights, where
    aux belongs.

    Args:
      rho: radius in the parameters' units, larger than SAM's; a float, a traced scalar
        or an `optax.Schedule`.
      decay: lambda, in [0, 1); 0 is the previous gradient alone, and the momentum of the
        optimizer gives its momentum buffer's direction, as in the paper.
      mask: which parameters are perturbed: a pytree of bools, a prefix of one, or a
        function of params.
      perturbed_dtype: dtype of the perturbed weights; jnp.float32 for bfloat16 ones.
      axis_name: the mapped axis, or axes, over which devices run this step on examples of
        their own; None on one device.
      sync_ascent: the climb goes along averaged steps and costs no collective either way;
        with False `info` is the mean of the devices' own, and in groups loss_fn sees one
        at a time.
      groups: equal parts of the batch, each selected from by itself as a device's examples
        are; None for one.
      num_microbatches: how many parts the batch is run in, one after the other, to save
        memory; None for one.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho` or `decay` is out of range; if `sync_ascent` is False without
        `axis_name` or `groups`.
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
    _checks.radius("momentum_sam", rho)
    _checks.decay_rate("momentum_sam", decay)
    return transformation(
        "momentum_sam",
        scale_to_radius(rho),
        PastDescent(f"momentum_sam(decay={decay!r})", decay),
        everything(),
        mask=mask,
        perturbed_dtype=perturbed_dtype,
        axis_name=axis_name,
        sync_ascent=sync_ascent,
        groups=groups,
        num_microbatches=num_microbatches,
    )


def k_momentum_sam(
    rho: Any = 0.3,
    k: Any = 0.25,
    decay: Any = 0.0,
    skip: Any = None,
    *,
    mask: Any = None,
    perturbed_dtype: Any = None,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
    num_microbatches: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum-SAM on the k examples with the highest loss at the perturbed weights.

    .. math::
      \epsilon = -\rho \, m_{t-1} / \|m_{t-1}\|_2, \qquad
      K = \mathrm{top}_k \, \ell_i(w + \epsilon), \qquad
      u = \nabla L_K(w + \epsilon), \qquad
      m_t = \lambda m_{t-1} + (1 - \lambda) u

    One forward pass over the batch gives the losses that choose, and only the chosen run
    backward. Forward passes' worth of work per example: 1 + 3k, or 1 + 2k where
    `per_example` shares the forward pass; SGD's is 3. `has_aux=True` adds a forward pass
    at the unperturbed weights, where aux belongs.

    Args:
      rho: radius in the parameters' units, larger than SAM's; a float, a traced scalar
        or an `optax.Schedule`.
      k: an integer is a number of examples, another real number in (0, 1] a fraction,
        rounded half up: `k=1` is one example, `k=1.0` all, which is `momentum_sam`.
      decay: lambda, in [0, 1); 0 is the previous gradient alone.
      skip: how many of the very highest losses are left out before k are taken: None
        for none, an integer is a number, another real number in [0, 1) a fraction. For
        mislabelled examples; on clean labels it hurts.
      mask: which parameters are perturbed: a pytree of bools, a prefix of one, or a
        function of params.
      perturbed_dtype: dtype of the perturbed weights; jnp.float32 for bfloat16 ones.
      axis_name: the mapped axis, or axes, over which devices run this step on examples of
        their own; None on one device.
      sync_ascent: the climb goes along averaged steps and costs no collective either way;
        with False `info` is the mean of the devices' own, and in groups loss_fn sees one
        at a time.
      groups: equal parts of the batch, each selected from by itself as a device's examples
        are; None for one.
      num_microbatches: how many parts the batch is run in, one after the other, to save
        memory; None for one.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho`, `k`, `decay` or `skip` is out of range; if `sync_ascent` is
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
      [-3.3, -4.4]

    Reference:
      The climb is that of Becker et al., Momentum-SAM, 2024, the examples are those of Ni
      et al., K-SAM, 2022; the combination is ours.
    """
    _checks.radius("k_momentum_sam", rho)
    _checks.decay_rate("k_momentum_sam", decay)
    count = _counts.example_count("k_momentum_sam", "k", k)
    return transformation(
        "k_momentum_sam",
        scale_to_radius(rho),
        PastDescent(f"k_momentum_sam(decay={decay!r})", decay),
        rank_by_loss(count, _counts.skip_count("k_momentum_sam", skip)),
        mask=mask,
        perturbed_dtype=perturbed_dtype,
        axis_name=axis_name,
        sync_ascent=sync_ascent,
        groups=groups,
        num_microbatches=num_microbatches,
    )
