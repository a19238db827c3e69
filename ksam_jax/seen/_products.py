"""Products and gathers: where rows of one operand meet those of another."""

from collections.abc import Sequence
from typing import Any

from ._value import (
    IN_ORDER,
    MOVED,
    ONE_ROW,
    OTHERS,
    PAIRS,
    STATISTIC,
    TOTAL,
    TOTALS,
    Rows,
    Value,
    unknown,
)


def product(operands: Sequence[Value], eqn: Any, n: int) -> Value:
    """Of `dot_general`.

    Rows that are free in both operands make a table of pairs. Summed over in both they make
    a covariance; that is told where it has become a number.
    """
    del n
    (contracted, batched) = eqn.params["dimension_numbers"]
    ranks = [len(x.aval.shape) for x in eqn.invars]
    found = unknown(operands)
    places = [
        _place(value, side, contracted, batched, ranks)
        for side, value in enumerate(operands)
    ]
    left, right = places
    rank = len(eqn.outvars[0].aval.shape)
    kept = [place for place in places if isinstance(place, int)]
    if left is not None and right is not None:
        if left == right == "summed":
            return found._replace(made=STATISTIC if rank else TOTAL)
        if left != right:
            return found.saying(PAIRS)
        orders = {x.rows.order for x in operands if x.rows is not None}
        if len(orders) > 1:
            return found.saying(OTHERS)
    made = {x.made for x in operands}
    if not kept:
        return found._replace(made=_summed("summed" in places, made, rank))
    found = _told_of(found, made)
    rows = next(x.rows for x in operands if x.rows is not None)
    return found._replace(rows=Rows(kept[0], rows.order))


def _told_of(found: Value, made: set[str | None]) -> Value:
    """With what is told of rows times what is made of these."""
    if STATISTIC in made:
        # BatchNorm scales features by them one by one: it makes no products of them.
        found = found.saying(TOTALS)
    return found.saying(OTHERS) if ONE_ROW in made else found


def _summed(is_over_rows: bool, made: set[str | None], rank: int) -> str | None:
    """Of a product without rows: what it is made of."""
    if is_over_rows or STATISTIC in made:
        return STATISTIC if rank else TOTAL
    return ONE_ROW if ONE_ROW in made else None


def _place(
    value: Value, side: int, contracted: Any, batched: Any, ranks: list[int]
) -> int | str | None:
    """The axis of the result along which the rows lie; "summed", or None without any."""
    if value.rows is None:
        return None
    axis = value.rows.axis
    if axis in contracted[side]:
        return "summed"
    if axis in batched[side]:
        return list(batched[side]).index(axis)
    taken = set(contracted[side]) | set(batched[side])
    before = [i for i in range(axis) if i not in taken]
    shared = len(batched[side])
    left_free = ranks[0] - len(contracted[0]) - shared
    return shared + len(before) + (left_free if side else 0)


def convolution(operands: Sequence[Value], eqn: Any, n: int) -> Value:
    """Of `conv_general_dilated`: rows stay rows if they lie along its batch axis."""
    del n
    image, found = operands[0], unknown(operands)
    numbers = eqn.params["dimension_numbers"]
    is_plain = eqn.params["batch_group_count"] == 1
    if image.rows is None or not is_plain or image.rows.axis != numbers.lhs_spec[0]:
        return found
    return found._replace(rows=Rows(int(numbers.out_spec[0]), image.rows.order))


def gathered(operands: Sequence[Value], eqn: Any, n: int) -> Value:
    """Of `gather`: rows by the row's own number stay, by others they are moved."""
    table, indices, found = *operands[:2], unknown(operands)
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    rank = len(eqn.outvars[0].aval.shape)
    outer = [i for i in range(rank) if i not in numbers.offset_dims]
    by_index = None
    if indices.rows is not None and indices.rows.axis < len(outer):
        by_index = Rows(outer[indices.rows.axis], indices.rows.order)
    if table.rows is None:
        # A row's part of a statistic, such as how many there are of its class.
        is_looked_up = by_index is not None and table.made == STATISTIC
        found = found.saying(TOTALS) if is_looked_up else found
        return found._replace(rows=by_index)
    axis, shape = table.rows.axis, eqn.invars[0].aval.shape
    if axis in numbers.operand_batching_dims:
        j = list(numbers.operand_batching_dims).index(axis)
        place = outer[numbers.start_indices_batching_dims[j]]
        return found._replace(rows=Rows(place, table.rows.order))
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    if sizes[axis] == shape[axis] and axis not in gone:
        kept = [i for i in range(len(shape)) if i not in gone]
        place = int(numbers.offset_dims[kept.index(axis)])
        if by_index is None:
            return found._replace(rows=Rows(place, table.rows.order))
        return found.saying(PAIRS) if by_index.axis != place else found
    return _picked(table, indices, found, axis, outer, numbers, rank, shape[axis] == n)


def _picked(
    table: Value,
    indices: Value,
    found: Value,
    axis: int,
    outer: list[int],
    numbers: Any,
    rank: int,
    is_plain: bool,
) -> Value:
    """Rows by number."""
    assert table.rows is not None
    place = list(numbers.start_index_map).index(axis)
    counts = indices.counts
    if counts is not None and place in counts.places and counts.axis < len(outer):
        return found._replace(rows=Rows(outer[counts.axis], table.rows.order))
    if rank == 0:
        return found._replace(made=TOTAL if is_plain else None)
    if len(outer) != 1 or not is_plain or table.rows.order != IN_ORDER:
        return found
    return found._replace(rows=Rows(outer[0], MOVED))
