"""Where arrays live on a mesh of Explicit axes, which their types say."""

import contextlib
import math
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, reshard
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree


def whole(tree: PyTree) -> PyTree:
    """The same on every device. (With Auto axes XLA sees to that by itself.)"""
    return jax.tree.map(lambda x: reshard(x, P()) if any(spec_of(x)) else x, tree)


def placed_as(tree: PyTree, like: PyTree) -> PyTree:
    """Where the leaves of `like` live."""
    return jax.tree.map(
        lambda x, y: reshard(x, spec_of(y)) if any(spec_of(y)) else x, tree, like
    )


def on_mesh_of(batch: PyTree) -> contextlib.AbstractContextManager[Any]:
    """Where JAX knows the mesh of a batch on Explicit axes, if nobody has set one.

    A step that is vmapped over groups asks for it, to number them.
    """
    leaves = jax.tree.leaves(batch)
    placed = [x for x in leaves if not jax.typeof(x).sharding.mesh.empty]
    if not placed or not jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    if isinstance(placed[0], Tracer):
        return jax.sharding.use_abstract_mesh(jax.typeof(placed[0]).sharding.mesh)
    return jax.set_mesh(placed[0].sharding.mesh)


def sharding_for(x: Any) -> NamedSharding | None:
    """The `out_sharding` of what is gathered by `x`; None where there is none to say."""
    sharding = jax.typeof(x).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def spec_of(x: Any) -> P:
    """The Explicit axes that each dimension lies along, or None."""
    return jax.typeof(x).sharding.spec


def shards_of(batch: PyTree) -> int:
    """Into how many parts Explicit axes divide the examples."""
    return max(_parts(leaf) for leaf in jax.tree.leaves(batch))


def _parts(leaf: Any) -> int:
    sizes = jax.typeof(leaf).sharding.mesh.shape
    entry = spec_of(leaf)[0]
    names = entry if isinstance(entry, tuple) else (entry,)
    return math.prod(sizes[name] for name in names if name is not None)
