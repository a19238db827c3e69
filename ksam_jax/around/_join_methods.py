"""One method after another: SAM late, or plain steps to warm up."""

from collections.abc import Collection, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from ..checks import _kinds, _values
from ._switch import switched


def join_methods(
    methods: Sequence[optax.GradientTransformation],
    boundaries: Sequence[Any] | np.ndarray | Array,
    *,
    shared: Collection[str] = (),
) -> optax.GradientTransformationExtraArgs:
    r"""Runs one method after another, as `optax.join_schedules` does schedules.

    .. math:: \mathrm{method}_t = \mathrm{methods}_i, \qquad
      i = |\{ b \in \mathrm{boundaries} : b \le t \}|

    From step `boundaries[i]` on `methods[i + 1]` runs. Only the one that runs is paid for,
    nothing is traced again when it changes, and the state has one structure throughout, so
    that `lax.scan`, donation and checkpoints across a boundary work. A method's own count,
    which its schedules and draws go by, begins when it first runs. (Under `jax.vmap` over
    states, as of an ensemble, or over boundaries, all methods run, and one result is
    taken. Nor can it compare the `axis_name` of methods that are wrapped or chained.)

    Args:
      methods: whole methods such as `mean_gradient()` and `k_sam()`, or each in an
        `optax.chain` with what follows it; on several devices with the same `axis_name`.
      boundaries: the steps, counted from 0, at which the next one begins: integers in
        rising order, one fewer than methods; may be traced.
      shared: fields of `SharpnessAwareState` that the methods have in common instead of
        each its own, out of "perturbation", "ascent", "descent" and "combine".

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `SwitchState`; `get_info` and
      `take_aux` read that of the method that ran.

    Raises:
      ValueError: if the numbers of both don't fit, boundaries fall, or the methods' axes
        differ; in `init` if one of them isn't a method, or `shared` isn't alike in all.
      TypeError: if a method isn't a transformation, or a boundary isn't an integer.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> late = ksam_jax.join_methods([ksam_jax.mean_gradient(), ksam_jax.sam()], [2])
      >>> tx = optax.chain(late, optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> opt_state, radii = tx.init(w), []
      >>> for _ in range(4):
      ...     updates, opt_state = tx.update(
      ...         None, opt_state, w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ...     )
      ...     radius = ksam_jax.get_info(opt_state).perturbation_norm
      ...     radii.append(round(float(radius), 4))
      >>> radii
      [0.0, 0.0, 0.05, 0.05]

    Reference:
      Zhou et al., Sharpness-Aware Minimization Efficiently Selects Flatter Minima Late in
      Training, ICLR 2025, for SAM in the last part of training.
    """
    methods = _kinds.listed("join_methods", "methods", methods, least=1)
    boundaries = _kinds.listed("join_methods", "boundaries", boundaries, least=0)
    _values.boundaries("join_methods", len(methods), boundaries)

    def turn(steps: Int[Array, ""]) -> Int[Array, ""]:
        passed = [steps >= jnp.asarray(b, jnp.int32) for b in boundaries]
        return sum((p.astype(jnp.int32) for p in passed), jnp.zeros((), jnp.int32))

    named = {f"methods[{number}]": method for number, method in enumerate(methods)}
    return switched("join_methods", named, turn, shared)
