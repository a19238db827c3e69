"""What a model does in a pass, seen in a trace: what it writes, draws and lets meet."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PyTree

from ..models._meeting import Meeting, is_traced, meeting, of_two_rows
from ..models._passed_on import passed_on
from ._parts import (
    Parts,
    Path,
    copy_of,
    draw_apart,
    norms_of,
    numbered,
    streams_of,
    values_of,
)

# (model, batch) -> losses and aux.
Run = Callable[[Any, PyTree], tuple[Array, Any]]


class Look(NamedTuple):
    """What was seen.

    Attributes:
      whole: (params, rest, batch) -> what `run` gives, and what the model has written.
      meeting: of the rows.
      written: the Variables that a pass writes, and that depend on the batch then.
      only_norms: whether these are the statistics of `nnx.BatchNorm` alone.
      drawn: the streams that it draws from.
      counted: the Variables that it writes whatever the batch is, such as the streams'
        counts, as they are after a pass.
    """

    whole: Callable[..., tuple[Any, dict[Path, Array]]]
    meeting: Meeting
    written: tuple[Path, ...]
    only_norms: bool
    drawn: tuple[Path, ...]
    counted: Callable[[], dict[Path, Array]]


def look(parts: Parts, run: Run, batch: PyTree) -> Look:
    """Traces one pass over the batch and says what it does; nothing is computed."""
    batch = of_two_rows(batch)
    args = parts.params, parts.rest, batch
    touched: list[Path] = []
    traced = _whole_pass(parts, run, touched)

    def losses_of_a_trace(*args: Any) -> Any:
        return traced(*args)

    def whole(*args: Any) -> tuple[Any, dict[Path, Array]]:
        out, values = traced(*args)
        return out, dict(zip(touched, values, strict=True))

    closed, (out, _) = jax.make_jaxpr(losses_of_a_trace, return_shape=True)(*args)
    results, model = len(jax.tree.leaves(out)), copy_of(parts, parts.params)
    met = meeting(closed, args[:2], batch, results, is_traced(*args))
    changed = _changed(parts, touched, passed_on(closed.jaxpr)[results:])
    streams = {(*path, "count"): path for path in streams_of(model)}
    depends = dict(zip(touched, met.of_the_batch, strict=True))
    written = tuple(p for p in changed if depends[p] and p not in streams)
    others = tuple(p for p in changed if p not in written)
    norms = {(*path, name) for path in norms_of(model) for name in ("mean", "var")}

    def counted() -> dict[Path, Array]:
        # Compiled: of the pass nothing is left but what doesn't depend on the batch.
        values = jax.jit(lambda *args: [whole(*args)[1][path] for path in others])
        return dict(zip(others, values(*args), strict=True)) if others else {}

    return Look(
        whole,
        met,
        written,
        set(written) <= norms,
        tuple(streams[path] for path in others if path in streams),
        counted,
    )


def _whole_pass(parts: Parts, run: Run, touched: list[Path]) -> Callable[..., Any]:
    """The pass over a whole batch, which says in a list whose values it returns.

    It is traced once for all passes over as many rows: NNX takes time that grows with the
    square of what is traced to write statistics, minutes for three passes of a deep model.
    """

    @jax.jit
    def whole(params: PyTree, rest: PyTree, batch: PyTree) -> tuple[Any, list[Array]]:
        model = copy_of(parts, params, rest)
        draw_apart(model, batch)
        before = values_of(model)
        out = run(model, batch)
        after = values_of(model)
        touched[:] = [p for p, x in after.items() if p in before and x is not before[p]]
        return out, [after[path] for path in touched]

    return whole


def _changed(parts: Parts, touched: list[Path], origins: list[int | None]) -> list[Path]:
    """Whose values are others: some are arguments of the pass, as NNX writes back all."""
    trained = numbered(parts.params)
    numbers = trained | numbered(parts.rest, len(trained))
    return [p for p, i in zip(touched, origins, strict=True) if numbers[p] != i]
