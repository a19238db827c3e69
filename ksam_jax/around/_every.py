"""A method in every so many steps, another one in the others."""

from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from ..checks import _values
from ..parts._examples import everything
from ..step._method import Execution, Method, execution_of
from ..step._transformation import transformation
from ._switch import switched


def every(
    period: Any,
    method: optax.GradientTransformation,
    otherwise: optax.GradientTransformation | None = None,
    *,
    shared: Collection[str] = (),
) -> optax.GradientTransformationExtraArgs:
    r"""Runs a method in every `period`-th step, beginning with the first.

    .. math:: \mathrm{method}_t = \begin{cases}
        \mathrm{method} & \text{if } t \equiv 0 \pmod{\mathrm{period}} \\
        \mathrm{otherwise} & \text{else}
      \end{cases}

    Only the one that runs is paid for: SAM in every second step costs 1.5 times SGD. For
    the rest see `join_methods`.

    Args:
      period: an integer >= 1; may be traced.
      method: a whole method, such as `sam()`.
      otherwise: what runs in the other steps; None for `mean_gradient()` with the shared
        arguments of `method`.
      shared: as in `join_methods`.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `SwitchState`.

    Raises:
      ValueError: if `period` is below 1; if `otherwise` is None and `method` is wrapped, so
        that its `axis_name` can't be known; and as in `join_methods`.
      TypeError: if an argument has the wrong type.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.every(2, ksam_jax.sam(rho=0.1)), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> opt_state, radii = tx.init(w), []
      >>> for _ in range(4):
      ...     updates, opt_state = tx.update(
      ...         None, opt_state, w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ...     )
      ...     radius = ksam_jax.get_info(opt_state).perturbation_norm
      ...     radii.append(round(float(radius), 4))
      >>> radii
      [0.1, 0.0, 0.1, 0.0]

    Reference:
      Liu et al., LookSAM, CVPR 2022, where SAM's gradient is computed in every k-th step.
    """
    _values.whole("every", "period", period, least=1)
    if otherwise is None:
        otherwise = _plain(method)

    def turn(steps: Int[Array, ""]) -> Int[Array, ""]:
        is_due = steps % jnp.asarray(period, jnp.int32) == 0
        return jnp.where(is_due, 0, 1).astype(jnp.int32)

    return switched("every", {"method": method, "otherwise": otherwise}, turn, shared)


def _plain(method: Any) -> optax.GradientTransformation:
    """The plain gradient, taken as the method takes its own."""
    is_method = isinstance(method, optax.GradientTransformation)
    # What isn't one is refused together with the others.
    run = execution_of(method) if is_method else Execution().checked("every")
    if run is None:
        raise ValueError(
            "every(otherwise=None): otherwise must be given where method isn't one of "
            "ksam_jax's by itself but wrapped or chained, since its axis_name and groups "
            "can't be known from outside; pass otherwise=ksam_jax.mean_gradient(...), "
            "chained or wrapped likewise."
        )
    return transformation(Method("mean_gradient", None, None, everything()), run)
