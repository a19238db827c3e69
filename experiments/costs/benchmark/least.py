"""The least that a method's step can be: its arithmetic written out, without this library.

No numbers about the step, no check, no extreme numbers, no choice: what is left is what any
implementation computes. Beside it a method's own step shows what the library adds. Of an
MLP the backward pass is written by hand, so that the chosen examples share the forward pass
that chose them; other models run the chosen ones again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from experiments.costs.benchmark import dense
from experiments.costs.benchmark.steps import (
    BASE,
    Carry,
    Training,
    gradient,
    moved,
    run,
    seen,
)
from experiments.costs.benchmark.task import Batch, Task

# The methods' own defaults.
RHO, BETA = 0.05, 0.6


class Looked(NamedTuple):
    """What a forward pass over a batch gives, and of chosen examples of it the gradient."""

    losses: Float[Array, " N"]
    statistics: PyTree
    gradient: Callable[[Array], PyTree]


class State(NamedTuple):
    """The optimizer's, and what the method remembers."""

    base: Any
    own: Any


def sam(task: Task, share: float | None) -> Training:
    """Two gradients over the batch."""
    del share

    def gradients(carry: Carry, batch: Batch) -> tuple[PyTree, PyTree, Any]:
        first, statistics = gradient(task, carry.params, carry.rest, batch)
        perturbed = _climbed(carry.params, first, RHO)
        return gradient(task, perturbed, carry.rest, batch)[0], statistics, ()

    return _training(gradients, lambda params: ())


def k_sam(task: Task, share: float | None) -> Training:
    """The gradients of the highest losses."""

    def gradients(carry: Carry, batch: Batch) -> tuple[PyTree, PyTree, Any]:
        looked = _look(task, carry.params, carry.rest, batch)
        _, rows = jax.lax.top_k(looked.losses, _number(batch, share))
        perturbed = _climbed(carry.params, looked.gradient(rows), RHO)
        return _of_rows(task, perturbed, carry.rest, batch, rows), looked.statistics, ()

    return _training(gradients, lambda params: ())


def k_momentum_sam(task: Task, share: float | None) -> Training:
    """The highest losses' gradient, beyond where the last one leads."""

    def gradients(carry: Carry, batch: Batch) -> tuple[PyTree, PyTree, Any]:
        perturbed = _climbed(carry.params, carry.opt_state.own, -RHO)
        looked = _look(task, perturbed, carry.rest, batch)
        _, rows = jax.lax.top_k(looked.losses, _number(batch, share))
        found = looked.gradient(rows)
        return found, looked.statistics, found

    return _training(gradients, lambda params: jax.tree.map(jnp.zeros_like, params))


def esam(task: Task, share: float | None) -> Training:
    """A climb along random coordinates, and the gradient of the losses that rose most."""

    def gradients(carry: Carry, batch: Batch) -> tuple[PyTree, PyTree, Any]:
        count = carry.opt_state.own
        first, (losses, statistics) = seen(task, carry.params, carry.rest, batch)
        key = jax.random.fold_in(jax.random.key(0), count)
        perturbed = _climbed(carry.params, first, RHO / BETA, _kept(first, key))
        looked = _look(task, perturbed, carry.rest, batch)
        _, rows = jax.lax.top_k(looked.losses - losses, _number(batch, share))
        return looked.gradient(rows), statistics, count + 1

    return _training(gradients, lambda params: jnp.zeros((), jnp.int32))


LEAST = {f.__name__: f for f in (sam, k_sam, k_momentum_sam, esam)}


def _training(
    gradients: Callable[[Carry, Batch], tuple[PyTree, PyTree, Any]],
    remembered: Callable[[PyTree], Any],
) -> Training:
    def step(carry: Carry, batch: Batch) -> Carry:
        found, statistics, own = gradients(carry, batch)
        updates, base = BASE.update(found, carry.opt_state.base, carry.params)
        return moved(carry, updates, State(base, own), statistics)

    return Training(lambda params: State(BASE.init(params), remembered(params)), step)


def _climbed(params: PyTree, direction: PyTree, rho: float, kept: PyTree = True) -> PyTree:
    """The weights that are kept, perturbed along a direction by its length."""
    squares = jnp.stack([jnp.sum(x * x) for x in jax.tree.leaves(direction)])
    length = jnp.sqrt(jnp.sum(squares))
    # The gradient before the first is zero.
    scale = jnp.where(length > 0, rho / jnp.where(length > 0, length, 1), 0)
    if kept is True:
        return jax.tree.map(lambda p, d: p + scale * d, params, direction)
    return jax.tree.map(
        lambda p, d, is_kept: jnp.where(is_kept, p + scale * d, p), params, direction, kept
    )


def _kept(params: PyTree, key: Array) -> PyTree:
    """Each coordinate with probability beta, from a byte of its own."""
    leaves, treedef = jax.tree.flatten(params)
    kept = []
    for number, leaf in enumerate(leaves):
        words = -(-leaf.size // 4)
        bits = jax.random.bits(jax.random.fold_in(key, number), (words,), jnp.uint32)
        drawn = jax.lax.bitcast_convert_type(bits, jnp.uint8).reshape(-1)[: leaf.size]
        kept.append(drawn.reshape(leaf.shape).astype(jnp.int32) < round(256 * BETA))
    return treedef.unflatten(kept)


def _number(batch: Batch, share: float | None) -> int:
    return round((share or 1.0) * len(batch.labels))


def _look(task: Task, params: PyTree, rest: PyTree, batch: Batch) -> Looked:
    if task.is_mlp:
        losses, gradient = dense.look(params, batch)
        return Looked(losses, None, gradient)
    losses, statistics = run(task, params, rest, batch)
    return Looked(
        losses, statistics, lambda rows: _of_rows(task, params, rest, batch, rows)
    )


def _of_rows(task: Task, params: PyTree, rest: PyTree, batch: Batch, rows: Array) -> PyTree:
    chosen = jax.tree.map(lambda x: x[rows], batch)
    if task.is_mlp:
        return dense.gradient(params, chosen, len(batch.labels))

    def loss(params: PyTree) -> Array:
        return jnp.sum(run(task, params, rest, chosen)[0]) / len(batch.labels)

    return jax.grad(loss)(params)
