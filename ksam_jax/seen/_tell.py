"""Warnings about a loss that trains something else: found in its trace, at no run time.

The loss is traced once more, by itself and after the step has been, so that its own errors
come out as they are and nothing of the step changes. Whatever can't be traced or read like
that is not spoken of.
"""

import contextvars
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.core import Tracer
from jaxtyping import PyTree

from ..checks._user import level_of_user
from ..loss._per_example import PerExample
from ._reader import Reader
from ._value import (
    BY_COMPANY,
    EXTREME,
    FIXED,
    IN_ORDER,
    OTHERS,
    PAIRS,
    SHARED,
    STATISTICS,
    TOTAL,
    TOTALS,
    Rows,
    Value,
)
from ._words import (
    DRAWN_TOGETHER,
    EXAMPLE,
    FIXED_KEY,
    KEY_OF_THE_BATCH,
    NO_STATISTICS,
    coupled,
)

# What has been found of losses outside of jit, where each call would be traced.
_found: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()
# What has been told in the step that is being traced, of however many methods.
_told: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar(
    "told", default=None
)


@contextmanager
def together() -> Iterator[None]:
    """What several methods of one step have to tell is told once."""
    if _told.get() is not None:
        yield
        return
    token = _told.set(set())
    try:
        yield
    finally:
        _told.reset(token)


def tell(
    call: str, loss: Any, params: PyTree, batch: PyTree, runs: str, parts: int
) -> None:
    """Warns of what is seen in the loss.

    `runs` says which rows are run without the others, "" if none are; `parts` is in how
    many equal ones the batch is run.
    """
    found = _seen(loss, params, batch, parts)
    for about, message in _messages(call, found, loss.is_per_example, runs):
        said = _told.get()
        if said is None or about not in said:
            warnings.warn(message, stacklevel=level_of_user(sys._getframe()))
        if said is not None:
            said.add(about)


def _messages(
    call: str, found: frozenset[str], is_per_example: bool, runs: str
) -> Iterator[tuple[str, str]]:
    here = EXAMPLE if is_per_example else f"{call}: loss_fn"
    if STATISTICS in found:
        yield STATISTICS, f"{here} {NO_STATISTICS}"
    if BY_COMPANY in found and (runs or is_per_example):
        yield BY_COMPANY, f"{here} {DRAWN_TOGETHER}"
    if FIXED in found:
        yield FIXED, f"{here} {FIXED_KEY}"
    elif SHARED in found and is_per_example:
        yield SHARED, f"{here} {KEY_OF_THE_BATCH['per_example']}"
    elif SHARED in found and runs:
        yield SHARED, f"{here} {KEY_OF_THE_BATCH['batch'].format(runs=runs)}"
    how = [word for word in (PAIRS, TOTALS, OTHERS) if word in found]
    if how and runs and not is_per_example:
        yield PAIRS, f"{here} {coupled(how[0], call, runs)}"


def _seen(loss: Any, params: PyTree, batch: PyTree, parts: int) -> frozenset[str]:
    """What is told of the losses; outside of jit once per function and shapes."""
    if any(isinstance(x, Tracer) for x in jax.tree.leaves((params, batch))):
        return _read(loss, params, batch, parts, True)
    shapes = [(x.shape, str(x.dtype)) for x in jax.tree.leaves((params, batch))]
    key = (jax.tree.structure((params, batch)), tuple(shapes), loss.has_aux, parts)
    key = (*key, loss.is_per_example)
    function = loss.loss_fn.example_loss if loss.is_per_example else loss.loss_fn
    try:
        known = _found.setdefault(function, {})
    except TypeError:  # It can't be a key, or be forgotten when nobody else has it.
        known = {}
    if key not in known:
        known[key] = _read(loss, params, batch, parts, False)
    return known[key]


def _read(
    loss: Any, params: PyTree, batch: PyTree, parts: int, is_compiled: bool
) -> frozenset[str]:
    n = jax.tree.leaves(batch)[0].shape[0] // parts
    if n == 1 and not loss.is_per_example:
        return frozenset()
    try:
        return _findings(loss, params, batch, n, parts, is_compiled)
    except Exception:
        # The step itself has run: it is the looking that failed.
        return frozenset()


def _findings(
    loss: Any, params: PyTree, batch: PyTree, n: int, parts: int, is_compiled: bool
) -> frozenset[str]:
    def losses_of_a_trace(params: PyTree, batch: PyTree) -> Any:
        if not loss.is_per_example:
            return loss(params, batch)[0]
        out = loss.loss_fn.example_loss(params, batch)
        return out[0] if loss.has_aux else out

    assert isinstance(loss.loss_fn, PerExample) or not loss.is_per_example
    rows = None if loss.is_per_example else Rows(0, IN_ORDER)
    if loss.is_per_example:
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    elif parts > 1:
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), batch
        )
    closed = jax.make_jaxpr(losses_of_a_trace)(params, batch)
    reader = Reader(1 if loss.is_per_example else n, "losses_of_a_trace", is_compiled)
    given = [Value(learns=True, varies=True)] * len(jax.tree.leaves(params))
    given += [Value(depends=True, rows=rows, varies=True)] * len(jax.tree.leaves(batch))
    (losses,) = reader.program(closed, given)
    told = losses.told
    if losses.made in (TOTAL, EXTREME):
        told |= {TOTALS}
    if losses.rows is not None and losses.rows != Rows(0, IN_ORDER):
        told |= {OTHERS}
    return told
