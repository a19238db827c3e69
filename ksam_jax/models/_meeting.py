"""Whether the rows of a batch meet on their way through a model: read off its trace.

What `seen` warns of is what it is sure of. Here the question is the other way round: of
which losses is it sure that each is its own row's, so that `per_example` may take them.
Where rows are lost from sight, nothing is sure.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import PyTree

from ..nodes._programs import ClosedJaxpr
from ..nodes._with_rows import with_rows
from ..seen._reader import Reader
from ..seen._value import IN_ORDER, OTHERS, PAIRS, TOTALS, Rows, Value

# What is told of a value besides: rows were summed over in BatchNorm, or elsewhere, or
# their place isn't known any more.
NORMALIZED, COUPLED, LOST = "normalized", "coupled", "lost"
# The function that is traced has this name, where tracebacks end.
TRACED = "losses_of_a_trace"


class Meeting(NamedTuple):
    """What was seen of losses, and of what else a trace gives.

    Attributes:
      normalized: whether BatchNorm in training mode couples them.
      coupled: whether anything else does.
      known: whether that is all that may.
      of_the_batch: for each of the other results whether it depends on the batch.
    """

    normalized: bool
    coupled: bool
    known: bool
    of_the_batch: tuple[bool, ...]


def meeting(
    closed: ClosedJaxpr, rest: PyTree, batch: PyTree, results: int, is_compiled: bool
) -> Meeting:
    """Of a trace of `(rest, batch)`, whose first `results` are losses and their aux."""
    n = jax.tree.leaves(batch)[0].shape[0]
    given = [Value(learns=True, varies=True)] * len(jax.tree.leaves(rest))
    row = Value(depends=True, rows=Rows(0, IN_ORDER), varies=True)
    given += [row] * len(jax.tree.leaves(batch))
    try:
        every = _Watching(n, TRACED, is_compiled).program(closed, given)
    except Exception:
        # As in `seen`: the model is as it is, and it is the looking that failed.
        others = len(closed.jaxpr.outvars) - results
        return Meeting(False, False, False, (True,) * others)
    found, others = every[:results], every[results:]
    told = frozenset[str]().union(*(x.told for x in found))
    # A result that no row has a part in is one of the whole batch.
    strays = [x for x in found if x.rows != Rows(0, IN_ORDER)]
    ways = {COUPLED, PAIRS, TOTALS, OTHERS}
    is_coupled = bool(told & ways) or any(LOST not in x.told for x in strays)
    of_the_batch = tuple(x.depends for x in others)
    return Meeting(NORMALIZED in told, is_coupled, LOST not in told, of_the_batch)


class _Watching(Reader):
    """Says of whatever rows go into, and don't come out of, what became of them."""

    def _equation(
        self, eqn: Any, operands: list[Value], in_batchnorm: bool, in_library: bool
    ) -> list[Value]:
        results = super()._equation(eqn, operands, in_batchnorm, in_library)
        if all(x.rows is None for x in operands):
            return results
        is_its_own = in_batchnorm or self._normalizes(eqn, in_library)
        if is_its_own and eqn.primitive.name == "select_n":
            # A mask, by which rows count differently: over them it would average alike.
            return [x.saying(COUPLED) for x in results]
        return [_watched(x, is_its_own) for x in results]


def _watched(result: Value, is_of_batchnorm: bool) -> Value:
    if result.rows is not None or not result.depends:
        return result
    if is_of_batchnorm:
        return result.saying(NORMALIZED)
    return result.saying(LOST if result.made is None else COUPLED)


def of_two_rows(batch: PyTree) -> PyTree:
    """The batch, with its row twice if it has one: of two it can be seen if they meet."""
    if jax.tree.leaves(batch)[0].shape[0] != 1:
        return batch
    return with_rows(lambda x: jnp.concatenate([x, x]), batch)


def is_traced(*trees: PyTree) -> bool:
    """Whether a step is being compiled, in which these are."""
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(trees))
