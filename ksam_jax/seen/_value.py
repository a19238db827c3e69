"""What is known of one value of a traced loss, and what is made of several.

An interpreter runs the trace on these instead of numbers. Whatever it doesn't know it says
nothing about: a value that depends on the batch in an unknown way never leads to a warning.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

# Orders of rows along an axis. A part is ("part", start, stop, stride).
IN_ORDER = ("in order",)  # Each row once, or m times in a run: rows, or rows and tokens.
TILED = ("tiled",)  # All rows, and then all again.
MOVED = ("moved",)  # Others in their places.
MIXED = ("mixed",)  # Rows, and something else.

# What a value without rows may be made of. A statistic is as BatchNorm's: sums over rows,
# with axes of features left. An extreme is a largest or least row, as softmax subtracts.
TOTAL, STATISTIC, EXTREME, ONE_ROW = "total", "statistic", "extreme", "one row"

# What is told of a value.
PAIRS, TOTALS, OTHERS = "pairs", "totals", "others"
SHARED, FIXED, STATISTICS = "shared", "fixed", "statistics"
BY_COMPANY = "by company"


class Rows(NamedTuple):
    """The axis along which the examples lie, and in which order."""

    axis: int
    order: tuple


class Counts(NamedTuple):
    """A value that counts rows along an axis, at these places of its last axis."""

    axis: int
    places: frozenset[int]


class Draw(NamedTuple):
    """Random numbers that don't depend on the batch: why, and the axes they vary along."""

    kind: str
    axes: frozenset[int]


class Value(NamedTuple):
    """What is known of a value.

    Attributes:
      depends: whether it depends on the batch (on the example).
      rows: where the examples lie; None if that isn't known, or nowhere.
      made: a total if it is a number made of all rows, and so on; else None.
      sum_of: the variable whose sum over rows it is made of, if it is of one.
      counts: where it is the number of the row.
      learns: whether it depends on the parameters.
      varies: whether it may differ from step to step.
      draw: whether it is random and the same for whatever batch.
      told: what has been found about what it is made of.
    """

    depends: bool = False
    rows: Rows | None = None
    made: str | None = None
    sum_of: Any = None
    counts: Counts | None = None
    learns: bool = False
    varies: bool = False
    draw: Draw | None = None
    told: frozenset[str] = frozenset()

    def saying(self, *words: str) -> "Value":
        """With something more found."""
        return self._replace(told=self.told | set(words))


def unknown(operands: Iterable[Value]) -> Value:
    """Of a value that depends on these in some way: no more than that."""
    operands = tuple(operands)
    return Value(
        depends=any(x.depends for x in operands),
        learns=any(x.learns for x in operands),
        varies=any(x.varies for x in operands),
        told=frozenset().union(*(x.told for x in operands)),
    )


def met(operands: Sequence[Value], is_draw_between: bool = True) -> Value:
    """Of a value that has in each place what the operands have there."""
    found = unknown(operands)
    found = _with_rows(found, operands)
    if is_draw_between:
        found = _with_draws(found, operands)
    return found


def _with_rows(found: Value, operands: Sequence[Value]) -> Value:
    places = {x.rows for x in operands if x.rows is not None}
    made = {x.made for x in operands if x.depends}
    if not places:
        return found._replace(made=_made_of(made))
    # Rows meet statistics in BatchNorm, and extremes in softmax: that is not spoken of.
    if TOTAL in made:
        found = found.saying(TOTALS)
    if ONE_ROW in made:
        found = found.saying(OTHERS)
    if len(places) == 1:
        return found._replace(rows=places.pop())
    if len({rows.axis for rows in places}) > 1:
        return found.saying(PAIRS)
    orders = {rows.order for rows in places}
    return found if orders & {TILED, MIXED} else found.saying(OTHERS)


def _made_of(kinds: set[str | None]) -> str | None:
    """Of a value without rows, of what depends on the batch and is of these kinds."""
    if STATISTIC in kinds:
        return STATISTIC
    if TOTAL in kinds and kinds <= {TOTAL, EXTREME}:
        return TOTAL
    return kinds.pop() if len(kinds) == 1 else None


def _with_draws(found: Value, operands: Sequence[Value]) -> Value:
    """Tells of a draw that meets an example; with parameters it is noise on these."""
    draws = [x.draw for x in operands if x.draw is not None]
    if not draws:
        return found
    kind = FIXED if all(draw.kind == FIXED for draw in draws) else SHARED
    axes = frozenset().union(*(draw.axes for draw in draws))
    if not found.depends:
        return found if found.learns else found._replace(draw=Draw(kind, axes))
    if kind == FIXED:
        return found.saying(FIXED)
    rows = [x.rows for x in operands if x.rows is not None]
    # Where rows are known, a mask that they share is theirs when they are alone, too.
    is_by_row = not rows or any(place.axis in axes for place in rows)
    return found.saying(SHARED) if is_by_row else found


def alternatives(values: Sequence[Value]) -> Value:
    """Of a value that is one of these."""
    first = values[0]
    if all(x == first for x in values):
        return first
    found = unknown(values)
    rows = {x.rows for x in values if x.rows is not None}
    return found._replace(
        rows=rows.pop() if len(rows) == 1 else None,
        made=first.made if all(x.made == first.made for x in values) else None,
    )
