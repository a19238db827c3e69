"""Training steps spread over devices in three ways.

- "shard_map": weights on every device, `jax.shard_map` over the batch;
- "jit": weights on every device, `jax.jit` with a sharded batch and `groups`;
- "fsdp": the same with the weights and the optimizer's state sharded as well, and a loss
  that gathers the weights where it uses them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

import ksam_jax
from experiments.configs.benchmark import Workload
from experiments.costs.benchmark.task import Batch, Task, random_batch
from experiments.methods import from_known_to_ours, without_share
from experiments.methods.cost import Cost, Traffic
from experiments.processes.sharded import data_mesh

WAYS = ("shard_map", "jit", "fsdp")
BASE = optax.sgd(1e-3, momentum=0.9)
# Behind the label of a method whose climb is each device's own.
APART = ", m-sharpness"
# A smaller array isn't worth being spread.
SMALLEST_SHARDED = 1024

# (parameters, optimizer state, batch) -> (the same two, loss).
Step = Callable[[PyTree, PyTree, Batch], tuple[PyTree, PyTree, Array]]


@dataclass(frozen=True)
class Method:
    """A method as it is spread.

    Attributes:
      label: what the tables call it.
      cost: how it is made.
      traffic: what the formula says that it sends.
      sync_ascent: see `ksam_jax.sharpness_aware`.
    """

    label: str
    cost: Cost
    traffic: Traffic
    sync_ascent: bool = True


def _ways_to_climb(name: str, cost: Cost) -> dict[str, Method]:
    """A method with a synchronized climb, and with one of each device's own."""
    share = f", {cost.share_name} = {Fraction(cost.share)}" if cost.share else ""
    label, found = without_share(name) + share, {}
    if cost.traffic is not None:
        found[name] = Method(label, cost, cost.traffic)
    if cost.apart is not None:
        found[f"{name}_m"] = Method(f"{label}{APART}", cost, cost.apart, False)
    return found


# All whose traffic is known.
METHODS = {
    name: method
    for row in from_known_to_ours().values()
    if row.cost is not None
    for name, method in _ways_to_climb(row.name, row.cost).items()
}


class Program(NamedTuple):
    """A compiled training step on several devices.

    Attributes:
      compiled: (parameters, optimizer state, batch) -> (the same two, loss).
      placed: (parameters, batch) -> all that it is given, where it wants it.
    """

    compiled: Any
    placed: Callable[[PyTree, Batch], tuple[PyTree, PyTree, Batch]]


def compiled(
    name: str, way: str, workload: Workload, task: Task, devices: int, keep: str
) -> Program:
    """One training step on so many devices; on one, without any axis."""
    mesh = data_mesh(devices)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    batch = random_batch(workload, workload.batch_size)
    loss_fn = _loss(task, keep, gathers=way == "fsdp")
    tx, step = _step(METHODS[name], way if devices > 1 else "", devices, loss_fn)
    weights = jax.eval_shape(lambda p: (p, tx.init(p)), params)
    if devices > 1 and way == "shard_map":
        specs = (P(), P(), P("data"))
        step = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P())
    places = jax.tree.map(partial(_placement, mesh, way == "fsdp"), weights)
    rows = NamedSharding(mesh, P("data"))
    program = jax.jit(
        step,
        in_shardings=(*places, rows),
        out_shardings=(*places, NamedSharding(mesh, P())),
        donate_argnums=(0, 1),
    )

    def placed(params: PyTree, batch: Batch) -> tuple[PyTree, PyTree, Batch]:
        # The step takes their memory: nobody else's.
        params = jax.tree.map(jnp.copy, params)
        return jax.device_put((params, tx.init(params), batch), (*places, rows))

    with jax.set_mesh(mesh):
        return Program(program.lower(*weights, batch).compile(), placed)


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
    if method.cost.make is None:
        return BASE, partial(_sgd_step, loss_fn, axis_name)
    made = partial(method.cost.made, method.cost.share)
    if way == "shard_map":
        ours = made(axis_name=axis_name, sync_ascent=method.sync_ascent)
    elif way and (method.traffic.selects or not method.sync_ascent):
        ours = made(groups=devices, sync_ascent=method.sync_ascent)
    else:
        ours = made()
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
