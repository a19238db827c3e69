"""What is compiled: losses, gradients and Hessian-vector products of one batch.

The functions are those of a loss and of the parameters that are measured; the others stay
where they are. They are compiled once for each loss, by its identity, whichever measure
asks and however often: a measure that is taken again and again during training compiles
the first time only. Those of the last few losses are kept, and what these close over.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..loss import _forward
from ..loss._forward import Loss
from ..nodes._with_rows import renewed
from ..trees._lengths import all_finite, norm
from ..trees._numbers import can_divide, to_length

# A list of the leaves of the measured parameters, in order.
Leaves = list[Any]


class _Same:
    """A loss that can't be hashed, such as a module of arrays, by its identity."""

    def __init__(self, function: Any):
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __hash__(self) -> int:
        return id(self.function)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.function is other.function


def hashable(loss_fn: Any) -> Any:
    """The loss, or a wrapper of it, fit to be a static argument."""
    try:
        hash(loss_fn)
    except TypeError:
        return _Same(loss_fn)
    return loss_fn


@dataclasses.dataclass(frozen=True)
class Measured:
    """A loss as a function of the parameters that are measured.

    Attributes:
      loss_fn: `(params, batch) -> (N,)`, or a pair with `has_aux`.
      has_aux: whether it returns a pair.
      num_microbatches: into how many parts a batch is cut, for memory.
      treedef: of the parameters.
      which: of their leaves are measured, in order.
    """

    loss_fn: Any
    has_aux: bool
    num_microbatches: int
    treedef: Any
    which: tuple[bool, ...]

    def split(self, params: PyTree) -> tuple[Leaves, Leaves]:
        """The leaves that are measured, and the others."""
        pairs = list(zip(jax.tree.leaves(params), self.which, strict=True))
        return [x for x, flag in pairs if flag], [x for x, flag in pairs if not flag]

    def join(self, free: Leaves, fixed: Leaves) -> PyTree:
        """Undoes `split`."""
        parts = {True: iter(free), False: iter(fixed)}
        return self.treedef.unflatten([next(parts[flag]) for flag in self.which])

    def loss(self, fixed: Leaves) -> Loss:
        """The loss of the measured leaves, in the library's calling convention."""

        def of_free(free: Leaves, batch: PyTree) -> Any:
            return self.loss_fn(self.join(free, fixed), batch)

        return Loss(of_free, self.has_aux, self.num_microbatches)


class Compiled(NamedTuple):
    """The functions below for one loss, compiled at their first use."""

    losses: Callable[..., Any]
    gradient: Callable[..., Any]
    product: Callable[..., Any]
    climbs: Callable[..., Any]
    along: Callable[..., Any]


@functools.lru_cache(maxsize=8)
def compiled(measured: Measured) -> Compiled:
    """The functions of a loss, without `measured` as their first argument."""
    functions = (losses, gradient, product, climbs, along)
    return Compiled(*[jax.jit(functools.partial(f, measured)) for f in functions])


def losses(
    measured: Measured, free: Leaves, fixed: Leaves, batch: PyTree
) -> Float[Array, " N"]:
    """One loss per example."""
    return _forward.forward(measured.loss(fixed), free, batch)[0]


def gradient(
    measured: Measured,
    free: Leaves,
    fixed: Leaves,
    batch: PyTree,
    weights: Float[Array, " N"],
) -> tuple[Float[Array, " N"], Leaves]:
    """The losses, and the gradient of their weighted sum."""
    found, _, total = _forward.weighted(measured.loss(fixed), free, batch, weights)
    return found, total


def product(
    measured: Measured, free: Leaves, fixed: Leaves, batch: PyTree, vector: Leaves
) -> tuple[Float[Array, " N"], Leaves]:
    """The losses, and the Hessian of their sum times a vector.

    The derivative of the gradient in the vector's direction: forward over reverse, which
    costs about two gradients and keeps twice one's residuals.
    """
    count = jax.tree.leaves(batch)[0].shape[0]
    ones = jnp.ones((count,), jnp.result_type(float))

    def of_free(free: Leaves) -> tuple[Leaves, Array]:
        found, total = gradient(measured, free, fixed, batch, ones)
        return total, found

    _, along, found = jax.jvp(of_free, (free,), (vector,), has_aux=True)
    return found, along


def climbs(
    measured: Measured, free: Leaves, fixed: Leaves, groups: PyTree, rho: Any
) -> tuple[Float[Array, "groups m"], Float[Array, "groups m"]]:
    """Losses before and after each group of examples climbs along its own gradient.

    One group after another, so that there is one copy of perturbed weights at a time. The
    losses after are NaN where the gradient isn't finite.
    """
    loss = measured.loss(fixed)
    size = jax.tree.leaves(groups)[0].shape[1]
    mean = jnp.full((size,), 1 / size, jnp.result_type(float))

    def climb(rows: PyTree) -> tuple[Array, Array]:
        rows = renewed(rows)
        clean, _, gradient = _forward.weighted(loss, free, rows, mean)
        direction, _ = scaled(gradient)
        epsilon = to_length(direction, norm(direction), rho)
        higher = [x + e for x, e in zip(free, epsilon, strict=True)]
        losses = _forward.forward(loss, higher, rows)[0]
        return clean, jnp.where(all_finite(gradient), losses, jnp.nan)

    return jax.lax.map(climb, groups)


def along(
    measured: Measured,
    free: Leaves,
    fixed: Leaves,
    batch: PyTree,
    directions: list[Leaves],
    points: Float[Array, "points directions"],
) -> Float[Array, " points"]:
    """The sum of the losses at each point, one point after another."""
    loss = measured.loss(fixed)

    def at(point: Float[Array, " directions"]) -> Float[Array, ""]:
        moved = [_moved(x, ds, point) for x, *ds in zip(free, *directions, strict=True)]
        losses = _forward.forward(loss, moved, batch)[0]
        return jnp.sum(losses, dtype=jnp.result_type(float))

    return jax.lax.map(at, points)


def scaled(leaves: Leaves) -> tuple[Leaves, Float[Array, ""]]:
    """Divided by the largest modulus, and that: squares of small numbers would vanish."""
    most = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in leaves]))
    by = jnp.where(can_divide(most), most, jnp.ones_like(most))
    return [x / by.astype(x.dtype) for x in leaves], by


def _moved(x: Array, directions: list[Array], point: Float[Array, " directions"]) -> Array:
    for i, direction in enumerate(directions):
        x = x + point[i].astype(x.dtype) * direction
    return x
