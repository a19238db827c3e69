"""ESAM: random weights are perturbed, the most sensitive examples descend."""

from typing import Any, Unpack

import optax

from ..checks import _kinds, _values
from ..parts import _counts
from ..parts._direction import random_mask
from ..parts._examples import everything, rank_by_increase
from ..parts._radius import radius_at, scale_to_radius
from ..step._method import Method
from ._common import Common, built, with_common


@with_common
def esam(
    rho: Any = 0.05,
    beta: Any = 0.6,
    gamma: Any = 0.5,
    seed: Any = 0,
    mask_per: str = "coordinate",
    mean_over: str = "batch",
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""ESAM: perturbs random weights, descends on the examples most sensitive to it.

    .. math::
      \epsilon = \frac{b}{\beta} \odot
        \rho \frac{\nabla L(w)}{\|\nabla L(w)\|_2}, \qquad
      b_i \sim \mathrm{Bernoulli}(\beta), \qquad
      u = \frac{1}{N} \sum_{i \in S} \nabla \ell_i(w + \epsilon)

    with S the examples whose loss the perturbation raised most. The perturbation's length
    is about rho/sqrt(beta). The sum is divided by the batch's N, so that SGD's learning
    rate carries over; the paper has the mean over S: `esam(mean_over="chosen")`. Where
    there is no climb (a gradient that isn't finite, or with `mask_per="tensor"` a draw that
    keeps no tensor) no loss rises, and the first gamma*N finite examples are used.

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
      mean_over: what the descent's sum over the chosen is divided by: "batch" by N, as if
        the others' loss were zero, or "chosen" by their number; see `highest_loss`.
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups,
        num_microbatches and info, which all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho`, `beta` or `gamma` is out of range, or `mask_per` or
        `mean_over` another word; if `sync_ascent` is False without `axis_name` or `groups`.
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
      [-2.17, -2.9]

    Reference:
      Du et al., Efficient Sharpness-aware Minimization for Improved Training of Neural
      Networks, ICLR 2022; the sum over the batch is ours.
    """
    _values.radius("esam", rho)
    _values.share("esam", "beta", beta)
    _values.seed("esam", seed)
    _kinds.one_of("esam", "mask_per", mask_per, ("coordinate", "tensor"))
    count = _counts.example_count("esam", "gamma", gamma)
    drop = random_mask(beta, seed, per=mask_per)
    if mask_per == "coordinate":
        climb = optax.chain(scale_to_radius(rho), drop)
    else:
        # Scaling comes last, so the radius is exactly rho/beta whatever was dropped.
        climb = optax.chain(drop, scale_to_radius(_divided(rho, beta)))
    risen = rank_by_increase(count, mean_over)
    return built(Method("esam", everything(), climb, risen), common)


def _divided(rho: Any, beta: Any) -> Any:
    if callable(rho):
        return lambda count: radius_at(rho, count) / beta
    return rho / beta
