"""Several devices that each run the same step on their own examples.

Who averages what: inside `jax.shard_map` or `jax.vmap(axis_name=...)` a device sees its own
part of the batch. Selection stays on the device. Averaged over the devices are the ascent
gradient (with `sync_ascent=True`), the descent gradient, `info`, and aux of a batch-level
loss: all of it goes through `Axis.mean`. What a selection remembers of its examples goes
through `Axis.gather`; nothing else leaves a device.

And where arrays live on a mesh of Explicit axes, which their types say.
"""

import contextlib
import dataclasses
import math
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, reshard
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree

from ._spread import spread_over

# The axis that `jax.vmap` gives the groups of one device's batch.
GROUPS = "ksam_jax groups"


@dataclasses.dataclass(frozen=True)
class Axis:
    """The names of the mapped axes; none: there is one device, and nothing is averaged."""

    names: tuple[Hashable, ...] = ()

    @property
    def size(self) -> int:
        """How many devices there are."""
        return jax.lax.axis_size(self.names) if self.names else 1

    def index(self) -> Int[Array, ""]:
        """Which of the devices this one is."""
        return jax.lax.axis_index(self.names)

    def varying(self, tree: PyTree) -> PyTree:
        """Casts to values that may differ between devices.

        Under `check_vma=True` JAX sums the gradient with respect to anything else over the
        devices by itself: it would be neither a mean nor the device's own.
        """
        return jax.tree.map(self._varying, tree)

    def average(self, tree: PyTree) -> PyTree:
        """The mean over the devices, in one collective for the whole tree."""
        return jax.lax.pmean(tree, self.names) if self.names else tree

    def mean(
        self, gradient: PyTree, params: PyTree, beside: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        """The means over the devices of a gradient, and of what else there is, at once.

        A device has a part of its own of weights that are spread over an axis. What JAX
        gives as its gradient is the sum of what all devices' losses make of that part.
        """
        if not self.names:
            return gradient, beside
        leaves, treedef = jax.tree.flatten(gradient)
        spread = [self._own(w) for w in jax.tree.leaves(params)]
        same = {i: x for i, x in enumerate(leaves) if not spread[i]}
        same, beside = self.average((same, beside))
        parts = {i: self._part(leaves[i], own) for i, own in enumerate(spread) if own}
        found = same | parts
        return treedef.unflatten([found[i] for i in range(len(leaves))]), beside

    def gather(self, tree: PyTree) -> PyTree:
        """The devices' arrays one after another, the same on all of them."""
        return jax.tree.map(self._gathered, tree) if self.names else whole(tree)

    def _own(self, weight: Array) -> tuple[Hashable, ...]:
        """Those of these axes that a weight is spread over."""
        spread = spread_over(weight)
        return tuple(name for name in self.names if name in spread)

    def _part(self, gradient: Array, own: tuple[Hashable, ...]) -> Array:
        """The mean of what the devices make of a part that each has for itself."""
        others = tuple(name for name in self.names if name not in own)
        gradient = jax.lax.pmean(gradient, others) if others else gradient
        return gradient / jnp.asarray(jax.lax.axis_size(own), gradient.dtype)

    def _varying(self, x: Array) -> Array:
        manual = jax.sharding.get_abstract_mesh().manual_axes
        already = spread_over(x)
        names = tuple(n for n in self.names if n in manual and n not in already)
        return jax.lax.pcast(x, names, to="varying") if names else x

    def _gathered(self, x: Array) -> Array:
        # A sum in which each device fills its own row: of an all-gather JAX doesn't know
        # that its result is the same everywhere.
        rows = jnp.zeros((self.size, *x.shape), x.dtype)
        rows = rows.at[self.index()].set(x)
        return jax.lax.psum(rows, self.names).reshape(-1, *x.shape[1:])


def named(axis_name: Any) -> Axis:
    """The axis of an `axis_name` as JAX's collectives take it: None, a name or several."""
    if axis_name is None:
        return Axis()
    return Axis(axis_name if isinstance(axis_name, tuple) else (axis_name,))


def mean_of_parts(aux: PyTree) -> PyTree:
    """Aux of a batch-level loss from parts of the batch, stacked: their mean.

    Of what can't be averaged it is the first. BatchNorm's statistics are such an aux.
    """
    return jax.tree.map(_mean_or_first, aux)


def split_aux(aux: PyTree) -> tuple[dict[int, Array], Any]:
    """What can be averaged of a batch-level loss's aux, and how to put it back."""
    leaves, treedef = jax.tree.flatten(aux)
    means = {i: leaf for i, leaf in enumerate(leaves) if _can_average(leaf)}

    def put_back(means: dict[int, Array]) -> PyTree:
        return treedef.unflatten([means.get(i, leaf) for i, leaf in enumerate(leaves)])

    return means, put_back


def _mean_or_first(x: Array) -> Array:
    return jnp.mean(x, axis=0) if _can_average(x) else whole(x)[0]


def _can_average(x: Any) -> bool:
    # A number that isn't an array is a constant, the same everywhere.
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)


def whole(tree: PyTree) -> PyTree:
    """The same on every device. (With Auto axes XLA sees to that by itself.)"""
    return jax.tree.map(lambda x: reshard(x, P()) if any(spec_of(x)) else x, tree)


def undivided(tree: PyTree) -> PyTree:
    """Rows without the Explicit axes of one device that they lie along.

    Such an axis divides nothing, but JAX can't rank or gather rows that lie along one.
    """
    return jax.tree.map(_undivided, tree)


def rows_along(x: Array, like: Array) -> Array:
    """Rows back along the axes of one device that those of `like` lie along."""
    first = spec_of(like)[0]
    return reshard(x, P(first, *spec_of(x)[1:])) if first and _parts(like) == 1 else x


def _undivided(x: Any) -> Any:
    first, *others = spec_of(x)
    return reshard(x, P(None, *others)) if first and _parts(x) == 1 else x


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
    if not isinstance(placed[0], Tracer):
        # Inside jax.jit, which a batch may be a constant of, it can't be set.
        with contextlib.suppress(ValueError):
            return jax.set_mesh(placed[0].sharding.mesh)
    return jax.sharding.use_abstract_mesh(jax.typeof(placed[0]).sharding.mesh)


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
