"""Where the rows are after axes were moved, added, split, joined or summed over."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from ._value import (
    EXTREME,
    IN_ORDER,
    MOVED,
    ONE_ROW,
    STATISTIC,
    TILED,
    TOTAL,
    Counts,
    Draw,
    Rows,
    Value,
)

Shape = tuple[int, ...]


def moved(value: Value, to: dict[int, int]) -> Value:
    """After axis `i` has become axis `to[i]`; those that aren't in `to` are gone."""
    rows, counts, draw = value.rows, value.counts, value.draw
    if rows is not None:
        rows = Rows(to[rows.axis], rows.order) if rows.axis in to else None
    if counts is not None:
        counts = counts._replace(axis=to[counts.axis]) if counts.axis in to else None
    if draw is not None:
        draw = Draw(draw.kind, frozenset(to[i] for i in draw.axes if i in to))
    return value._replace(rows=rows, counts=counts, draw=draw)


def broadcast(value: Value, eqn: Any, n: int) -> Value:
    """Of `broadcast_in_dim`; an axis of length one that grows has no rows in it."""
    del n
    (before, after), to = _shapes(eqn), eqn.params["broadcast_dimensions"]
    kept = {i: int(j) for i, j in enumerate(to) if before[i] == after[j]}
    return moved(value, kept)


def transposed(value: Value, eqn: Any, n: int) -> Value:
    """Of `transpose`."""
    del n
    order = eqn.params["permutation"]
    return moved(value, {int(source): i for i, source in enumerate(order)})


def squeezed(value: Value, eqn: Any, n: int) -> Value:
    """Of `squeeze`: one row alone, out of many.

    A number of one row is as a total. Of data, such as a mask or a grid, that are the same
    in all rows the first is often taken: only what was made by the weights counts.
    """
    del n
    before, after = _shapes(eqn)
    gone = {i % len(before) for i in eqn.params["dimensions"]}
    left = [i for i in range(len(before)) if i not in gone]
    found = moved(value, {source: i for i, source in enumerate(left)})
    if value.rows is None or value.rows.axis not in gone:
        return found
    of_arrays = ONE_ROW if value.learns else None
    return found._replace(made=of_arrays if after else TOTAL)


def reshaped(value: Value, eqn: Any, n: int) -> Value:
    """Of `reshape`: rows stay known as long as each is in one piece."""
    before, after = _shapes(eqn)
    found = value._replace(rows=_reshaped_rows(value.rows, before, after, n), counts=None)
    if value.draw is not None:
        found = found._replace(draw=Draw(value.draw.kind, frozenset(range(len(after)))))
    if (
        value.counts is not None
        and after[: value.counts.axis + 1] == (before[: value.counts.axis + 1])
    ):
        found = found._replace(counts=Counts(value.counts.axis, frozenset({0})))
    return found


def _reshaped_rows(rows: Rows | None, before: Shape, after: Shape, n: int) -> Rows | None:
    if rows is None:
        return None
    length, above = before[rows.axis], math.prod(before[: rows.axis])
    for axis, size in enumerate(after):
        here = math.prod(after[:axis])
        if here == above and size == length:
            return Rows(axis, rows.order)
        if rows.order == IN_ORDER and here == above and size % n == 0:
            return Rows(axis, IN_ORDER)
        if rows.order == TILED and here == above * (length // n) and size % n == 0:
            return Rows(axis, IN_ORDER)
    return None


EXTREMES = ("reduce_max", "reduce_min", "pmax", "pmin")
SUMS = ("reduce_sum", "reduce_prod", "psum", "psum_invariant", "psum2")


def reduced(value: Value, eqn: Any, n: int) -> Value:
    """Of sums, products, maxima and the like over axes.

    A number that is summed over all rows is a total of them. With axes left, of features,
    it may be a statistic of BatchNorm: what is told is where that becomes a number, too.
    Of a maximum, which softmax subtracts, nothing is said, as it falls out again.
    """
    del n
    before, after = _shapes(eqn)
    found = over_axes(value, eqn.primitive.name, eqn.params["axes"], len(before))
    is_sum = found.made == STATISTIC and len(after) > 0 and value.rows is not None
    return found._replace(sum_of=eqn.invars[0] if is_sum else None)


def over_axes(value: Value, name: str, axes: Sequence[Any], rank: int) -> Value:
    """As `reduced`, of one operand: names among the axes are of devices."""
    gone = {int(axis) for axis in axes if isinstance(axis, Integral)}
    left = [i for i in range(rank) if i not in gone]
    over_rows = value.rows is not None and value.rows.axis in gone
    found = moved(value, {source: i for i, source in enumerate(left)})
    made = STATISTIC if over_rows else value.made
    if name in EXTREMES:
        made = EXTREME if made in (STATISTIC, TOTAL) else made
    elif name not in SUMS:
        made = None
    elif made == STATISTIC and not left:
        made = TOTAL
    return found._replace(made=made, counts=None)


def windowed(value: Value, eqn: Any, n: int) -> Value:
    """Of pooling: as before along axes whose window is one."""
    del n
    window = eqn.params["window_dimensions"]
    return moved(value, {i: i for i, size in enumerate(window) if size == 1})


def padded(value: Value, eqn: Any, n: int) -> Value:
    """Of `pad`: as before along axes that aren't."""
    del n
    (before, *_), after = [x.aval.shape for x in eqn.invars], eqn.outvars[0].aval.shape
    return moved(value, {i: i for i in range(len(after)) if before[i] == after[i]})


def scanned_along(value: Value, eqn: Any, n: int) -> Value:
    """Of cumulative sums: along rows each has in it what the rows before it have."""
    rows, axis = value.rows, int(eqn.params["axis"])
    found = value._replace(counts=None)
    if rows is None or rows.axis != axis:
        return found
    is_plain = eqn.invars[0].aval.shape[axis] == n
    return found._replace(rows=Rows(axis, MOVED) if is_plain else None)


def reversed_along(value: Value, eqn: Any, n: int) -> Value:
    """Of `rev`: another row in each place."""
    del n
    rows = value.rows
    if rows is None or rows.axis not in eqn.params["dimensions"]:
        return value._replace(counts=None)
    return value._replace(rows=Rows(rows.axis, MOVED), counts=None)


def _shapes(eqn: Any) -> tuple[Shape, Shape]:
    return eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
