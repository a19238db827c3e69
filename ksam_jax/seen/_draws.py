"""Random numbers in a trace: whose key they come from."""

import functools
from collections.abc import Sequence
from typing import Any

import jax

from ..trees._keys import TOGETHER
from ._value import BY_COMPANY, FIXED, SHARED, Draw, Rows, Value, unknown

DRAWS = frozenset({"random_bits", "random_gamma", "rng_bit_generator", "rng_uniform"})
KEYS = frozenset(
    {
        "random_seed", "random_wrap", "random_unwrap", "random_fold_in", "random_split",
        "random_clone", "threefry2x32",
    }
)  # fmt: skip


def drawn(eqn: Any, operands: Sequence[Value], shape: tuple[int, ...]) -> Value:
    """What is drawn, or made of keys: rows of keys lie where they did."""
    found, name = unknown(operands), eqn.primitive.name
    if found.depends:
        found = found._replace(rows=_rows_of_keys(operands))
        draws_together = name in DRAWS and eqn.invars[0].aval.dtype in _kinds_together()
        return found.saying(BY_COMPANY) if draws_together else found
    if name in KEYS:
        return found
    kind = SHARED if found.varies or found.learns else FIXED
    return found._replace(draw=Draw(kind, frozenset(range(len(shape)))))


@functools.cache
def _kinds_together() -> frozenset[Any]:
    """The dtypes of keys that draw by the others that they are in a batch with."""
    return frozenset(jax.random.key(0, impl=name).dtype for name in TOGETHER)


def _rows_of_keys(operands: Sequence[Value]) -> Rows | None:
    places = {x.rows for x in operands if x.rows is not None}
    return places.pop() if len(places) == 1 else None


def is_random(eqn: Any) -> bool:
    """Whether an equation draws, or makes keys."""
    return eqn.primitive.name in DRAWS | KEYS
