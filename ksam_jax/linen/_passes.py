"""How a Linen model runs a row, or a whole batch, and what it writes in a pass."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen
from jaxtyping import Array, PyTree

from ..models._forms import Passes, axes_with
from ..models._keys import of_device, typed
from ..models._meeting import Meeting, is_traced, meeting, of_two_rows
from ..models._passed_on import passed_on
from ..nodes._with_rows import with_rows

# (apply, batch) -> losses and aux.
Run = Callable[[Any, PyTree], tuple[Array, Any]]


class Look(NamedTuple):
    """What was seen of a pass.

    Attributes:
      meeting: of the rows.
      written: for each leaf of the state's variables whether a pass writes it.
      only_norms: whether these are the statistics of `linen.BatchNorm` alone.
    """

    meeting: Meeting
    written: tuple[bool, ...]
    only_norms: bool


def bound(
    state: Any, params: PyTree, keys: Any, norms: set[Any], axis_name: Any = None
) -> tuple[Callable[..., Any], list[PyTree]]:
    """The model, to be called with inputs alone, and where its last variables are.

    The paths of BatchNorm's layers are put into `norms`.
    """
    after = [state.variables]

    def apply(*args: Any, **kwargs: Any) -> Any:
        variables = {"params": params, **after[0]}
        if keys is not None:
            rngs = dict(zip(state.streams, keys, strict=True))
            kwargs["rngs"] = rngs | (kwargs.get("rngs") or {})
        with linen.intercept_methods(_on_norms(norms, axis_name)):
            if not after[0]:
                return state.apply_fn(variables, *args, **kwargs)
            names = list(after[0])
            out, found = state.apply_fn(variables, *args, mutable=names, **kwargs)
        # Collections that a pass doesn't touch may be left out of what it gives.
        after[0] = {name: found.get(name, old) for name, old in after[0].items()}
        return out

    return apply, after


def _on_norms(norms: set[Any], axis_name: Any) -> Callable[..., Any]:
    def interceptor(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if isinstance(module, linen.BatchNorm) and context.method_name == "__call__":
            norms.add(module.path)
            if axis_name is not None:
                # It is frozen, and as new as this pass, which alone has it.
                axes = axes_with(module.axis_name, axis_name)
                object.__setattr__(module, "axis_name", axes)
        return call(*args, **kwargs)

    return interceptor


def passes_of(state: Any, run: Run, seen: Look) -> Passes:
    """Both; what they say was written are the leaves that are, in order."""

    def written(variables: PyTree) -> tuple[Any, ...]:
        pairs = zip(jax.tree.leaves(variables), seen.written, strict=True)
        return tuple(leaf for leaf, is_written in pairs if is_written)

    def row(params: PyTree, example: PyTree, keys: Any, axis_name: str | None) -> Any:
        keys = keys if state.key is not None else None
        apply, after = bound(state, params, keys, set(), axis_name)
        out = run(apply, with_rows(lambda x: x[None], example, before=0))
        loss, aux = jax.tree.map(lambda x: x[0], out)
        return loss, aux, written(after[0])

    def whole(params: PyTree, batch: PyTree) -> Any:
        apply, after = bound(state, params, step_keys(state, batch), set())
        losses, aux = run(apply, batch)
        return losses, aux, written(after[0])

    return Passes(row, whole)


def step_keys(state: Any, batch: PyTree) -> tuple[Array, ...] | None:
    """A key for each of the streams, others in each step and on each device."""
    if state.key is None:
        return None
    key = of_device(jax.random.fold_in(typed(state.key), state.step), batch)
    return tuple(jax.random.fold_in(key, i) for i in range(len(state.streams)))


def look(state: Any, run: Run, batch: PyTree) -> Look:
    """Traces one pass over the batch and says what it does; nothing is computed."""
    batch = of_two_rows(batch)
    norms: set[Any] = set()

    def losses_of_a_trace(params: PyTree, variables: PyTree, batch: PyTree) -> Any:
        here = state.replace(variables=variables)
        apply, after = bound(here, params, step_keys(here, batch), norms)
        return run(apply, batch), after[0]

    args = state.params, state.variables, batch
    closed, (out, _) = jax.make_jaxpr(losses_of_a_trace, return_shape=True)(*args)
    results, first = len(jax.tree.leaves(out)), len(jax.tree.leaves(state.params))
    origins = passed_on(closed.jaxpr)[results:]
    written = tuple(origin != first + i for i, origin in enumerate(origins))
    paths = [path for path, _ in jax.tree.leaves_with_path(state.variables)]
    owners = [_owner(path) for path, is_it in zip(paths, written, strict=True) if is_it]
    seen = meeting(closed, args[:2], batch, results, is_traced(*args))
    return Look(seen, written, all(owner in norms for owner in owners))


def _owner(path: Any) -> tuple[str, ...]:
    """The path of the layer that a variable is of."""
    return tuple(str(entry.key) for entry in path[1:-1])
