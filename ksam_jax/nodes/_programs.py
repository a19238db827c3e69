"""The programs that an equation of a trace calls."""

from typing import Any

import jax

# JAX 0.12 has it as another name of Jaxpr, and doesn't tell a type checker of it.
from jax.extend.core import ClosedJaxpr as ClosedJaxpr  # pyright: ignore[reportPrivateImportUsage]
from jax.extend.core import Jaxpr


def called(params: dict[str, Any]) -> list[Jaxpr]:
    """Those among an equation's parameters, without what they close over."""
    flat = jax.tree.leaves(list(params.values()), is_leaf=_is_program)
    return [getattr(value, "jaxpr", value) for value in flat if _is_program(value)]


def _is_program(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)
