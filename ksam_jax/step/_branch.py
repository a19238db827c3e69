"""One of several programs, whose turn it is by a number that all devices agree on."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.core import Tracer
from jaxtyping import Array, Int

from ._convolutions import with_fast_convolutions


def one_of(branches: Sequence[Callable[[], Any]], turn: Int[Array, ""]) -> Any:
    """The result of branch number `turn`, and the cost of that one alone."""
    if isinstance(turn, Tracer):
        return jax.lax.switch(turn, [with_fast_convolutions(each) for each in branches])
    # Outside of jit there is nothing to compile, and errors come from where they are.
    return branches[int(turn)]()
