"""The methods of the papers, each a row of the table of three questions."""

from typing import Any

import optax

from . import _checks, _counts
from ._direction import random_mask, subtract_ema
from ._mask import resolve_mask
from ._perturbation import radius_at, scale_to_adaptive_radius, scale_to_radius
from ._selection import draw_subset, everything, rank_by_increase, rank_by_loss
from ._transformation import transformation


def sam(
    rho: Any = 0.05,
    *,
    mask: Any = None,
    perturbed_dtype: Any = None,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
    num_microbatches: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SAM: climbs along the gradient to radius rho, descends with the gradient there.

    .. math::
      \epsilon = \rho \, \nabla L(w) / \|\nabla L(w)\|_2, \qquad
      u = \nabla L(w + \epsilon)

    Twice the cost of SGD.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`.
      mask: which parameters are perturbed: a pytree of bools, a prefix of one, or a
        function of params.
      perturbed_dtype: dtype of the perturbed weights; jnp.float32 for bfloat16 ones.
      axis_name: the mapped axis, or axes, over which devices run this step on examples of
        their own; None on one device.
      sync_ascent: True averages the ascent gradient over devices or groups; False lets
        each climb with its own (m-sharpness).
      groups: equal parts of the batch, each selected from by itself as a device's examples
        are; None for one.
      num_microbatches: how many parts the batch is run in, one after the other, to save
        memory; None for one.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho` is negative or not finite; if `sync_ascent` is False without
        `axis_name` or `groups`.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.sam(rho=0.05), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-2.49, -3.52]

    Reference:
      Foret et al., Sharpness-Aware Minimization for Efficiently Improving
      Generalization, ICLR 2021.
    """
    _checks.radius("sam", rho)
    return transformation(
        "sam",
        scale_to_radius(rho),
        everything(),
        everything(),
        mask=mask,
        perturbed_dtype=perturbed_dtype,
        axis_name=axis_name,
        sync_ascent=sync_ascent,
        groups=groups,
        num_microbatches=num_microbatches,
    )


def asam(
    rho: Any = 0.5,
    eta: Any = 0.01,
    adaptive_mask: Any = None,
    *,
    mask: Any = None,
    perturbed_dtype: Any = None,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
    num_microbatches: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""ASAM: SAM with the radius measured relative to the size of each weight.

    .. math::
      \epsilon = \rho \, T^2 \nabla L(w) / \|T \nabla L(w)\|_2, \qquad
      T = |w| + \eta, \qquad u = \nabla L(w + \epsilon)

    Twice the cost of SGD.

    Args:
      rho: radius in that metric, about ten times SAM's; a float, a traced scalar or an
        `optax.Schedule`.
      eta: added to the modulus of each weight, so that weights at zero move too.
      adaptive_mask: leaves for which T is used; a pytree of bools or a function of
        params (in which `optax.MaskedNode` stands for parameters that `mask` leaves out).
        None: leaves of two axes or more (T = 1 for biases and norm parameters).
      mask: which parameters are perturbed: a pytree of bools, a prefix of one, or a
        function of params.
      perturbed_dtype: dtype of the perturbed weights; jnp.float32 for bfloat16 ones.
      axis_name: the mapped axis, or axes, over which devices run this step on examples of
        their own; None on one device.
      sync_ascent: True averages the ascent gradient over devices or groups; False lets
        each climb with its own (m-sharpness).
      groups: equal parts of the batch, each selected from by itself as a device's examples
        are; None for one.
      num_microbatches: how many parts the batch is run in, one after the other, to save
        memory; None for one.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho` or `eta` is negative or not finite; if `sync_ascent` is False
        without `axis_name` or `groups`.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.asam(rho=0.5), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-3.26, -4.62]

    Reference:
      Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant
      Learning of Deep Neural Networks, ICML 2021.
    """
    _checks.radius("asam", rho)
    _checks.offset("asam", eta)

    def adaptive(params):
        return resolve_mask("asam", "adaptive_mask", adaptive_mask, params)

    return transformation(
        "asam",
        scale_to_adaptive_radius(rho, eta, None if adaptive_mask is None else adaptive),
        everything(),
        everything(),
        mask=mask,
        perturbed_dtype=perturbed_dtype,
        axis_name=axis_name,
        sync_ascent=sync_ascent,
        groups=groups,
        num_microbatches=num_microbatches,
    )


