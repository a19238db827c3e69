"""Primitives that make each element of what stands in its place."""

from collections.abc import Sequence
from typing import Any

from ._value import EXTREME, TOTAL, TOTALS, Value, met

_ARITHMETIC = (
    "add add_any sub mul div rem pow integer_pow square sqrt rsqrt cbrt neg sign abs "
    "floor ceil round max min nextafter exp exp2 expm1 log log1p sin cos tan asin acos "
    "atan atan2 sinh cosh tanh asinh acosh atanh logistic erf erfc erf_inv lgamma digamma "
    "igamma igammac regularized_incomplete_beta bessel_i0e bessel_i1e polygamma zeta real "
    "imag conj complex clamp select_n stop_gradient copy copy_p convert_element_type "
    "bitcast_convert_type reduce_precision optimization_barrier name pvary pcast reshard "
    "sharding_constraint layout_constraint mul_no_nan"
)
_LOGIC = (
    "and or xor not eq ne lt le gt ge eq_to lt_to le_to is_finite shift_left "
    "shift_right_logical shift_right_arithmetic population_count clz"
)
BY_ELEMENT = frozenset(f"{_ARITHMETIC} {_LOGIC}".split())
# What leaves the number of a row as it is.
_SAME = frozenset({"convert_element_type", "copy", "copy_p", "pvary", "pcast", "reshard"})


def by_element(eqn: Any, operands: Sequence[Value]) -> Value:
    """Of the result of one of them."""
    name, found = eqn.primitive.name, _with_sum(met(operands), operands)
    if name == "is_finite":
        return found._replace(made=EXTREME if found.made == TOTAL else found.made)
    if name == "div" and _is_share(eqn, operands):
        return found.saying(TOTALS)
    if name in _SAME:
        return found._replace(counts=operands[0].counts)
    if name == "select_n" and len(operands) == 3:
        # Which of two, by `index < 0`: what indexing does to numbers from the end.
        return found._replace(counts=operands[1].counts)
    return found


def _with_sum(found: Value, operands: Sequence[Value]) -> Value:
    """With the sum that one operand is made of, where the others are constants."""
    sums = [x.sum_of for x in operands if x.depends]
    return found._replace(sum_of=sums[0]) if len(sums) == 1 else found


def _is_share(eqn: Any, operands: Sequence[Value]) -> bool:
    """Whether rows are divided by their own sums, or losses and the like by the largest.

    Features are not: by the largest of all they are scaled to be rounded to eight bits.
    """
    rows, by = operands
    if rows.rows is None:
        return False
    is_number = len(eqn.outvars[0].aval.shape) == 1
    return by.sum_of is eqn.invars[0] or (by.made == EXTREME and is_number)
