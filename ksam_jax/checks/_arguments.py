"""Checks of what `update` is given: parameters, batch, loss and its results."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..devices._axis import Axis, shards_of
from ..nodes._with_rows import renewed
from . import _leaves, _remedies
from ._words import several, shown

_UPDATE = "tx.update"
_LINE = "tx.update(None, opt_state, params, loss_fn=loss_fn, batch=batch)"
_DROPPED = (
    "\nand have nothing around a method that hands on no extra arguments: optax.lookahead, "
    "for one, goes behind it, around the optimizer."
)


def present(params: Any, loss_fn: Any, batch: Any) -> None:
    """Checks that nothing is missing."""
    given = {"params": params, "loss_fn": loss_fn, "batch": batch}
    for name, value in given.items():
        if value is None:
            raise ValueError(
                f"{_UPDATE}({name}=None): {name} is missing; write\n    updates, "
                f"opt_state = {_LINE}{_DROPPED * (loss_fn is batch)}"
            )
    if not callable(loss_fn):
        raise TypeError(
            f"{_UPDATE}(loss_fn={shown(loss_fn)}): loss_fn must be a function (params, "
            f"batch) -> losses of shape (N,); got type {type(loss_fn).__name__}."
        )


def state_of(call: str, state: Any, kind: type) -> None:
    """Checks that a state is one of `kind`, as the `init` of the transformation makes."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{call}(state=...): state must be what init or the last update returned, a "
            f"{kind.__name__}; got type {type(state).__name__}; pass that state."
        )


def batch_arrays(
    batch: PyTree, call: str = _UPDATE, name: str = "batch", least: int = 1
) -> PyTree:
    """Returns the batch as JAX arrays, if they share a leading axis of `least` or more."""
    _leaves.no_generator(call, name, batch)
    leaves = jax.tree.leaves_with_path(batch)
    for path, leaf in leaves:
        if not _leaves.is_numeric(leaf):
            raise TypeError(
                f"{call}({name}=...): the leaves of batch must be arrays of numbers, bools "
                f"or keys, but {_leaves.path_to('batch', path)} has type "
                f"{type(leaf).__name__}; "
                f"{_remedies.for_leaf(_leaves.path_to('batch', path), leaf)}."
            )
    _leaves.rows_of_sparse(call, name, batch)
    shapes = {_leaves.path_to("batch", path): jnp.shape(leaf) for path, leaf in leaves}
    # A scalar leaf has no leading axis: count it as less than empty, which is refused.
    sizes = {shape[0] if shape else -1 for shape in shapes.values()}
    if len(sizes) == 1 and min(sizes) >= least:
        arrays = jax.tree.map_with_path(functools.partial(_as_array, call, name), batch)
        return renewed(arrays)
    found = several(f"{path}: {shape}" for path, shape in shapes.items())
    raise ValueError(
        f"{call}({name}=...): the leaves of batch must be arrays with the same leading "
        f"axis of N{' >= 1' * least} examples; got {found or 'no leaves'}; "
        f"{_remedies.for_batch(batch, shapes)}."
    )


def one_result(call: str, out: Any) -> Any:
    """What the loss of one example returned, if it can be stacked over examples."""
    for path, leaf in jax.tree.leaves_with_path(out):
        if not _leaves.is_numeric(leaf):
            raise TypeError(
                f"{call}(example_loss=...): example_loss must return one number, or (loss, "
                f"aux) with has_aux=True; got type {type(leaf).__name__} at "
                f"{_leaves.path_to('its result', path)}."
            )
    return out


def _as_array(call: str, name: str, path: Any, leaf: Any) -> Array:
    dtype = getattr(leaf, "dtype", None)
    kinds = (jnp.number, jnp.bool_)
    is_plain = dtype is None or any(jnp.issubdtype(dtype, kind) for kind in kinds)
    if is_plain or isinstance(leaf, jax.Array):
        return jnp.asarray(leaf)
    raise TypeError(
        f"{call}({name}=...): the leaves of batch must be numbers, bools or keys, but "
        f"{_leaves.path_to('batch', path)} has dtype {dtype}; leave it out of batch."
    )


def bound(call: str, axis: Axis) -> None:
    """Checks that the axis is one that is mapped over here."""
    try:
        _ = axis.size
    except NameError as error:
        name = axis.names[0] if len(axis.names) == 1 else axis.names
        raise ValueError(
            f"{call}(axis_name={name!r}): axis_name must be bound where tx.update runs, "
            f"and {error}; call it inside jax.shard_map or jax.vmap(..., axis_name="
            f"{name!r}), or, under plain jax.jit with a sharded batch, pass groups=<number "
            f"of shards> instead."
        ) from error


