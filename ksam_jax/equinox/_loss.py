"""The loss of an Equinox model, and the training step that it makes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import PyTree

from ..checks import _arguments, _kinds
from ..loss._residuals import checked
from ..models._choice import EXAMPLES, ROWS
from ..models._forms import ROWS_AXIS, Passes, form_of, stepped
from ..models._keys import keys_of_rows, of_device, typed
from ..step._info import SharpnessAwareInfo
from ..step._state import our_states
from ._axes import axis_of

_CALL, _UPDATE = "ksam_jax.equinox.loss", "loss.update"


class Step(NamedTuple):
    """What came of a step.

    Attributes:
      model: with new weights.
      opt_state: for the next step.
      info: what the step says about itself.
      state: the `eqx.nn.State` after the clean pass over the whole batch; None without one.
      aux: that of the examples, stacked; None without `has_aux`.
    """

    model: Any
    opt_state: Any
    info: SharpnessAwareInfo
    state: Any = None
    aux: Any = None


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of one example, made a loss of a batch that is right in both passes.

    Made by `ksam_jax.equinox.loss`.
    """

    function: Callable[..., Any]
    has_aux: bool = False
    keep: str | int = "auto"
    trained: Any = eqx.is_inexact_array

    def update(
        self,
        model: Any,
        tx: Any,
        opt_state: Any,
        batch: PyTree,
        *,
        key: Any = None,
        state: Any = None,
        **extra_args: Any,
    ) -> Step:
        """One training step.

        Args:
          model: any Equinox module, in training mode.
          tx: an Optax chain with one of this library's methods.
          opt_state: what `loss.init(model, tx)` or the last step returned.
          batch: a pytree of arrays that share the leading axis N.
          key: a random key, another in each step: each example gets one of its own, the
            same in both passes. None if the function takes none.
          state: the `eqx.nn.State` of a model that has one.
          extra_args: handed on to the chain, as `loss_scale` is.

        Returns:
          A `Step`.

        Raises:
          TypeError: if `state` isn't an `eqx.nn.State`.
          ValueError: if the chain has none of our methods, or several; if layers of
            BatchNorm have different axes.

        Example: see `ksam_jax.equinox.loss`.
        """
        _checked(opt_state, state)
        batch = _arguments.batch_arrays(batch, _UPDATE)
        params, static = eqx.partition(model, self.trained)
        axis_name = axis_of(_UPDATE, model)
        # What a state becomes is of all rows.
        name = ROWS if state is not None or axis_name is not None else EXAMPLES
        has_keys = key is not None
        keys = keys_of_rows(of_device(typed(key), batch), batch) if has_keys else ()

        def row(params: PyTree, example: PyTree, key: Any, axis_name: Any) -> Any:
            del axis_name
            given = {"key": key} if has_keys else {}
            # A copy for each pass, since a state can be used once.
            given |= {} if state is None else {"state": jax.tree.map(lambda x: x, state)}
            return self._run(eqx.combine(params, static), example, given)

        passes = Passes(row)
        has_any = self.has_aux or name == ROWS
        axis = ROWS_AXIS if axis_name is None else axis_name
        form = form_of(name, passes, batch, keys, has_any, self.keep, axis)
        found = stepped(tx, opt_state, params, form, extra_args)
        model = eqx.apply_updates(model, found.updates)
        after = state if state is None else found.written
        return Step(model, found.opt_state, found.info, after, found.aux)

    def init(self, model: Any, tx: Any) -> Any:
        """The optimizer's first state: `tx.init` of what is trained."""
        return tx.init(eqx.filter(model, self.trained))

    def _run(self, model: Any, example: PyTree, given: dict[str, Any]) -> Any:
        """Loss, aux and the next state of one example."""
        takes = f"the model, one example{''.join(f', {name}=' for name in given)}"
        function = functools.partial(self.function, **given)
        out = _kinds.called(_CALL, "function", function, takes, model, example)
        parts = ["loss"] + ["aux"] * self.has_aux + ["state"] * ("state" in given)
        if len(parts) == 1:
            return out, None, ()
        if not isinstance(out, tuple) or len(out) != len(parts):
            raise TypeError(
                f"{_CALL}(function): function must return ({', '.join(parts)}); got "
                f"{type(out).__name__}; return these."
            )
        named = dict(zip(parts, out, strict=True))
        return named["loss"], named.get("aux"), named.get("state", ())


def _checked(opt_state: Any, state: Any) -> None:
    if state is not None and not isinstance(state, eqx.nn.State):
        raise TypeError(
            f"{_UPDATE}(state=...): state must be an eqx.nn.State; got "
            f"{_kinds.described(state)}; pass what eqx.nn.make_with_state made."
        )
    found = len(our_states(opt_state))
    if found != 1:
        raise ValueError(
            f"{_UPDATE}(opt_state=...): opt_state must be that of a chain with exactly one "
            f"sharpness-aware method; found {found}; pass loss.init(model, tx) with tx = "
            f"optax.chain(ksam_jax.k_sam(), optax.sgd(0.1))."
        )


def loss(
    function: Callable[..., Any],
    *,
    has_aux: bool = False,
    keep: str | int = "auto",
    trained: Any = eqx.is_inexact_array,
) -> Loss:
    r"""From the loss of one example to a training step of an Equinox model.

    .. math:: L(w)_i = \mathrm{function}(\mathrm{model}_w, \mathrm{batch}_i)

    What is perturbed and trained is what `trained` says, and the rest stays as it is.
    Without a state the loss is that of `ksam_jax.per_example`. With `eqx.nn.BatchNorm`,
    which is looked for in the model, the examples are mapped over the axis that it names,
    and the state comes from the clean pass over the whole batch.

    Args:
      function: `(model, example) -> loss`; with `key=` or `state=` in `update` it is given
        these as keyword arguments. It returns a number, then aux, then the state, as far as
        there are any.
      has_aux: whether it gives aux.
      keep: as in `ksam_jax.per_example`.
      trained: what of the model is trained: a function of a leaf, or a tree of bools, as
        `eqx.partition` takes it.

    Returns:
      A `Loss`, whose `update(model, tx, opt_state, batch)` is a training step.

    Raises:
      TypeError: if `function` isn't callable, or an argument is of another type.
      ValueError: if `keep` is another word or an integer below 1.

    Example:
      >>> import equinox as eqx, jax, jax.numpy as jnp, optax
      >>> import ksam_jax.equinox
      >>> model = eqx.nn.Linear(2, "scalar", key=jax.random.key(0))
      >>> tx = optax.chain(ksam_jax.k_sam(), optax.sgd(0.1, momentum=0.9))
      >>> loss = ksam_jax.equinox.loss(lambda model, x: (model(x["x"]) - x["y"]) ** 2)
      >>> opt_state = loss.init(model, tx)
      >>> @eqx.filter_jit
      ... def train_step(model, opt_state, batch):
      ...     return loss.update(model, tx, opt_state, batch)
      >>> step = train_step(model, opt_state, {"x": jnp.ones((4, 2)), "y": jnp.zeros(4)})
      >>> model, opt_state = step.model, step.opt_state
      >>> bool(step.info.loss > 0)
      True

    Reference:
      None; ours.
    """
    _kinds.function(_CALL, "function", function)
    _kinds.switch(_CALL, "has_aux", has_aux)
    return Loss(function, has_aux, checked(keep), trained)
