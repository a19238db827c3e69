"""Which mapped axes an array is spread over: the one place that asks JAX's types for it.

Inside `jax.shard_map` with `check_vma=True` the type of an array says over which axes of
the mesh it may differ from device to device. With `check_vma=False`, and under `jax.pmap`,
it says nothing.
"""

from collections.abc import Hashable, Sequence
from types import GeneratorType
from typing import Any

import jax


def spread_over(x: Any) -> tuple[Hashable, ...]:
    """The axes along which this array may differ from device to device, in order."""
    if not isinstance(x, jax.Array):
        return ()
    return tuple(sorted(jax.typeof(x).manual_axis_type.varying, key=str))


def spread_like(x: jax.Array, others: Sequence[Any]) -> jax.Array:
    """What is the same on all devices, typed as if it differed where the others do."""
    axes = {name for other in others for name in spread_over(other)} - {*spread_over(x)}
    return jax.lax.pcast(x, tuple(axes), to="varying") if axes else x


def arrays_of(tree: Any) -> list[Any]:
    """The leaves of a tree that nobody has checked yet: it may be a generator, for one."""
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, GeneratorType))


def types_tell(names: Sequence[Hashable]) -> bool:
    """Whether the types of arrays would say that they differ along these axes."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    mine = [name for name in names if name in manual]
    return all(spread_over(jax.lax.axis_index(name)) for name in mine)
