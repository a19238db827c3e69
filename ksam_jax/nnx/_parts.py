"""A model in parts: what is trained, what isn't, and the streams that it draws from."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PyTree

from ..models._keys import is_spread, keys_of_rows, of_device

Path = tuple[Any, ...]

# Streams move on by their counts; what was sown is of the copy that it was sown in.
_KEPT = nnx.Not(nnx.Any(nnx.RngKey, nnx.Intermediate))


class Parts(NamedTuple):
    """A model, split.

    Attributes:
      graphdef: what it is made of, without an array.
      params: the arrays that the optimizer's `wrt` trains.
      rest: all others: statistics, frozen weights, random keys and their counts.
    """

    graphdef: Any
    params: PyTree
    rest: PyTree


def parts_of(model: Any, wrt: Any) -> Parts:
    """The parts of a model, in which a shared Variable is one."""
    graphdef, params, rest = nnx.split(model, wrt, ...)
    return Parts(graphdef, nnx.as_pure(params), nnx.as_pure(rest))


def copy_of(parts: Parts, params: PyTree, rest: PyTree | None = None) -> Any:
    """A model of its own for a pass: it may write what it likes."""
    rest = parts.rest if rest is None else rest
    # Without the copy NNX would share Variables between traces, and refuses.
    return nnx.merge(parts.graphdef, params, rest, copy=True)


def values_of(model: Any) -> dict[Path, Any]:
    """The arrays of a model that a step may have to put back, by their paths."""
    flat = nnx.to_flat_state(nnx.state(model, _KEPT))
    return {path: variable.get_value() for path, variable in flat}


def put_into(model: Any, values: dict[Path, Any]) -> None:
    """Writes arrays into the Variables at these paths."""
    if values:
        nnx.update(model, nnx.from_flat_state(list(values.items())))


def numbered(state: PyTree, first: int = 0) -> dict[Path, int]:
    """The numbers of a state's arrays among the leaves that JAX sees, by their paths."""
    leaves, treedef = jax.tree.flatten(state)
    numbers = treedef.unflatten(range(first, first + len(leaves)))
    return dict(nnx.to_flat_state(numbers))


def streams_of(model: Any) -> dict[Path, Any]:
    """The model's own random streams by their paths."""
    return {path: x for path, x in nnx.iter_graph(model) if isinstance(x, nnx.RngStream)}


def norms_of(model: Any) -> dict[Path, Any]:
    """Its layers of BatchNorm by their paths."""
    return {path: x for path, x in nnx.iter_graph(model) if isinstance(x, nnx.BatchNorm)}


def keys_of_examples(model: Any, drawn: Iterable[Path], batch: PyTree) -> tuple[Array, ...]:
    """For each stream that is drawn from a key of each example, along the first axis.

    They come from the key that the stream would give next: other ones in each step, since
    its count moves on.
    """
    streams = streams_of(model)
    found = [streams[path] for path in drawn]
    keys = [_next(stream.key[...], stream.count[...]) for stream in found]
    return tuple(keys_of_rows(of_device(key, batch), batch) for key in keys)


def _next(key: Array, count: Array) -> Array:
    """What a stream gives next, or each of those of stacked layers."""
    fold_in = jax.random.fold_in
    for _ in range(key.ndim):
        fold_in = jax.vmap(fold_in)
    return fold_in(key, count)


def draw_apart(model: Any, batch: PyTree) -> None:
    """Lets a copy draw what no other device draws, where the batch is spread over some."""
    for stream in streams_of(model).values() if is_spread(batch) else ():
        stream.key.set_value(of_device(stream.key[...], batch))


def draw_from(model: Any, drawn: Iterable[Path], keys: Iterable[Array]) -> None:
    """Lets the model's streams draw from other keys, from their beginnings."""
    streams = streams_of(model)
    for path, key in zip(drawn, keys, strict=True):
        streams[path].key.set_value(key)
        streams[path].count.set_value(jnp.zeros(key.shape, jnp.uint32))
