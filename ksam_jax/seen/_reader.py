"""Reads a trace: for each value, what is known of it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Jaxpr, Literal

from ..nodes._programs import ClosedJaxpr
from . import _pieces, _products, _shapes
from ._control import inner_of
from ._draws import drawn, is_random
from ._elementwise import BY_ELEMENT, by_element
from ._frames import is_batchnorm, is_of_a_library
from ._value import STATISTICS, Counts, Value, unknown

_REDUCTIONS = (
    "reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or",
    "argmax", "argmin",
)  # fmt: skip
# Of jax.vmap with an axis_name, they are sums over an axis of the array.
_COLLECTIVE = ("psum", "psum_invariant", "psum2", "pmax", "pmin")
_CUMULATIVE = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")

# Rules for one operand, for several, and for several results.
_ONE: dict[str, Callable[[Value, Any, int], Value]] = {
    "broadcast_in_dim": _shapes.broadcast,
    "transpose": _shapes.transposed,
    "squeeze": _shapes.squeezed,
    "reshape": _shapes.reshaped,
    "pad": _shapes.padded,
    "rev": _shapes.reversed_along,
    "slice": _pieces.sliced,
    "reduce_window_sum": _shapes.windowed,
    "reduce_window_max": _shapes.windowed,
    "reduce_window_min": _shapes.windowed,
    **dict.fromkeys(_REDUCTIONS, _shapes.reduced),
    **dict.fromkeys(_CUMULATIVE, _shapes.scanned_along),
}
_SEVERAL: dict[str, Callable[[Sequence[Value], Any, int], Value]] = {
    "concatenate": _pieces.concatenated,
    "stack": _pieces.stacked,
    "dynamic_slice": _pieces.sliced_anywhere,
    "dynamic_update_slice": _pieces.updated,
    "dot_general": _products.product,
    "conv_general_dilated": _products.convolution,
    "gather": _products.gathered,
}
_MANY: dict[str, Callable[[Sequence[Value], Any, int], list[Value]]] = {
    "sort": _pieces.sorted_along,
    "top_k": _pieces.top,
}


class Reader(NamedTuple):
    """How a trace is read.

    Attributes:
      n: the number of rows; 1 for the loss of one example.
      above: the name of the function that called the loss, where tracebacks end.
      is_compiled: whether what isn't traced is the same in every step.
    """

    n: int
    above: str
    is_compiled: bool

    def program(
        self, closed: ClosedJaxpr, given: Sequence[Value], **how: bool
    ) -> list[Value]:
        """What is known of the results, of arguments of which this is known."""
        consts = [self.constant(const) for const in closed.consts]
        return self.run(closed.jaxpr, [*consts, *given], **how)

    def run(
        self,
        jaxpr: Jaxpr,
        given: Sequence[Value],
        *,
        in_batchnorm: bool = False,
        in_library: bool = False,
    ) -> list[Value]:
        """As `program`, with what is known of the constants in front of `given`."""
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], given, strict=True))

        def value(atom: Any) -> Value:
            return Value() if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            operands = [value(atom) for atom in eqn.invars]
            results = self._equation(eqn, operands, in_batchnorm, in_library)
            known.update(zip(eqn.outvars, results, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def constant(self, const: Any) -> Value:
        """Of what the loss closes over."""
        if isinstance(const, Tracer):
            return Value(varies=True)
        shape, dtype = np.shape(const), getattr(const, "dtype", None)
        is_integer = dtype is not None and jnp.issubdtype(dtype, jnp.integer)
        is_count = is_integer and shape == (self.n,)
        if is_count and np.array_equal(np.asarray(const), np.arange(self.n)):
            return Value(varies=not self.is_compiled, counts=Counts(0, frozenset({0})))
        return Value(varies=not self.is_compiled)

    def _equation(
        self, eqn: Any, operands: list[Value], in_batchnorm: bool, in_library: bool
    ) -> list[Value]:
        inner = inner_of(eqn)
        if inner is not None:
            name = eqn.params.get("name", "")
            in_batchnorm = in_batchnorm or self._normalizes(eqn, in_library)
            in_library = in_library or (bool(name) and is_of_a_library(name))
            how = {"in_batchnorm": in_batchnorm, "in_library": in_library}
            return inner(self, eqn, operands, how)
        results = self._results(eqn, operands)
        if eqn.primitive.name in (*_REDUCTIONS, *_COLLECTIVE) and operands[0].depends:
            is_its_own = in_batchnorm or self._normalizes(eqn, in_library)
            pairs = zip(operands, results, strict=True)
            return [self._statistic(eqn, *pair, is_its_own) for pair in pairs]
        return results

    def _normalizes(self, eqn: Any, in_library: bool) -> bool:
        return not in_library and is_batchnorm(eqn, self.above)

    def _statistic(
        self, eqn: Any, operand: Value, result: Value, is_of_batchnorm: bool
    ) -> Value:
        """Tells of BatchNorm's statistics if they aren't over the rows."""
        rows = operand.rows
        if self.n > 1 and (rows is None or rows.axis in eqn.params["axes"]):
            result = result._replace(told=result.told - {STATISTICS})
            # What BatchNorm makes of its statistics, such as a flow's log-determinant.
            return result._replace(made=None, sum_of=None) if is_of_batchnorm else result
        return result.saying(STATISTICS) if is_of_batchnorm else result

    def _results(self, eqn: Any, operands: list[Value]) -> list[Value]:
        """Of an equation that calls no program."""
        name, n = eqn.primitive.name, self.n
        if is_random(eqn):
            return [drawn(eqn, operands, x.aval.shape) for x in eqn.outvars]
        if name in BY_ELEMENT:
            # Several results are each as their operand, such as those of a barrier.
            is_one = len(eqn.outvars) == 1
            return [by_element(eqn, operands)] if is_one else operands
        if name == "iota":
            return [_counting(eqn, n)]
        if name in _ONE:
            return [_with_rest(_ONE[name](operands[0], eqn, n), operands)]
        if name in _COLLECTIVE:
            axes, ranks = eqn.params["axes"], [len(x.aval.shape) for x in eqn.invars]
            pairs = zip(operands, ranks, strict=True)
            return [_shapes.over_axes(x, name, axes, rank) for x, rank in pairs]
        if name in _SEVERAL:
            return [_SEVERAL[name](operands, eqn, n)]
        if name in _MANY:
            return _MANY[name](operands, eqn, n)
        if name == "split":
            return _pieces.split(operands[0], eqn, n)
        if name == "unstack":
            return _pieces.unstacked(operands[0], eqn, n)
        return [unknown(operands)] * len(eqn.outvars)


def _with_rest(value: Value, operands: list[Value]) -> Value:
    """With what a padding value, say, adds."""
    rest = unknown(operands)
    return value._replace(depends=rest.depends, learns=rest.learns, told=rest.told)


def _counting(eqn: Any, n: int) -> Value:
    axis = int(eqn.params["dimension"])
    if eqn.params["shape"][axis] != n:
        return Value()
    return Value(counts=Counts(axis, frozenset({0})))
