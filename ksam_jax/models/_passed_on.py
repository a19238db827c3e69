"""Which results of a trace are arguments of it, handed on as they are."""

from typing import Any

from jax.extend.core import Jaxpr, Literal

from ..nodes._programs import ClosedJaxpr
from ..seen._control import bounds

# Equations that run a program on all of their operands, in order.
_CALLS = ("jaxpr", "call_jaxpr")


def passed_on(jaxpr: Jaxpr) -> list[int | None]:
    """For each result the number of the argument that it is; None if it is another value.

    Calls and recomputed parts hand on what they don't touch, and so does a loop over
    stacked layers.
    """
    origin: dict[Any, int] = {var: i for i, var in enumerate(jaxpr.invars)}
    for eqn in jaxpr.eqns:
        for out, i in zip(eqn.outvars, _of_equation(eqn), strict=True):
            source = None if i is None else eqn.invars[i]
            if source is not None and not isinstance(source, Literal) and source in origin:
                origin[out] = origin[source]
    return [None if isinstance(x, Literal) else origin.get(x) for x in jaxpr.outvars]


def _of_equation(eqn: Any) -> list[int | None]:
    nothing: list[int | None] = [None] * len(eqn.outvars)
    inner = next((eqn.params[name] for name in _CALLS if name in eqn.params), None)
    program = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
    if not isinstance(program, Jaxpr) or len(program.invars) != len(eqn.invars):
        return nothing
    found = passed_on(program)
    if len(found) != len(nothing):
        return nothing
    return found if eqn.primitive.name != "scan" else _of_loop(eqn, found)


def _of_loop(eqn: Any, found: list[int | None]) -> list[int | None]:
    """What a loop leaves as it is: a carry in its own place, a stack slice by slice."""
    first, last = bounds(eqn)
    carried = last - first

    def stays(out: int, i: int | None) -> bool:
        if i is None:
            return False
        return i == first + out if out < carried else i >= last

    return [i if stays(out, i) else None for out, i in enumerate(found)]
