"""SAM whose climb uses a random part of the batch."""

from typing import Any, Unpack

import optax

from ..checks import _kinds, _values
from ..parts import _counts
from ..parts._examples import draw_subset, everything
from ..parts._radius import scale_to_radius
from ..step._method import AUX, Method
from ._common import Common, built, with_common


@with_common
def random_sam(
    rho: Any = 0.05,
    m: Any = 0.25,
    seed: Any = 0,
    aux: str = "clean",
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""SAM whose climb uses a random part of the batch.

    .. math::
      \epsilon = \rho \, \nabla L_M(w) / \|\nabla L_M(w)\|_2, \qquad
      u = \nabla L(w + \epsilon)

    with M drawn anew at every step. 1 + m times the cost of SGD; `has_aux=True` adds a
    forward pass over the whole batch, since aux is of all examples, unless
    `aux="perturbed"`.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`.
      m: an integer is a number of examples, another real number in (0, 1] a fraction.
      seed: integer, may be traced; decides which examples are drawn.
      aux: of which weights aux (`has_aux=True`), such as BatchNorm's statistics, is:
        "clean", of the unperturbed ones, at the cost of a forward pass over the batch; or
        "perturbed", of the perturbed ones, as the pass there returns it, at no cost.
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups,
        num_microbatches and info, which all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho` or `m` is out of range, or `aux` another word; if
        `sync_ascent` is False without `axis_name` or `groups`.
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
    _values.radius("random_sam", rho)
    count = _counts.example_count("random_sam", "m", m)
    # Of a climb to a radius the denominator of the mean doesn't matter.
    drawn = draw_subset(count, seed, "chosen")
    _kinds.one_of("random_sam", "aux", aux, AUX)
    climb = scale_to_radius(rho)
    return built(Method("random_sam", drawn, climb, everything(), aux=aux), common)
