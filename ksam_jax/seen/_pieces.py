"""Pieces of rows, and rows put together: slices, concatenation, sorting."""

from collections.abc import Sequence
from typing import Any

from ._shapes import moved
from ._value import (
    IN_ORDER,
    MIXED,
    MOVED,
    ONE_ROW,
    TILED,
    TOTAL,
    Counts,
    Rows,
    Value,
    met,
    unknown,
)


def sliced(value: Value, eqn: Any, n: int) -> Value:
    """Of `slice`."""
    strides = eqn.params["strides"] or (1,) * len(eqn.params["start_indices"])
    bounds = zip(
        eqn.params["start_indices"], eqn.params["limit_indices"], strides, strict=True
    )
    return _cut(value, list(bounds), eqn.invars[0].aval.shape, n)


def split(value: Value, eqn: Any, n: int) -> list[Value]:
    """Of `split`, one for each piece."""
    shape, axis, start = eqn.invars[0].aval.shape, eqn.params["axis"], 0
    found = []
    for size in eqn.params["sizes"]:
        bounds = [(0, length, 1) for length in shape]
        bounds[axis] = (start, start + size, 1)
        found.append(_cut(value, bounds, shape, n))
        start += size
    return found


def _cut(value: Value, bounds: list, shape: tuple[int, ...], n: int) -> Value:
    value = value._replace(counts=None)
    rows = value.rows
    if rows is None or bounds[rows.axis] == (0, shape[rows.axis], 1):
        return value
    start, stop, stride = bounds[rows.axis]
    order: Any = None
    if rows.order == TILED and start % n == 0 and stop - start == n and stride == 1:
        order = IN_ORDER
    elif rows.order == IN_ORDER and shape[rows.axis] == n:
        order = ("part", start, stop, stride)
    elif rows.order == MOVED:
        order = MOVED
    return value._replace(rows=order and Rows(rows.axis, order))


def concatenated(operands: Sequence[Value], eqn: Any, n: int) -> Value:
    """Of `concatenate`: features side by side, or rows below rows."""
    axis, shapes = int(eqn.params["dimension"]), [x.aval.shape for x in eqn.invars]
    if not any(x.rows is not None and x.rows.axis == axis for x in operands):
        # They lie side by side and don't meet.
        found = met(operands, is_draw_between=False)
        if len(operands) > 1 and found.made in (ONE_ROW, TOTAL):
            # They may be all rows, one by one, out of a loop.
            found = found._replace(made=None)
        return found._replace(counts=_counts(operands, axis, shapes))
    found = unknown(operands)
    if any(x.rows is not None and x.rows.axis != axis for x in operands):
        return found
    orders = [x.rows.order if x.rows is not None else None for x in operands]
    sizes = [shape[axis] for shape in shapes]
    return found._replace(rows=Rows(axis, _below(orders, sizes, n)))


def stacked(operands: Sequence[Value], eqn: Any, n: int) -> Value:
    """Of `stack`: side by side along an axis that is new."""
    del n
    axis, rank = int(eqn.params["axis"]), len(eqn.invars[0].aval.shape)
    to = {i: i + (i >= axis) for i in range(rank)}
    found = met([moved(x, to) for x in operands], is_draw_between=False)
    if found.made in (ONE_ROW, TOTAL):
        found = found._replace(made=None)
    return found._replace(counts=None)


def unstacked(value: Value, eqn: Any, n: int) -> list[Value]:
    """Of `unstack`: a slice for each place along an axis, which is gone."""
    del n
    axis, shape = int(eqn.params["axis"]), eqn.invars[0].aval.shape
    found = moved(value, {i: i - (i > axis) for i in range(len(shape)) if i != axis})
    if value.rows is not None and value.rows.axis == axis:
        # As of one row that is squeezed out of many.
        of_arrays = ONE_ROW if value.learns else None
        found = found._replace(made=of_arrays if len(shape) > 1 else TOTAL)
    return [found._replace(counts=None)] * shape[axis]


def _below(orders: list, sizes: list[int], n: int) -> tuple:
    if all(order in (IN_ORDER, TILED) for order in orders):
        is_whole = all(size % n == 0 for size in sizes)
        if len(orders) == 1:
            return orders[0]
        repeats = all(
            size == n or o == TILED for size, o in zip(sizes, orders, strict=True)
        )
        return TILED if is_whole and repeats else MIXED
    if not all(order and order[0] == "part" for order in orders):
        return MIXED
    starts = [order[1] for order in orders]
    stops = [order[2] for order in orders]
    one_by_one = all(order[3] == 1 for order in orders)
    if one_by_one and starts == [0, *stops[:-1]] and stops[-1] == n:
        return IN_ORDER
    return MOVED


def _counts(operands: Sequence[Value], axis: int, shapes: list) -> Counts | None:
    """Where the row's number is in vectors of indices that were put together."""
    found = None
    place = 0
    for value, shape in zip(operands, shapes, strict=True):
        if value.counts is not None and axis == len(shape) - 1 and shape[axis] == 1:
            places = frozenset({place}) | (found.places if found else frozenset())
            found = Counts(value.counts.axis, places)
        place += shape[axis]
    return found


def sorted_along(operands: Sequence[Value], eqn: Any, n: int) -> list[Value]:
    """Of `sort`: along rows, each place has another row's."""
    axis, shape = int(eqn.params["dimension"]), eqn.invars[0].aval.shape
    together = unknown(operands)
    places = {x.rows for x in operands if x.rows is not None}
    if len(places) != 1:
        return [together for _ in eqn.outvars]
    (rows,) = places
    if rows.axis == axis:
        rows = Rows(axis, MOVED) if shape[axis] == n else None
    return [together._replace(rows=rows) for _ in eqn.outvars]


def top(operands: Sequence[Value], eqn: Any, n: int) -> list[Value]:
    """Of `top_k`, along the last axis."""
    (value,), last = operands[:1], len(eqn.invars[0].aval.shape) - 1
    rows = value.rows
    if rows is not None and rows.axis == last:
        rows = Rows(last, MOVED) if eqn.invars[0].aval.shape[last] == n else None
    return [unknown(operands)._replace(rows=rows) for _ in eqn.outvars]


def sliced_anywhere(operands: Sequence[Value], eqn: Any, n: int) -> Value:
    """Of `dynamic_slice`: as before along axes that are taken whole."""
    del n
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    whole = {i: i for i in range(len(after)) if before[i] == after[i]}
    rest = unknown(operands[1:])
    return _also(moved(operands[0], whole)._replace(counts=None), rest)


def updated(operands: Sequence[Value], eqn: Any, n: int) -> Value:
    """Of `dynamic_update_slice`: rows of both where the axis is written whole."""
    del n
    before, piece = (x.aval.shape for x in eqn.invars[:2])
    whole = {i: i for i in range(len(before)) if before[i] == piece[i]}
    both = [moved(x, whole)._replace(counts=None) for x in operands[:2]]
    return _also(met(both, is_draw_between=False), unknown(operands[2:]))


def _also(value: Value, other: Value) -> Value:
    """The value, which depends on another as well."""
    return value._replace(
        depends=value.depends or other.depends,
        learns=value.learns or other.learns,
        varies=value.varies or other.varies,
        told=value.told | other.told,
    )