def random_sam(
    rho: Any = 0.05,
    m: Any = 0.25,
    seed: Any = 0,
    *,
    mask: Any = None,
    perturbed_dtype: Any = None,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
    num_microbatches: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SAM whose climb uses a random part of the batch.

    .. math::
      \epsilon = \rho \, \nabla L_M(w) / \|\nabla L_M(w)\|_2, \qquad
      u = \nabla L(w + \epsilon)

    with M drawn anew at every step. 1 + m times the cost of SGD; `has_aux=True` adds a
    forward pass over the whole batch, since aux is of all examples.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`.
      m: an integer is a number of examples, another real number in (0, 1] a fraction.
      seed: integer, may be traced; decides which examples are drawn.
      mask: which parameters are perturbed: a pytree of bools, a prefix of one, or a
        function of params.
      perturbed_dtype: dtype of the perturbed weights; jnp.float32 for bfloat16 ones.
      axis_name: the mapped axis, or axes, over which devices run this step on examples of
        their own; None on one device.
      sync_ascent: True averages the ascent gradient over devices or groups; False lets
        each climb with its own (m-sharpness).
      groups: equal parts of the batch, each selected from by itself as a device's examples
        are; None for one.
      num_microbatches: how many parts the batch is run in, one after the other, to save
        memory; None for one.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho` or `m` is out of range; if `sync_ascent` is False without
        `axis_name` or `groups`.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.random_sam(rho=0.05, m=0.5), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-2.48, -3.52]

    Reference:
      Bahri et al., Sharpness-Aware Minimization Improves Language Model Generalization,
      ACL 2022.
    """
    _checks.radius("random_sam", rho)
    count = _counts.example_count("random_sam", "m", m)
    return transformation(
        "random_sam",
        scale_to_radius(rho),
        draw_subset(count, seed),
        everything(),
        mask=mask,
        perturbed_dtype=perturbed_dtype,
        axis_name=axis_name,
        sync_ascent=sync_ascent,
        groups=groups,
        num_microbatches=num_microbatches,
    )


def k_sam(
    rho: Any = 0.05,
    k: Any = 0.25,
    skip: Any = None,
    *,
    mask: Any = None,
    perturbed_dtype: Any = None,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
    num_microbatches: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""K-SAM: both gradients use only the k examples with the highest loss.

    .. math::
      K = \mathrm{top}_k \, \ell_i(w), \qquad
      \epsilon = \rho \, \nabla L_K(w) / \|\nabla L_K(w)\|_2, \qquad
      u = \nabla L_K(w + \epsilon)

    Forward passes' worth of work per example: 1 + 6k, or 1 + 5k where `per_example`
    shares the forward pass; SGD's is 3. With mislabelled examples the
    highest losses are the wrong labels: `skip` some there, or use `sam`.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`.
      k: an integer is a number of examples, another real number in (0, 1] a fraction,
        rounded half up: `k=1` is one example, `k=1.0` all, which is SAM.
      skip: how many of the very highest losses are left out before k are taken: None
        for none, an integer is a number, another real number in [0, 1) a fraction. For
        mislabelled examples; on clean labels it hurts.
      mask: which parameters are perturbed: a pytree of bools, a prefix of one, or a
        function of params.
      perturbed_dtype: dtype of the perturbed weights; jnp.float32 for bfloat16 ones.
      axis_name: the mapped axis, or axes, over which devices run this step on examples of
        their own; None on one device.
      sync_ascent: True averages the ascent gradient over devices or groups; False lets
        each climb with its own (m-sharpness).
      groups: equal parts of the batch, each selected from by itself as a device's examples
        are; None for one.
      num_microbatches: how many parts the batch is run in, one after the other, to save
        memory; None for one.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho`, `k` or `skip` is out of range; if `sync_ascent` is False without
        `axis_name` or `groups`.
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
    _checks.radius("k_sam", rho)
    count = _counts.example_count("k_sam", "k", k)
    hardest = rank_by_loss(count, _counts.skip_count("k_sam", skip))
    return transformation(
        "k_sam",
        scale_to_radius(rho),
        hardest,
        hardest,
        mask=mask,
        perturbed_dtype=perturbed_dtype,
        axis_name=axis_name,
        sync_ascent=sync_ascent,
        groups=groups,
        num_microbatches=num_microbatches,
    )


def esam(
    rho: Any = 0.05,
    beta: Any = 0.6,
    gamma: Any = 0.5,
    seed: Any = 0,
    mask_per: str = "coordinate",
    *,
    mask: Any = None,
    perturbed_dtype: Any = None,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
    num_microbatches: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""ESAM: perturbs random weights, descends on the examples most sensitive to it.

    .. math::
      \epsilon = \frac{b}{\beta} \odot
        \rho \frac{\nabla L(w)}{\|\nabla L(w)\|_2}, \qquad
      b_i \sim \mathrm{Bernoulli}(\beta), \qquad u = \nabla L_S(w + \epsilon)

    with S the examples whose loss the perturbation raised most. Its length is about
    rho/sqrt(beta). Where there is no climb (a gradient that isn't finite, or with
    `mask_per="tensor"` a draw that keeps no tensor) no loss rises, and the first gamma*N
    finite examples are used.

    Forward passes' worth of work per example: 4 + 3 gamma, or 4 + 2 gamma where
    `per_example` shares the forward pass; SGD's is 3.

    Args:
      rho: radius before the mask; a float, a traced scalar or an `optax.Schedule`.
      beta: probability that a weight is perturbed, in (0, 1].
      gamma: examples of the descent: an integer is a number, another real number in
        (0, 1] a fraction.
      seed: integer, may be traced; decides the masks.
      mask_per: "coordinate" draws for every weight, as in the paper; "tensor" once per
        leaf and before scaling to radius rho/beta, as in the authors' code.
      mask: which parameters are perturbed: a pytree of bools, a prefix of one, or a
        function of params.
      perturbed_dtype: dtype of the perturbed weights; jnp.float32 for bfloat16 ones.
      axis_name: the mapped axis, or axes, over which devices run this step on examples of
        their own; None on one device.
      sync_ascent: True averages the ascent gradient over devices or groups; False lets
        each climb with its own (m-sharpness).
      groups: equal parts of the batch, each selected from by itself as a device's examples
        are; None for one.
      num_microbatches: how many parts the batch is run in, one after the other, to save
        memory; None for one.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho`, `beta` or `gamma` is out of range, or `mask_per` another word;
        if `sync_ascent` is False without `axis_name` or `groups`.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.esam(rho=0.05, beta=1.0, gamma=1), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-4.35, -5.8]

    Reference:
      Du et al., Efficient Sharpness-aware Minimization for Improved Training of Neural
      Networks, ICLR 2022.
    """
    _checks.radius("esam", rho)
    _checks.keep_probability("esam", beta)
    _checks.seed("esam", seed)
    _checks.one_of("esam", "mask_per", mask_per, ("coordinate", "tensor"))
    count = _counts.example_count("esam", "gamma", gamma)
    drop = random_mask(beta, seed, per=mask_per)
    if mask_per == "coordinate":
        climb = optax.chain(scale_to_radius(rho), drop)
    else:
        # Scaling comes last, so the radius is exactly rho/beta whatever was dropped.
        climb = optax.chain(drop, scale_to_radius(_divided(rho, beta)))
    return transformation(
        "esam",
        climb,
        everything(),
        rank_by_increase(count),
        mask=mask,
        perturbed_dtype=perturbed_dtype,
        axis_name=axis_name,
        sync_ascent=sync_ascent,
        groups=groups,
        num_microbatches=num_microbatches,
    )


