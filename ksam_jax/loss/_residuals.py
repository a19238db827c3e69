"""The shared forward pass: linearize each example, gather residuals, transpose.

`jax.linearize` splits an example's loss into its value and a linear function of the
parameters' tangent, whose leaves are the residuals of the forward pass. Under `vmap`
some residuals depend on the example and are stacked; others depend on the parameters
alone and must not be copied N times. Rows of the former are gathered, the linear
functions of those rows are run on one shared tangent, and that map is transposed: the
weighted sum of the rows' gradients, contracted over rows inside the matrix products,
with no per-example gradient ever formed.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int, PyTree

from ..checks import _kinds, _values
from ._rows import take

# What keep="auto" is: see docs/performance.md for what it was measured against.
AUTO = 100

# A function to be linearized, as it is or with what is to be recomputed marked.
Marked = Callable[[Any], Any]

KEEPS = ("auto", "nothing", "matmuls", "all")


def checked(keep: Any) -> str | int:
    """Returns `keep` if it is one of the words or an integer >= 1."""
    if isinstance(keep, str):
        _kinds.one_of("per_example", "keep", keep, KEEPS)
        return keep
    words = ", ".join(f'"{word}"' for word in KEEPS)
    _values.size("per_example", "keep", keep, f"one of {words} or an integer >= 1")
    return int(keep)


def keeping(keep: str | int, function: Marked) -> Marked:
    """The function with `jax.checkpoint` around it, unless all residuals are kept."""
    if keep == "all":
        return function
    worth = 1 if keep == "matmuls" else int(keep)
    return jax.checkpoint(function, policy=_products_worth(worth))


def _products_worth(worth: int) -> Callable[..., bool]:
    """Keeps what took at least `worth` multiplications and additions per number.

    A number that is kept is written and read for every example of the batch, and gathered
    for the chosen ones; one that isn't is computed again for the chosen ones alone. A
    product with a short inner axis, as that of queries and keys, is a large result of
    little work.
    """

    def policy(primitive: Any, *operands: Any, **params: Any) -> bool:
        if primitive is jax.lax.dot_general_p:
            ((contracted, _), _) = params["dimension_numbers"]
            return math.prod(operands[0].shape[i] for i in contracted) >= worth
        if primitive is jax.lax.conv_general_dilated_p:
            kernel, layout = operands[1].shape, params["dimension_numbers"].rhs_spec
            return math.prod(kernel) // kernel[layout[0]] >= worth
        return False

    return policy


class Linearized(NamedTuple):
    """The linear functions of all examples: residuals, and how to put one together."""

    residuals: list[Array]
    depends_on_example: list[bool]
    treedef: Any


def split_linearized(
    one: Callable[[PyTree, PyTree], tuple[Array, Any, Any]],
    params: PyTree,
    batch: PyTree,
) -> tuple[Float[Array, " N"], Any, Linearized]:
    """Runs `one` over the batch: losses, stacked aux, and the linearized losses.

    `one(params, example)` returns `(loss, aux, linear)`, `linear` as from
    `jax.linearize`.
    """
    flags = depends_on_example(lambda p, example: one(p, example)[2], params, batch)
    treedefs = []

    def flat(params, example):
        loss, aux, linear = one(params, example)
        residuals, treedef = jax.tree.flatten(linear)
        treedefs.append(treedef)
        return loss, aux, residuals

    out_axes = (0, 0, [0 if flag else None for flag in flags])
    losses, aux, residuals = jax.vmap(flat, in_axes=(None, 0), out_axes=out_axes)(
        params, batch
    )
    return losses, aux, Linearized(residuals, flags, treedefs[-1])


def pull_back_rows(
    linear: Linearized,
    params: PyTree,
    indices: Int[Array, "*groups k"],
    weights: Float[Array, " rows"],
) -> PyTree:
    """The gradient of the weighted sum of the losses of the rows `indices`."""
    pairs = list(zip(linear.residuals, linear.depends_on_example, strict=True))
    rows = [take(r, indices) if flag else r for r, flag in pairs]
    axes = [0 if flag else None for flag in linear.depends_on_example]

    def rise(tangent: PyTree) -> Float[Array, " rows"]:
        def of_row(residuals: list[Array]) -> Array:
            return jax.tree.unflatten(linear.treedef, residuals)(tangent)

        return jax.vmap(of_row, in_axes=(axes,), axis_size=indices.size)(rows)

    (gradient,) = jax.linear_transpose(rise, params)(weights)
    return gradient


def depends_on_example(
    fun: Callable[[PyTree, PyTree], PyTree], params: PyTree, batch: PyTree
) -> list[bool]:
    """For each leaf of `fun(params, example)`, whether it differs between examples.

    JAX's own batching decides: the rule of a `custom_vmap` identity is told which of
    its inputs carry the batch axis. This looks through jit, scan and checkpoint.
    """
    flags: list[bool] = []

    @custom_vmap
    def look(leaves):
        return leaves

    @look.def_vmap
    def _rule(axis_size, in_batched, leaves):
        del axis_size
        flags.extend(in_batched[0][1:])
        return leaves, in_batched[0]

    def traced(params, example):
        # The rule isn't asked where nothing is batched, so one batched leaf leads.
        look([jax.tree.leaves(example)[0], *jax.tree.leaves(fun(params, example))])
        return jnp.zeros(())

    jax.eval_shape(jax.vmap(traced, in_axes=(None, 0)), params, batch)
    return flags
