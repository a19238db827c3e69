"""Checks of what a measure is given: parameters, batches, the loss and its values."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from ..checks import _arguments as _update_arguments
from ..checks import _kinds, _leaves, _values
from ..checks._words import shown
from ..trees._mask import resolve_mask
from ..trees._numbers import widen
from ._compiled import Measured


def parameters(call: str, params: PyTree, name: str = "params") -> PyTree:
    """The parameters in float32 or wider, if they are real arrays outside of `jax.jit`."""
    concrete(call, name, params)
    arrays = _leaves.parameters(call, params, name)
    for path, leaf in jax.tree.leaves_with_path(arrays):
        if jnp.iscomplexobj(leaf):
            raise TypeError(
                f"{call}({name}=...): {name} must be real, but "
                f"{name}{jax.tree_util.keystr(path)} has dtype {leaf.dtype}; pass real and "
                f"imaginary parts as parameters of their own."
            )
    return jax.tree.map(widen, arrays)


def concrete(call: str, name: str, tree: PyTree) -> None:
    """Checks that nothing in it is traced, nor would be what is made of it."""
    _leaves.no_generator(call, name, tree)
    # Inside of jax.jit even a constant is traced.
    if any(isinstance(x, Tracer) for x in (*jax.tree.leaves(tree), jnp.zeros(()))):
        raise TypeError(
            f"{call}({name}=<traced>): {name} must be arrays, since this runs on the host "
            f"and not in a compiled program; call it outside of jax.jit, jax.vmap and "
            f"jax.grad."
        )


def switches(call: str, has_aux: Any, progress: Any) -> None:
    """Checks what says how the loss is called, and what is shown."""
    _kinds.switch(call, "has_aux", has_aux)
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(
            f"{call}(progress={shown(progress)}): progress must be True, False or a "
            f"function of two numbers; got type {type(progress).__name__}."
        )


def measured_leaves(call: str, mask: Any, params: PyTree) -> tuple[bool, ...]:
    """Which leaves are measured, in order: those of the mask, or all."""
    if mask is None:
        return (True,) * len(jax.tree.leaves(params))
    flags = tuple(jax.tree.leaves(resolve_mask(call, "mask", mask, params)))
    if not any(flags):
        raise ValueError(
            f"{call}(mask=...): mask must name at least one parameter to measure; got "
            f"none; leave it out for all."
        )
    return flags


def some(call: str, size: int) -> None:
    """Checks that there are numbers to measure."""
    if not size:
        raise ValueError(
            f"{call}(params=...): params must hold at least one number that is measured; "
            f"got empty arrays; pass the model's parameters."
        )


def batches(call: str, given: Any) -> Iterable[PyTree]:
    """The batches, if they can be iterated over more than once."""
    rule = f"{call}(batches=...): batches must be a list of batches, or another iterable"
    is_one = isinstance(given, tuple | Mapping | jax.Array | np.ndarray | str)
    if is_one or not isinstance(given, Iterable):
        raise TypeError(
            f"{rule} that isn't itself a batch; got type {type(given).__name__}; pass "
            f"[batch], or list(batches)."
        )
    if isinstance(given, Iterator):
        raise TypeError(
            f"{rule} that starts anew each time; got the iterator {type(given).__name__}, "
            f"which can be used once; pass list(batches)."
        )
    return given


def same_sizes(call: str, first: list[int], sizes: list[int]) -> list[int]:
    """The sizes of a pass's batches, if there are any and they are those of the first."""
    if not sizes and not first:
        raise ValueError(
            f"{call}(batches=...): batches must hold at least one batch of examples; got "
            f"none; pass at least [batch]."
        )
    if first and sizes != first:
        raise ValueError(
            f"{call}(batches=...): batches must start anew each time, with the same "
            f"examples in the same order; got {len(first)} batches of {sum(first)} "
            f"examples first, and then {len(sizes)} of {sum(sizes)}; pass list(batches)."
        )
    return sizes


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
        args = (params, batch)
        out = _kinds.called(call, "loss_fn", measured.loss_fn, "params and batch", *args)
        return _update_arguments.losses_and_aux(out, n, measured.has_aux, call)[0]

    jax.eval_shape(values, params, batch)


class NonFiniteError(ValueError):
    """A loss or a gradient isn't finite, as those of a diverged run aren't."""


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
    raise NonFiniteError(
        f"{call}(loss_fn=...): loss_fn must return finite losses {where}; got "
        f"{losses[bad[0]]} for example {bad[0]}, counted over the batches ({len(bad)} of "
        f"{len(losses)} aren't finite); {remedy}."
    )


def finite_derivative(call: str, is_finite: bool) -> None:
    """Checks a gradient of the mean loss, or the Hessian times a vector."""
    if not is_finite:
        raise NonFiniteError(
            f"{call}(loss_fn=...): the derivatives of loss_fn must be finite; got inf or "
            f"nan where the losses themselves are finite; keep clear of places such as "
            f"sqrt(0) and 0 ** 1.5, or scale the loss."
        )


def radius(call: str, rho: Any) -> float:
    """`rho` as a number, if it is one above zero."""
    _values.positive(call, "rho", rho)
    return float(rho)


def like_parameters(
    call: str, name: str, tree: PyTree, params: PyTree, known: str = "params"
) -> PyTree:
    """The tree, if it has the structure and the shapes of the parameters."""
    concrete(call, name, tree)
    _leaves.alike(call, name, tree, params, known)
    return tree


def points(call: str, at: Any, shape: str) -> np.ndarray:
    """`at` in float64, if it is real numbers."""
    try:
        array = np.asarray(at)
        array = None if np.iscomplexobj(array) else array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        array = None
    if array is None:
        raise ValueError(
            f"{call}(at=...): at must have the shape {shape}, of real numbers; got type "
            f"{type(at).__name__}."
        )
    return array


def generator(call: str, seed: Any) -> np.random.Generator:
    """Random numbers of the host."""
    _values.seed(call, seed)
    return np.random.default_rng(int(seed) % 2**64)