def f_sam(
    rho: Any = 0.2,
    sigma: Any = 1.0,
    decay: Any = 0.9,
    *,
    mask: Any = None,
    perturbed_dtype: Any = None,
    axis_name: Any = None,
    sync_ascent: bool = True,
    groups: int | None = None,
    num_microbatches: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""F-SAM: SAM whose climb leaves out what the gradient shares with its past.

    .. math::
      \epsilon = \rho \, d_t / \|d_t\|_2, \qquad d_t = g_t - \sigma m_{t-1}, \qquad
      m_t = \lambda m_{t-1} + (1 - \lambda) g_t, \qquad u = \nabla L(w + \epsilon)

    with g the gradient over the batch; m starts as the first gradient, whose step is
    SAM's. Twice the cost of SGD.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`.
      sigma: how much of the average is removed; 0 is SAM.
      decay: lambda, in [0, 1).
      mask: which parameters are perturbed: a pytree of bools, a prefix of one, or a
        function of params.
      perturbed_dtype: dtype of the perturbed weights; jnp.float32 for bfloat16 ones.
      axis_name: the mapped axis, or axes, over which devices run this step on examples of
        their own; None on one device.
      sync_ascent: True, since the moving average is of the averaged gradient.
      groups: equal parts of the batch, each selected from by itself as a device's examples
        are; None for one.
      num_microbatches: how many parts the batch is run in, one after the other, to save
        memory; None for one.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho`, `sigma` or `decay` is out of range, or `sync_ascent` is False.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.f_sam(rho=0.2), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-2.74, -3.89]

    Reference:
      Li et al., Friendly Sharpness-Aware Minimization, CVPR 2024, with the recurrence of
      the authors' code.
    """
    _checks.radius("f_sam", rho)
    _checks.ema("f_sam", sigma, decay)
    _checks.synchronized("f_sam", sync_ascent)
    return transformation(
        "f_sam",
        optax.chain(subtract_ema(sigma, decay), scale_to_radius(rho)),
        everything(),
        everything(),
        mask=mask,
        perturbed_dtype=perturbed_dtype,
        axis_name=axis_name,
        sync_ascent=sync_ascent,
        groups=groups,
        num_microbatches=num_microbatches,
    )


def _divided(rho: Any, beta: Any) -> Any:
    if callable(rho):
        return lambda count: radius_at(rho, count) / beta
    return rho / beta
