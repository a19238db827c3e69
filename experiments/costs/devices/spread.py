"""Training steps spread over devices in three ways, compiled but not run.

- "shard_map": weights on every device, `jax.shard_map` over the batch;
- "jit": weights on every device, `jax.jit` with a sharded batch and `groups`;
- "fsdp": the same with the weights and the optimizer's state sharded as well, and a loss
  that gathers the weights where it uses them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

import ksam_jax
from experiments.configs.benchmark import Workload
from experiments.costs.benchmark.task import Batch, Task, random_batch
from experiments.costs.devices import formulas
from experiments.processes.sharded import data_mesh

WAYS = ("shard_map", "jit", "fsdp")
BASE = optax.sgd(1e-3, momentum=0.9)
# A smaller array isn't worth being spread.
SMALLEST_SHARDED = 1024

# (parameters, optimizer state, batch) -> (the same two, loss).
Step = Callable[[PyTree, PyTree, Batch], tuple[PyTree, PyTree, Array]]


@dataclass(frozen=True)
class Method:
    """A method as it is spread.

    Attributes:
      label: what the tables call it.
      make: takes what says how it is spread; None for SGD.
      traffic: what the formula says that it sends.
      sync_ascent: see `ksam_jax.sharpness_aware`.
    """

    label: str
    make: Callable[..., optax.GradientTransformationExtraArgs] | None
    traffic: formulas.Traffic
    sync_ascent: bool = True


_K_SAM = partial(ksam_jax.k_sam, k=0.25)
_ESAM = partial(ksam_jax.esam, gamma=0.5)
_K_MOMENTUM_SAM = partial(ksam_jax.k_momentum_sam, k=0.25)
METHODS = {
    "sgd": Method("SGD", None, formulas.SGD),
    "sam": Method("SAM", ksam_jax.sam, formulas.TOGETHER),
    "sam_m": Method("SAM, m-sharpness", ksam_jax.sam, formulas.APART, False),
    "f_sam": Method("F-SAM", ksam_jax.f_sam, formulas.TOGETHER),
    "esam": Method("ESAM, gamma = 1/2", _ESAM, formulas.SELECTING_TOGETHER),
    "esam_m": Method(
        "ESAM, gamma = 1/2, m-sharpness", _ESAM, formulas.SELECTING_APART, False
    ),
    "k_sam": Method("K-SAM, k = 1/4", _K_SAM, formulas.SELECTING_TOGETHER),
    "k_sam_m": Method(
        "K-SAM, k = 1/4, m-sharpness", _K_SAM, formulas.SELECTING_APART, False
    ),
    "k_momentum_sam": Method("K-Momentum-SAM, k = 1/4", _K_MOMENTUM_SAM, formulas.BY_PAST),
}


def compiled(
    name: str, way: str, workload: Workload, task: Task, devices: int, keep: str
) -> Any:
    """One training step on so many devices, compiled; on one, without any axis."""
    mesh = data_mesh(devices)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    batch = random_batch(workload, workload.batch_size)
    loss_fn = _loss(task, keep, gathers=way == "fsdp")
    tx, step = _step(METHODS[name], way if devices > 1 else "", devices, loss_fn)
    weights = jax.eval_shape(lambda p: (p, tx.init(p)), params)
    if devices > 1 and way == "shard_map":
        specs = (P(), P(), P("data"))
        step = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P())
    placed = jax.tree.map(partial(_placement, mesh, way == "fsdp"), weights)
    rows = NamedSharding(mesh, P("data"))
    program = jax.jit(
        step,
        in_shardings=(*placed, rows),
        out_shardings=(*placed, NamedSharding(mesh, P())),
        donate_argnums=(0, 1),
    )
    with jax.set_mesh(mesh):
        return program.lower(*weights, batch).compile()


def _loss(task: Task, keep: str, *, gathers: bool) -> Any:
    loss_fn: Any = task.loss_fn(None, keep)
    if not gathers:
        return loss_fn

    def example_loss(params: PyTree, example: Any) -> Array:
        whole = jax.tree.map(lambda w: jax.lax.with_sharding_constraint(w, P()), params)
        return loss_fn.example_loss(whole, example)

    return ksam_jax.per_example(example_loss, keep=loss_fn.keep)


def sharded_share(task: Task, devices: int) -> tuple[int, float]:
    """How many of the arrays FSDP spreads, and the share of the weights in them."""
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    place = partial(_placement, data_mesh(devices), True)
    leaves = jax.tree.leaves(params)
    spread = [leaf.size for leaf in leaves if place(leaf).spec != P()]
    return len(spread), sum(spread) / sum(leaf.size for leaf in leaves)


def _step(method: Method, way: str, devices: int, loss_fn: Any) -> tuple[Any, Step]:
    axis_name = "data" if way == "shard_map" else None
    if method.make is None:
        return BASE, partial(_sgd_step, loss_fn, axis_name)
    if way == "shard_map":
        ours = method.make(axis_name=axis_name, sync_ascent=method.sync_ascent)
    elif way and (method.traffic.selects or not method.sync_ascent):
        ours = method.make(groups=devices, sync_ascent=method.sync_ascent)
    else:
        ours = method.make()
    tx = optax.chain(ours, BASE)
    return tx, partial(_our_step, tx, loss_fn)


def _sgd_step(
    loss_fn: Any, axis_name: str | None, params: PyTree, state: PyTree, batch: Batch
) -> tuple[PyTree, PyTree, Array]:
    """As anyone writes it, who reports the loss."""

    def loss(p: PyTree) -> Array:
        return jnp.mean(loss_fn(p, batch))

    if axis_name is None:
        value, gradient = jax.value_and_grad(loss)(params)
    else:
        local = jax.lax.pcast(params, axis_name, to="varying")
        value, gradient = jax.lax.pmean(jax.value_and_grad(loss)(local), axis_name)
    updates, state = BASE.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value


def _our_step(
    tx: Any, loss_fn: Any, params: PyTree, state: PyTree, batch: Batch
) -> tuple[PyTree, PyTree, Array]:
    updates, state = tx.update(None, state, params, loss_fn=loss_fn, batch=batch)
    loss = ksam_jax.get_info(state).perturbed_loss
    return optax.apply_updates(params, updates), state, loss


def _placement(mesh: Mesh, is_spread: bool, array: Any) -> NamedSharding:
    """Where an array lives: spread over its longest axis that the devices divide."""
    longest = sorted(range(array.ndim), key=lambda i: -array.shape[i])
    axis = next((i for i in longest if array.shape[i] % mesh.size == 0), None)
    if not is_spread or axis is None or array.size < SMALLEST_SHARDED:
        return NamedSharding(mesh, P())
    return NamedSharding(mesh, P(*(None,) * axis, "data"))
