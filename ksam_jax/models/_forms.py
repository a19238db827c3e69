"""The forms that a model's loss may have: of one example, of rows, of the whole batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from ..loss._per_example import per_example
from ..step._info import SharpnessAwareInfo
from ..step._reading import get_info, take_aux
from ._choice import EXAMPLES, ROWS
from ._keyed import with_keys, without_keys

# Over which BatchNorm averages where each row runs with keys of its own.
ROWS_AXIS = "ksam_jax rows"


class Passes(NamedTuple):
    """Two ways to run a model.

    Attributes:
      row: (params, example, its keys, the name of the axis of rows or None) -> its loss,
        aux, and what the model has written.
      whole: (params, batch) -> losses, aux and what was written; None where each row
        runs by itself, as in Equinox.
    """

    row: Callable[[Any, Any, Any, Any], tuple[Any, Any, Any]]
    whole: Callable[[Any, Any], tuple[Any, Any, Any]] | None = None


def axes_with(names: Any, name: str) -> Any:
    """BatchNorm's axes and one more to average over, unless it is there."""
    given = () if names is None else names if isinstance(names, tuple) else (names,)
    return given if name in given else (*given, name)


class Form(NamedTuple):
    """What `tx.update` is given. The aux is of the user's own and what was written."""

    loss_fn: Any
    batch: PyTree
    has_aux: bool


def form_of(
    name: str,
    passes: Passes,
    batch: PyTree,
    keys: PyTree,
    has_aux: bool,
    keep: Any,
    axis_name: Any = ROWS_AXIS,
) -> Form:
    """The loss in one of the forms; `has_aux`: whether there is anything besides losses."""
    if name == EXAMPLES:
        return Form(
            per_example(_of_one(passes, has_aux), keep), with_keys(batch, keys), has_aux
        )
    if name == ROWS:
        return Form(_of_rows(passes, axis_name), with_keys(batch, keys), True)
    return Form(_of_the_batch(passes, has_aux), batch, has_aux)


def _of_one(passes: Passes, has_aux: bool) -> Callable[[Any, Any], Any]:
    """Where no layer looks at other examples: each runs by itself, with its own keys."""

    def example_loss(params: PyTree, example: PyTree) -> Any:
        loss, aux, _ = passes.row(params, *without_keys(example), None)
        return (loss, (aux, ())) if has_aux else loss

    return example_loss


def _of_rows(passes: Passes, name: Any) -> Callable[[Any, Any], Any]:
    """Where rows meet in BatchNorm alone: it averages over them as over devices."""

    def of_one(params: PyTree, example: PyTree) -> Any:
        return passes.row(params, *without_keys(example), name)

    # Compiled, so that passes over as many rows are traced once; as in a whole batch.
    in_axes, out_axes = (None, 0), (0, 0, None)
    mapped = jax.jit(jax.vmap(of_one, in_axes, out_axes, axis_name=name))

    def losses_of_rows(params: PyTree, batch: PyTree) -> Any:
        losses, aux, written = mapped(params, batch)
        return losses, (aux, written)

    return losses_of_rows


def _of_the_batch(passes: Passes, has_aux: bool) -> Callable[[Any, Any], Any]:
    """Where rows meet in other ways: the model as it is, with the batch as it is."""

    whole = passes.whole
    assert whole is not None, "only models that run batches have this form"

    def losses_of_the_batch(params: PyTree, batch: PyTree) -> Any:
        losses, aux, written = whole(params, batch)
        return (losses, (aux, written)) if has_aux else losses

    return losses_of_the_batch


class Stepped(NamedTuple):
    """What came of `tx.update`."""

    updates: PyTree
    opt_state: Any
    info: SharpnessAwareInfo
    aux: Any
    written: Any


def stepped(
    tx: Any, opt_state: Any, params: PyTree, form: Form, extra_args: dict[str, Any]
) -> Stepped:
    """One step, and the state at rest."""
    loss_fn, batch, has_aux = form
    updates, opt_state = tx.update(
        None, opt_state, params, loss_fn=loss_fn, batch=batch, has_aux=has_aux, **extra_args
    )
    found, opt_state = take_aux(opt_state)
    aux, written = (None, ()) if found is None else found
    return Stepped(updates, opt_state, get_info(opt_state), aux, written)
