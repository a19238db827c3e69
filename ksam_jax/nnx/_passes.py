"""How a copy of a model runs a row, or a whole batch."""

from typing import Any

import jax
from jaxtyping import PyTree

from ..models._forms import Passes, axes_with
from ..nodes._with_rows import with_rows
from ._look import Look, Run
from ._parts import Parts, copy_of, draw_from, norms_of, values_of


def passes_of(parts: Parts, run: Run, seen: Look) -> Passes:
    """Both; what they say was written is in the order of `seen.written`."""

    def row(params: PyTree, example: PyTree, keys: Any, axis_name: str | None) -> Any:
        copy = copy_of(parts, params)
        draw_from(copy, seen.drawn, keys)
        if axis_name is not None:
            for norm in norms_of(copy).values():
                norm.axis_name = axes_with(norm.axis_name, axis_name)
        out = run(copy, with_rows(lambda x: x[None], example, before=0))
        loss, aux = jax.tree.map(lambda x: x[0], out)
        values = values_of(copy)
        return loss, aux, tuple(values[path] for path in seen.written)

    def whole(params: PyTree, batch: PyTree) -> Any:
        (losses, aux), values = seen.whole(params, parts.rest, batch)
        return losses, aux, tuple(values[path] for path in seen.written)

    return Passes(row, whole)
