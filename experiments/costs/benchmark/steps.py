"""Whole training steps: gradient, optimizer, new weights, new statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, PyTree

import ksam_jax
from experiments.costs.benchmark.task import Batch, Task

# Small, so that many steps on one batch lead nowhere that arithmetic is slow.
BASE = optax.sgd(1e-3, momentum=0.9)


class Carry(NamedTuple):
    """What a training carries from step to step; `rest` are BatchNorm's statistics."""

    params: PyTree
    rest: PyTree
    opt_state: PyTree


class Training(NamedTuple):
    """How a method trains: parameters -> its state, and (carry, batch) -> carry."""

    init: Callable[[PyTree], PyTree]
    step: Callable[[Carry, Batch], Carry]


def sgd(task: Task) -> Training:
    """SGD with momentum, as anyone writes it."""

    def step(carry: Carry, batch: Batch) -> Carry:
        found, statistics = gradient(task, carry.params, carry.rest, batch)
        updates, opt_state = BASE.update(found, carry.opt_state, carry.params)
        return moved(carry, updates, opt_state, statistics)

    return Training(BASE.init, step)


def optax_sam(task: Task) -> Training:
    """`optax.contrib.sam` in its opaque mode: both gradients in each step."""
    climb = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    tx = optax.contrib.sam(BASE, climb, opaque_mode=True)

    def step(carry: Carry, batch: Batch) -> Carry:
        def grad_fn(perturbed: PyTree, count: Any) -> PyTree:
            del count
            return gradient(task, perturbed, carry.rest, batch)[0]

        found, statistics = gradient(task, carry.params, carry.rest, batch)
        updates, opt_state = tx.update(
            found, carry.opt_state, carry.params, grad_fn=grad_fn
        )
        return moved(carry, updates, opt_state, statistics)

    return Training(tx.init, step)


def sharpness_aware(
    task: Task, method: optax.GradientTransformationExtraArgs, keep: str
) -> Training:
    """A method of ours in front of the same SGD.

    Args:
      task: the model and its losses.
      method: a gradient transformation of `ksam_jax`.
      keep: see `ksam_jax.per_example`; without meaning where the loss is of a batch.
    """
    tx = optax.chain(method, BASE)
    no_gradient: Any = None

    def step(carry: Carry, batch: Batch) -> Carry:
        statistics = None
        updates, opt_state = tx.update(
            no_gradient,
            carry.opt_state,
            carry.params,
            loss_fn=task.loss_fn(carry.rest, keep),
            batch=batch,
            has_aux=task.has_aux,
        )
        if task.has_aux:
            statistics, opt_state = ksam_jax.take_aux(opt_state)
        return moved(carry, updates, opt_state, statistics)

    return Training(tx.init, step)


def gradient(
    task: Task, params: PyTree, rest: PyTree, batch: Batch
) -> tuple[PyTree, PyTree]:
    """The gradient of the mean loss, and the new statistics if there are any."""
    found, (_, statistics) = seen(task, params, rest, batch)
    return found, statistics


def seen(
    task: Task, params: PyTree, rest: PyTree, batch: Batch
) -> tuple[PyTree, tuple[Array, PyTree]]:
    """The gradient of the mean loss, and of the same pass all losses and the statistics."""

    def mean_loss(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
        losses, statistics = run(task, params, rest, batch)
        return jnp.mean(losses), (losses, statistics)

    return jax.grad(mean_loss, has_aux=True)(params)


def run(task: Task, params: PyTree, rest: PyTree, batch: Batch) -> tuple[Array, PyTree]:
    """The losses of a forward pass, and the new statistics if there are any."""
    found = task.losses(rest)(params, batch)
    return found if task.has_aux else (found, None)


def moved(carry: Carry, updates: PyTree, opt_state: PyTree, statistics: PyTree) -> Carry:
    """The carry after a step; `statistics` are the new ones, None if there are none."""
    rest = carry.rest if statistics is None else nnx.merge_state(carry.rest, statistics)
    return Carry(optax.apply_updates(carry.params, updates), rest, opt_state)
