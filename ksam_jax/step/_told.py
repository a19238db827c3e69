"""How a step is carried out, told to what goes around a method.

What Optax makes of a method (a chain, injected hyperparameters) doesn't say it, and a state
has arrays only. But the method itself is traced within the call: there it says it.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from ._method import Execution

_LISTENER: ContextVar[list[Execution] | None] = ContextVar("_LISTENER", default=None)


@contextlib.contextmanager
def listening() -> Iterator[list[Execution]]:
    """A list of how the methods that are traced in here are carried out."""
    heard: list[Execution] = []
    token = _LISTENER.set(heard)
    try:
        yield heard
    finally:
        _LISTENER.reset(token)
        for execution in heard:
            _say(execution)


@contextlib.contextmanager
def telling(execution: Execution) -> Iterator[None]:
    """Tells it to who listens; of a method within the loss of this one nobody hears."""
    _say(execution)
    token = _LISTENER.set(None)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def _say(execution: Execution) -> None:
    listener = _LISTENER.get()
    if listener is not None:
        listener.append(execution)
