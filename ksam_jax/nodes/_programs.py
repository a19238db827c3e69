"""The programs that an equation of a trace calls."""

from typing import Any

import jax
from jax.extend import core
from jax.extend.core import Jaxpr

# JAX 0.12 has it as another name of Jaxpr, and doesn't tell a type checker of it; a name of
# our own, since one that is only imported again is looked up there.
ClosedJaxpr = core.ClosedJaxpr  # pyright: ignore[reportPrivateImportUsage]


def called(params: dict[str, Any]) -> list[Jaxpr]:
    """Those among an equation's parameters, without what they close over."""
    flat = jax.tree.leaves(list(params.values()), is_leaf=_is_program)
    return [getattr(value, "jaxpr", value) for value in flat if _is_program(value)]


def _is_program(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)
