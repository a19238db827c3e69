"""Arrays over the devices of all processes, each process giving its own part."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int, PyTree

# The mesh's axis: the examples of a batch are spread over it.
DATA = "data"


def data_mesh(devices: int | None = None) -> Mesh:
    """The devices of all processes along one axis: all, or so many of them."""
    chosen = jax.devices()[:devices]
    return jax.make_mesh(
        (len(chosen),), (DATA,), axis_types=(AxisType.Auto,), devices=chosen
    )


def local_rows(mesh: Mesh, batch_size: int) -> Int[np.ndarray, " n"]:
    """Which rows of a global batch this process must load, in ascending order.

    They aren't always neighbours: the mesh puts devices in the order that their network
    likes best.
    """
    sharding = NamedSharding(mesh, P(DATA))
    places = sharding.addressable_devices_indices_map((batch_size,)).values()
    every = np.arange(batch_size)
    return np.unique(
        np.concatenate([every[place] for place in places if place is not None])
    )


def abstract(tree: PyTree, mesh: Mesh, axes: P) -> PyTree:
    """Shapes, types and places of arrays that needn't be there."""
    sharding = NamedSharding(mesh, axes)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def global_batch(mesh: Mesh, batch_size: int, rows: PyTree) -> PyTree:
    """The batch of all processes, from the rows of this one, spread over the devices."""
    sharding = NamedSharding(mesh, P(DATA))
    if jax.process_count() == 1:
        return _spread(sharding)(rows)

    def whole(leaf: Any) -> jax.Array:
        shape = (batch_size, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return jax.tree.map(whole, rows)


@functools.lru_cache(maxsize=8)
def _spread(sharding: NamedSharding) -> Callable[[PyTree], PyTree]:
    """Spreads a whole batch: as an argument it gets there in a fifth of the time."""
    return jax.jit(lambda rows: rows, out_shardings=sharding)
