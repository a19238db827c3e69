"""The loss of a step, handed on to an optimizer that looks at it."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import optax
from jaxtyping import PyTree

from ..checks import _arguments, _kinds, _leaves
from ..checks._spread import whole_weights
from ..devices._axis import named
from ..loss._forward import Loss
from ..loss._mean import mean_loss
from ..loss._per_example import PerExample
from ..step._method import Execution, execution_of
from ..step._told import listening
from ..trees._keys import drawn_alone
from ._switch import only_one

_CALL = "hand_on_loss"


def hand_on_loss(
    method: optax.GradientTransformation, optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    r"""`optax.chain(method, optimizer)` for optimizers that look at the loss.

    .. math::
      u_t = \mathrm{method}(w_t), \qquad
      \mathrm{optimizer}(u_t; \; \mathrm{value} = L(w_t), \; \mathrm{grad} = u_t, \;
      \mathrm{value\_fn} = L)

    For `optax.contrib.reduce_on_plateau`, `polyak_sgd`, `contrib.momo`, `lbfgs`, line
    searches and whatever else asks for one of these extra arguments of Optax's:

    - `value`: L(w), the mean loss over the whole batch at the parameters themselves, as
      `info.loss`. Where a step has no such pass (`momentum_sam`, `random_sam`, a gradient
      handed in as `updates`) one forward pass is made for it.
    - `grad`: what `method` has made, which is what `optimizer` is given as updates.
    - `value_fn`: L, of parameters alone; for Sophia `obj_fn` is the same. On several
      devices it is the mean over all of them, so that each takes the same step.

    A line search then looks for a decrease of L itself, along a gradient that was taken
    elsewhere: where the climb is longer than the way that is left, there may be none.

    `loss_fn`, `batch`, `has_aux` and `loss_scale` stay with the method. All other extra
    arguments go to both; a `value`, `grad` or `value_fn` among them (as the loss of a
    validation set, for `reduce_on_plateau`) is handed on instead of ours.

    Args:
      method: a transformation of this library, or a chain with one and what is to act on
        its gradient first, such as clipping.
      optimizer: any of Optax's; several in `optax.chain`.

    Returns:
      An `optax.GradientTransformationExtraArgs`, called as `method` is, whose state is
      that of `optax.chain(method, optimizer)`.

    Raises:
      TypeError: if one of them isn't an Optax transformation.
      ValueError: in `init` if `method` has none of our transformations, or several.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = ksam_jax.hand_on_loss(ksam_jax.sam(rho=0.05), optax.polyak_sgd())
      >>> w, batch = jnp.array([3.0]), jnp.array([[1.0], [1.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> round(float(updates[0]), 4)  # 9 / 6.1, where sgd would need a learning rate
      -1.4754

    Reference:
      None; ours.
    """
    # MultiSteps is none by itself, and Optax's chain takes it.
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    _check(method=method, optimizer=optimizer)
    first, second = map(optax.with_extra_args_support, (method, optimizer))

    def init_fn(params):
        state = first.init(params)
        only_one(_CALL, "method", state)
        return state, second.init(params)

    def update_fn(
        updates,
        state,
        params=None,
        *,
        loss_fn: Any = None,
        batch: Any = None,
        has_aux: Any = False,
        loss_scale: Any = None,
        **extra_args,
    ):
        of_method, of_optimizer = _parts(state)
        run, told = _telling_loss(loss_fn, has_aux)
        given = {"loss_fn": run, "batch": batch, "has_aux": told, "loss_scale": loss_scale}
        with listening() as heard:
            updates, after = first.update(updates, of_method, params, **extra_args | given)
        info = only_one(_CALL, "method", after).info
        measured = "an optimizer that measures them sees a device's part alone"
        whole_weights(_CALL, params, measured, instead="")
        execution = _the_same(heard, method)
        loss = Loss(loss_fn, has_aux, execution.num_microbatches or 1)
        axis = named(execution.axis_name)
        arrays = drawn_alone(_arguments.batch_arrays(batch))
        value_fn = _named(mean_loss(loss, arrays, axis, info.loss.dtype), extra_args)
        ours = {"value": info.loss, "grad": updates, "value_fn": value_fn}
        if "value_fn" not in extra_args:
            ours["obj_fn"] = value_fn
        updates, of_optimizer = second.update(
            updates, of_optimizer, params, **ours | extra_args
        )
        return updates, (after, of_optimizer)

    vars(update_fn)["execution"] = execution_of(method)
    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _telling_loss(loss_fn: Any, has_aux: Any) -> tuple[Any, Any]:
    """The loss with an aux, for which a step runs the whole batch at the weights."""
    if has_aux is not False or not callable(loss_fn):
        return loss_fn, has_aux
    if isinstance(loss_fn, PerExample):
        names = "per_example", "example_loss", "params and one example"
        with_none = _with_no_aux(loss_fn.example_loss, *names)
        return dataclasses.replace(loss_fn, example_loss=with_none), True
    return _with_no_aux(loss_fn, "tx.update", "loss_fn", "params and batch"), True


def _with_no_aux(
    function: Callable[..., Any], call: str, name: str, takes: str
) -> Callable[..., Any]:
    @functools.wraps(function)
    def with_none(params: PyTree, batch: PyTree) -> tuple[Any, None]:
        return _kinds.called(call, name, function, takes, params, batch), None

    return with_none


def _named(
    value: Callable[[PyTree], Any], extra_args: dict[str, Any]
) -> Callable[..., Any]:
    """As `value_fn`: it names all extra arguments that there are, and uses none.

    Optax's line searches refuse what their `value_fn` doesn't name, even with `**kwargs`.
    """

    def value_fn(params: PyTree, **unused: Any) -> Any:
        del unused
        return value(_leaves.of_gradients(params))

    positional = inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name in (*extra_args, "obj_fn") if name != "params"]
    others = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in dict.fromkeys(names)
    ]
    vars(value_fn)["__signature__"] = inspect.Signature([positional, *others])
    return value_fn


def _the_same(heard: list[Execution], method: Any) -> Execution:
    """How the methods are carried out that take turns, which have the devices in common."""
    known = heard or [execution_of(method) or Execution()]
    axes = {named(execution.axis_name) for execution in known}
    if len(axes) > 1:
        names = sorted({repr(execution.axis_name) for execution in known})
        raise ValueError(
            f"{_CALL}(method=...): axis_name must be the same in all that method runs, "
            f"since the loss is averaged over it; got {' and '.join(names)}; pass one to "
            f"each."
        )
    parts = max(execution.num_microbatches or 1 for execution in known)
    return known[0]._replace(num_microbatches=parts)


def _parts(state: Any) -> tuple[Any, Any]:
    if not isinstance(state, tuple) or len(state) != 2:
        raise TypeError(
            f"{_CALL}.update(state=...): state must be what init or the last update "
            f"returned, the states of method and optimizer; got type "
            f"{type(state).__name__}; pass that state."
        )
    return state


def _check(**transformations: Any) -> None:
    for name, value in transformations.items():
        if not isinstance(value, optax.GradientTransformation):
            such_as = "ksam_jax.k_sam()" if name == "method" else "optax.lbfgs()"
            raise TypeError(
                f"{_CALL}({name}={value!r}): {name} must be an Optax transformation such "
                f"as {such_as}; got {_kinds.described(value)}."
            )
