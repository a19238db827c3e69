"""Reading results out of any nested optimizer state, found by type."""

from typing import Any

from ..checks import _leaves
from ._info import SharpnessAwareInfo
from ._state import SharpnessAwareState, SwitchState, our_states, with_fields


def get_info(opt_state: Any) -> SharpnessAwareInfo:
    """What the last step says about itself, from any optimizer state around it.

    Args:
      opt_state: state of an `optax.chain`, `inject_hyperparams`, ... that contains one
        of the transformations of this library.

    Returns:
      A `SharpnessAwareInfo` of scalars.

    Raises:
      ValueError: if the state holds none of our transformations, or several.
      TypeError: if it has a generator in it, which reading would use up.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.sam(rho=0.05), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> round(float(ksam_jax.get_info(opt_state).perturbation_norm), 4)
      0.05

    Reference:
      None; ours.
    """
    return _the_state("get_info", opt_state).info


def take_aux(opt_state: Any) -> tuple[Any, Any]:
    """Takes the aux of the step out of the optimizer state: that of its clean pass.

    (With `aux="perturbed"`, where a method has it, that of the perturbed pass.)

    `update(..., has_aux=True)` leaves it there; take it in every step, so that the state
    has the same structure before and after. Forgotten, it costs a retrace under `jit` and
    is an error of JAX's under `lax.scan`.

    Args:
      opt_state: as for `get_info`, after an update with `has_aux=True`.

    Returns:
      `(aux, opt_state)`; aux is None if there was none.

    Raises:
      ValueError: if the state holds none of our transformations, or several.
      TypeError: if it has a generator in it, which reading would use up.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.sam(rho=0.05), optax.sgd(0.1))
      >>> loss_fn = lambda w, b: ((b @ w) ** 2, {"mean": jnp.mean(b)})
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=loss_fn, batch=batch, has_aux=True
      ... )
      >>> aux, opt_state = ksam_jax.take_aux(opt_state)
      >>> float(aux["mean"])
      2.5

    Reference:
      None; ours.
    """
    return _the_state("take_aux", opt_state).aux, without_aux(opt_state)


def without_aux(opt_state: Any) -> Any:
    """The state at rest."""
    return with_fields(opt_state, aux=None)


def _the_state(call: str, opt_state: Any) -> SharpnessAwareState | SwitchState:
    _leaves.no_generator(call, "opt_state", opt_state)
    found = our_states(opt_state)
    if len(found) != 1:
        raise ValueError(
            f"{call}(opt_state): opt_state must hold the state of exactly one "
            f"sharpness-aware transformation; found {len(found)}; pass the state that "
            f"tx.init or tx.update returned, for one chain at a time."
        )
    return found[0]
