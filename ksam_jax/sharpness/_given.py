"""Checks of what a measure is given: parameters, batches, the loss and its values."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from .. import _arguments, _checks
from .._tree import widen
from ._measured import Measured


def parameters(call: str, params: PyTree) -> PyTree:
    """The parameters in float32 or wider, if they are real arrays outside of `jax.jit`."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params)):
        raise TypeError(
            f"{call}(params=<traced>): params must be arrays, since a measure walks over "
            f"batches on the host; call it outside of jax.jit, jax.vmap and jax.grad."
        )
    arrays = _arguments.parameters(call, params)
    for path, leaf in jax.tree.leaves_with_path(arrays):
        if jnp.iscomplexobj(leaf):
            raise TypeError(
                f"{call}(params=...): params must be real, but "
                f"params{jax.tree_util.keystr(path)} has dtype {leaf.dtype}; pass real and "
                f"imaginary parts as parameters of their own."
            )
    return jax.tree.map(widen, arrays)


def batches(call: str, given: Any) -> Iterable[PyTree]:
    """The batches, if they can be iterated over more than once."""
    rule = f"{call}(batches=...): batches must be a list of batches, or another iterable"
    is_one = isinstance(given, tuple | Mapping | jax.Array | np.ndarray | str)
    if is_one or not isinstance(given, Iterable):
        raise TypeError(
            f"{rule} that isn't itself a batch; got type {type(given).__name__}; pass "
            f"[batch]."
        )
    if iter(given) is given:
        raise TypeError(
            f"{rule} that starts anew each time; got the iterator {type(given).__name__}, "
            f"which can be used once; pass list(batches)."
        )
    return given


def nothing(call: str) -> ValueError:
    """The error of a dataset without examples."""
    return ValueError(
        f"{call}(batches=...): batches must hold at least one batch of examples; got none; "
        f"pass at least [batch]."
    )


def loss(call: str, measured: Measured, params: PyTree, batch: PyTree) -> None:
    """Checks what the loss returns for a batch, without computing it."""
    n, parts = jax.tree.leaves(batch)[0].shape[0], measured.num_microbatches
    if n % parts:
        raise ValueError(
            f"{call}(num_microbatches={parts}): num_microbatches must divide the number of "
            f"examples of every batch; got a batch of {n}; pass another number, or leave "
            f"out the rest of the examples."
        )

    def values(params: PyTree, batch: PyTree) -> Any:
        out = measured.loss_fn(params, batch)
        return _arguments.losses_and_aux(out, n, measured.has_aux, call)[0]

    jax.eval_shape(values, params, batch)


def finite(call: str, losses: np.ndarray, *, perturbed: bool) -> np.ndarray:
    """The losses (N,), if all of them are finite."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if not len(bad):
        return losses
    where, remedy = (
        ("at the perturbed weights", "pass a smaller rho")
        if perturbed
        else ("at params", "leave the example out, or measure other weights")
    )
    raise ValueError(
        f"{call}(loss_fn=...): loss_fn must return finite losses {where}; got "
        f"{losses[bad[0]]} for example {bad[0]}, counted over the batches ({len(bad)} of "
        f"{len(losses)} aren't finite); {remedy}."
    )


def finite_length(call: str, length: float) -> float:
    """The gradient's length, if it has one that can be divided by."""
    if not np.isfinite(length):
        raise ValueError(
            f"{call}(loss_fn=...): the gradient of the mean loss must be finite at params; "
            f"its length is {length}; scale the loss down, or measure other weights."
        )
    return length


def radius(call: str, rho: Any) -> float:
    """`rho` as a number, if it is one above zero."""
    _checks.positive(call, "rho", rho)
    return float(rho)


def like_parameters(call: str, name: str, tree: PyTree, params: PyTree) -> PyTree:
    """The tree, if it has the structure and the shapes of the parameters."""
    rule = f"{call}({name}=...): {name} must be a tree like params"
    if jax.tree.structure(tree) != jax.tree.structure(params):
        raise ValueError(
            f"{rule}, {jax.tree.structure(params)}; got {jax.tree.structure(tree)}."
        )
    pairs = zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(params), strict=True)
    for (path, leaf), param in pairs:
        if jnp.shape(leaf) != param.shape:
            raise ValueError(
                f"{rule}, with their shapes; got shape {jnp.shape(leaf)} of "
                f"{name}{jax.tree_util.keystr(path)} for a parameter of {param.shape}."
            )
    return tree
