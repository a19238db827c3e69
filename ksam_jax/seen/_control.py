"""Equations that run programs: calls, loops and branches."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import Jaxpr

from ..nodes._programs import ClosedJaxpr
from ._shapes import moved
from ._value import IN_ORDER, Rows, Value, alternatives, unknown

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "remat": "jaxpr",
}
# A loop's values are known after as many rounds: each can only lose what was known.
_ROUNDS = 4

Rule = Callable[[Any, Any, Sequence[Value], dict[str, bool]], list[Value]]


def inner_of(eqn: Any) -> Rule | None:
    """How to read an equation that runs programs that can be looked into; else None."""
    name = eqn.primitive.name
    if name in _CALLS and isinstance(_program(eqn), Jaxpr | ClosedJaxpr):
        return _call
    return {"scan": _scan, "while": _while, "cond": _cond}.get(name)


def _program(eqn: Any) -> Any:
    return eqn.params.get(_CALLS[eqn.primitive.name])


def _run(reader: Any, program: Any, given: Sequence[Value], how: dict) -> list[Value]:
    if isinstance(program, ClosedJaxpr):
        return reader.program(program, given, **how)
    return reader.run(program, given, **how)


def _call(reader: Any, eqn: Any, operands: Sequence[Value], how: dict) -> list[Value]:
    return _run(reader, _program(eqn), operands, how)


def _cond(reader: Any, eqn: Any, operands: Sequence[Value], how: dict) -> list[Value]:
    index, given = operands[0], operands[1:]
    branches = [_run(reader, each, given, how) for each in eqn.params["branches"]]
    found = [alternatives(results) for results in zip(*branches, strict=True)]
    if not index.depends:
        return found
    # Which of them depends on the batch: where the rows are, but no more.
    return [x._replace(depends=True, told=x.told | index.told) for x in found]


def _while(reader: Any, eqn: Any, operands: Sequence[Value], how: dict) -> list[Value]:
    skip = eqn.params["cond_nconsts"]
    last = skip + eqn.params["body_nconsts"]
    consts, carry = operands[skip:last], list(operands[last:])

    def body(carry: list[Value]) -> tuple[list[Value], list[Value]]:
        return _run(reader, eqn.params["body_jaxpr"], [*consts, *carry], how), []

    return _settled(body, carry)[0]


def _scan(reader: Any, eqn: Any, operands: Sequence[Value], how: dict) -> list[Value]:
    first, last = bounds(eqn)
    consts, carry, over = operands[:first], list(operands[first:last]), operands[last:]
    one = [_one_of(x) for x in over]

    def body(carry: list[Value]) -> tuple[list[Value], list[Value]]:
        found = _run(reader, eqn.params["jaxpr"], [*consts, *carry, *one], how)
        return found[: len(carry)], found[len(carry) :]

    after, stacked = _settled(body, carry)
    row_by_row = any(x.rows == Rows(0, IN_ORDER) for x in over)
    is_alone = row_by_row and not any(x.depends for x in after)
    return [*after, *(_stacked(x, is_alone) for x in stacked)]


def bounds(eqn: Any) -> tuple[int, int]:
    """Where the operands' constants end and where the carry does, told by their ranks."""
    program = eqn.params["jaxpr"]
    inner = program.jaxpr if isinstance(program, ClosedJaxpr) else program

    def sliced(outer: Sequence[Any], inner: Sequence[Any]) -> int:
        pairs = zip(outer, inner, strict=True)
        return sum(len(x.aval.shape) != len(y.aval.shape) for x, y in pairs)

    last = len(eqn.invars) - sliced(eqn.invars, inner.invars)
    carried = len(eqn.outvars) - sliced(eqn.outvars, inner.outvars)
    return last - carried, last


def _settled(
    body: Callable[[list[Value]], tuple[list[Value], list[Value]]], carry: list[Value]
) -> tuple[list[Value], list[Value]]:
    """What is known of a loop's values in whichever round."""
    out: list[Value] = []
    for _ in range(_ROUNDS):
        after, out = body(carry)
        joined = [alternatives(pair) for pair in zip(carry, after, strict=True)]
        if joined == carry:
            return carry, out
        carry = joined
    everything = unknown([*carry, *out])
    return [everything] * len(carry), [everything] * len(out)


def _one_of(value: Value) -> Value:
    """One slice along the first axis; a loop over rows has one row at a time."""
    axes = range(1, _known_axes(value))
    return moved(value, {i: i - 1 for i in axes})._replace(counts=None)


def _stacked(value: Value, is_row_by_row: bool) -> Value:
    if value.rows is None and is_row_by_row and value.depends:
        return value._replace(rows=Rows(0, IN_ORDER), made=None)
    axes = range(_known_axes(value))
    return moved(value, {i: i + 1 for i in axes})._replace(counts=None)


def _known_axes(value: Value) -> int:
    """How many axes it has at least, as far as something is known of them."""
    rows = [value.rows.axis] if value.rows else []
    return 1 + max([0, *rows, *(value.draw.axes if value.draw else ())])
