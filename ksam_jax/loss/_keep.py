"""What stays of a forward pass for the gradient of the chosen examples."""

import math
from collections.abc import Callable
from typing import Any

import jax

from ..checks import _values

# What keep="auto" is: see docs/performance.md for what it was measured against.
AUTO = 100

# A function to be linearized, as it is or with what is to be recomputed marked.
Marked = Callable[[Any], Any]

KEEPS = ("auto", "nothing", "matmuls", "all")


def checked(keep: Any) -> str | int:
    """Returns `keep` if it is one of the words or an integer >= 1."""
    if isinstance(keep, str):
        _values.one_of("per_example", "keep", keep, KEEPS)
        return keep
    words = ", ".join(f'"{word}"' for word in KEEPS)
    _values.size("per_example", "keep", keep, f"one of {words} or an integer >= 1")
    return int(keep)


def keeping(keep: str | int, function: Marked) -> Marked:
    """The function with `jax.checkpoint` around it, unless all residuals are kept."""
    if keep == "all":
        return function
    worth = 1 if keep == "matmuls" else int(keep)
    return jax.checkpoint(function, policy=_products_worth(worth))


def _products_worth(worth: int) -> Callable[..., bool]:
    """Keeps what took at least `worth` multiplications and additions per number.

    A number that is kept is written and read for every example of the batch, and gathered
    for the chosen ones; one that isn't is computed again for the chosen ones alone. A
    product with a short inner axis, as that of queries and keys, is a large result of
    little work.
    """

    def policy(primitive: Any, *operands: Any, **params: Any) -> bool:
        if primitive is jax.lax.dot_general_p:
            ((contracted, _), _) = params["dimension_numbers"]
            return math.prod(operands[0].shape[i] for i in contracted) >= worth
        if primitive is jax.lax.conv_general_dilated_p:
            kernel, layout = operands[1].shape, params["dimension_numbers"].rhs_spec
            return math.prod(kernel) // kernel[layout[0]] >= worth
        return False

    return policy
