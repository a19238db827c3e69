"""The loss of a Linen model, and the training step that it makes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax.training import train_state
from jaxtyping import Array, PyTree

from ..checks import _arguments, _kinds
from ..loss._residuals import checked
from ..models._choice import EXAMPLES, chosen_form
from ..models._forms import form_of, stepped
from ..models._keys import keys_of_rows
from ..models._results import losses_and_aux
from ..step._state import our_states
from ._passes import look, passes_of, step_keys

_CALL = "ksam_jax.linen.loss"


@dataclasses.dataclass(frozen=True)
class Loss:
    """A function of a model's outputs, made a loss that is right in both passes.

    Made by `ksam_jax.linen.loss`.
    """

    function: Callable[[Any, Any], Any]
    has_aux: bool = False
    keep: str | int = "auto"
    per_example: bool | None = None

    def update(self, state: Any, batch: PyTree, **extra_args: Any) -> tuple[Any, ...]:
        """One training step; `state.apply_gradients` makes it, too.

        Args:
          state: a `ksam_jax.linen.TrainState`, with one of this library's methods in its
            chain.
          batch: a pytree of arrays that share the leading axis N.
          extra_args: handed on to the chain, as `loss_scale` is.

        Returns:
          The next state and `SharpnessAwareInfo`; with `has_aux` aux behind them.

        Raises:
          TypeError: if `state` is something else.
          ValueError: if its chain has none of our methods, or several; if `function`
            doesn't give one loss per example.

        Example: see `ksam_jax.linen.TrainState`.
        """
        _checked(state)
        batch = _arguments.batch_arrays(batch, "loss.update")
        seen = look(state, self._run, batch)
        writes, draws = any(seen.written), state.key is not None
        by_row = draws and seen.only_norms
        call = f"{_CALL}(function)"
        name = chosen_form(call, seen.meeting, writes, by_row, self.per_example)
        if name == EXAMPLES and writes:
            raise ValueError(
                f"{_CALL}(per_example=True): the model must not write its variables, since "
                f"each example has a copy of its own; leave per_example out."
            )
        passes = passes_of(state, self._run, seen)
        keys = tuple(keys_of_rows(key, batch) for key in step_keys(state, batch) or ())
        form = form_of(name, passes, batch, keys, self.has_aux or writes, self.keep)
        found = stepped(state.tx, state.opt_state, state.params, form, extra_args)
        after = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, found.updates),
            opt_state=found.opt_state,
            variables=_put_back(state.variables, seen.written, found.written),
        )
        return (after, found.info, found.aux) if self.has_aux else (after, found.info)

    def _run(self, apply: Any, batch: PyTree) -> tuple[Array, Any]:
        takes, args = "the model's apply and a batch", (apply, batch)
        out = _kinds.called(_CALL, "function", self.function, takes, *args)
        n = jax.tree.leaves(batch)[0].shape[0]
        return losses_and_aux(_CALL, out, n, self.has_aux)


def _put_back(variables: PyTree, is_written: tuple[bool, ...], written: Any) -> PyTree:
    leaves, treedef = jax.tree.flatten(variables)
    new = iter(written)
    pairs = zip(leaves, is_written, strict=True)
    return treedef.unflatten([next(new) if is_it else leaf for leaf, is_it in pairs])


def _checked(state: Any) -> None:
    made = "ksam_jax.linen.TrainState.create(apply_fn=model.apply, params=params, tx=tx)"
    is_one = isinstance(state, train_state.TrainState) and hasattr(state, "variables")
    if not is_one:
        raise TypeError(
            f"loss.update(state=...): state must be a ksam_jax.linen.TrainState; got type "
            f"{type(state).__name__}; pass {made}."
        )
    found = len(our_states(state.opt_state))
    if found != 1:
        raise ValueError(
            f"loss.update(state=...): state.tx must have exactly one sharpness-aware "
            f"method in its chain; found {found}; pass {made} with tx = "
            f"optax.chain(ksam_jax.k_sam(), optax.sgd(0.1))."
        )


def loss(
    function: Callable[[Any, Any], Any],
    *,
    has_aux: bool = False,
    keep: str | int = "auto",
    per_example: bool | None = None,
) -> Loss:
    r"""From a function of a Linen model's outputs to a loss that is right in both passes.

    .. math:: L(w)_i = \mathrm{function}(\mathrm{apply}_w, \mathrm{batch})_i

    The collections of the state's `variables` are mutable in each pass, and put back from
    the clean one over the whole batch. Where the state has a `key`, each example has one of
    its own, the same in both passes and another in each step. Which form the loss takes is
    seen in a trace, as in `ksam_jax.nnx.loss`.

    Args:
      function: `(apply, batch) -> losses` of shape `(N,)`, or `(losses, aux)`. `apply` is
        the model with all of its variables, to be called as its `__call__` is.
      has_aux: whether it gives aux, arrays of one row for each example, or of the batch.
      keep: as in `ksam_jax.per_example`.
      per_example: whether no layer looks at other examples; None to have it seen.

    Returns:
      A `Loss`, for `state.apply_gradients(loss=loss, batch=batch)`.

    Raises:
      TypeError: if `function` isn't callable, or an argument is of another type.
      ValueError: if `keep` is another word or an integer below 1.

    Example: see `ksam_jax.linen.TrainState`.

    Reference:
      None; ours.
    """
    _kinds.function(_CALL, "function", function)
    _kinds.switch(_CALL, "has_aux", has_aux)
    if per_example is not None:
        _kinds.switch(_CALL, "per_example", per_example)
    return Loss(function, has_aux, checked(keep), per_example)