def divides(call: str, batch: PyTree, groups: int, num_microbatches: int) -> None:
    """Checks that the batch can be cut into equal groups and microbatches."""
    n = jax.tree.leaves(batch)[0].shape[0]
    _divides(call, "groups", groups, n)
    parts = max(groups, shards_of(batch))
    _divides(call, "num_microbatches", num_microbatches, n // parts)


def selects_on_shards(call: str, batch: PyTree, groups: int) -> None:
    """Checks that no group lies on several devices, where the batch's type tells them."""
    shards = shards_of(batch)
    if groups % shards:
        raise ValueError(
            f"{call}(groups={groups}): groups must be a multiple of the number of devices "
            f"that Explicit axes of the mesh spread the batch over, which is {shards}, so "
            f"that each selects among its own examples; pass groups={shards}."
        )


def device_s_own(call: str, given: PyTree, batch: PyTree, axis: Axis) -> None:
    """Checks that a gradient handed in, to climb along alone, is of this device alone."""
    varying = [
        name
        for name in axis.names
        if all(
            name in jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(batch)
        )
    ]
    for leaf in jax.tree.leaves(given):
        missing = set(varying) - jax.typeof(leaf).manual_axis_type.varying
        if missing:
            name = missing.pop()
            raise ValueError(
                f"{call}(sync_ascent=False).update(updates=<gradient>): updates must be "
                f"each device's own gradient, and this one is the same on all of them; "
                f"differentiate with respect to jax.lax.pcast(params, {name!r}, "
                f'to="varying"), or pass None.'
            )


def _divides(call: str, name: str, parts: int, n: int) -> None:
    if n % parts:
        raise ValueError(
            f"{call}({name}={parts}): {name} must divide the number of examples that "
            f"there are (on one device, in one group), and {parts} doesn't divide {n}; "
            f"pass another number, or a batch that divides."
        )


def gradient_or_none(
    updates: PyTree, params: PyTree, climbs_on: str | None
) -> PyTree | None:
    """Returns the gradient the caller already has, or None; checks that it can serve.

    `climbs_on` names what a method climbs on that isn't the whole batch.
    """
    _leaves.no_generator(_UPDATE, "updates", updates)
    if not jax.tree.leaves(updates):
        return None
    if climbs_on is not None:
        raise ValueError(
            f"{_UPDATE}(updates=<gradient>): {climbs_on} doesn't climb along the gradient "
            f"over the whole batch, so that can't serve as its ascent gradient; pass None."
        )
    found = _leaves.difference("updates", updates, params)
    if found:
        raise ValueError(
            f"{_UPDATE}(updates=<gradient>): updates must be the gradient of the mean "
            f"loss at params, with their structure, shapes and kind of numbers; got "
            f"{found}; pass None to have it computed."
        )
    return jax.tree.map(jnp.asarray, updates)


def choice(call: str | None, found: Any) -> tuple[tuple[Array, Array], Any]:
    """Splits what a selection's `choose` returned into chosen rows and state."""
    rule = f"{call}: choose must return (ksam_jax.Chosen(indices, weights), state)"
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], tuple):
        raise TypeError(f"{rule}; got {type(found).__name__}; return that pair.")
    chosen, state = found
    if len(chosen) != 2:
        raise TypeError(f"{rule}; got a tuple of {len(chosen)} for Chosen; return it.")
    indices, weights = map(jnp.asarray, chosen)
    shapes = indices.shape, weights.shape
    fits = len(indices.shape) == 1 and indices.size and shapes[0] == shapes[1]
    kinds = (
        jnp.issubdtype(indices.dtype, jnp.integer),
        jnp.issubdtype(weights.dtype, jnp.floating),
    )
    if not fits or not all(kinds):
        raise ValueError(
            f"{rule} with integer indices and floating-point weights, both of shape (k,), "
            f"k >= 1; got indices of shape {indices.shape} and dtype {indices.dtype}, "
            f"weights of shape {weights.shape} and dtype {weights.dtype}."
        )
    return (indices, weights), state


def losses_and_aux(
    out: Any, n: int, has_aux: bool, call: str = _UPDATE
) -> tuple[Array, Any]:
    """Splits what the loss returned into losses of shape `(n,)` and aux."""
    if has_aux:
        if not isinstance(out, tuple) or len(out) != 2:
            raise TypeError(
                f"{call}(has_aux=True): loss_fn must return (losses, aux); got "
                f"{type(out).__name__}; return a pair, or leave has_aux out."
            )
        losses, aux = out
    else:
        losses, aux = out, None
    return one_loss_per_example(losses, n, call), aux


def one_loss_per_example(losses: Any, n: int, call: str = _UPDATE) -> Array:
    """Returns the losses if they are real floating-point numbers of shape `(n,)`."""
    rule = f"{call}(loss_fn=...): loss_fn must return one loss per example, shape ({n},)"
    if not isinstance(losses, jax.Array | np.ndarray | np.generic | float | int):
        raise TypeError(
            f"{rule}; got {type(losses).__name__}; {_remedies.for_no_losses(losses)}."
        )
    losses = jnp.asarray(losses)
    if losses.shape != (n,):
        raise ValueError(
            f"{rule}; got shape {losses.shape}; {_remedies.for_losses(losses.shape, n)}"
        )
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"{rule}, real floating-point; got dtype {losses.dtype}; cast it.")
    return losses
