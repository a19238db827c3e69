"""What bad input gets: one error naming the call, the rule, the value and the remedy.

Checks of values skip tracers, so that `optax.inject_hyperparams` and `jax.vmap` over
a hyperparameter work.
"""

import itertools
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from . import _kinds
from ._words import shown


def scalar(call: str, name: str, value: Any, rule: str, holds: Callable) -> None:
    """Checks that `value` is a real scalar for which `holds`, or a traced scalar."""
    if isinstance(value, Tracer) and value.ndim == 0:
        return
    plain = plain_number(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        raise TypeError(
            f"{call}({name}={shown(value)}): {name} must be {rule}, got "
            f"{_kinds.described(value)}; pass a real number."
        )
    if not holds(_as_float(plain)):
        raise ValueError(f"{call}({name}={plain!r}): {name} must be {rule}; got {plain!r}.")


def fixed(call: str, name: str, value: Any, rule: str, holds: Callable) -> None:
    """Checks that `value` is a real number for which `holds`, known when it is given."""
    if isinstance(value, Tracer):
        raise TypeError(
            f"{call}({name}=<traced>): {name} must be {rule}, known when the step is "
            f"traced; pass a Python number."
        )
    scalar(call, name, value, rule, holds)


def radius(call: str, rho: Any, name: str = "rho") -> None:
    """Checks that `rho` is a finite number >= 0, a traced scalar or a schedule."""
    if callable(rho):
        return
    rule = "a finite number >= 0 or an optax.Schedule"
    scalar(call, name, rho, rule, lambda r: r >= 0 and math.isfinite(r))


def share(call: str, name: str, value: Any) -> None:
    """Checks that `value` is a share or a probability above zero, or a traced scalar."""
    scalar(call, name, value, "in (0, 1]", lambda x: 0 < x <= 1)


def ema(call: str, sigma: Any, decay: Any) -> None:
    """Checks the two numbers of F-SAM's moving average."""
    scalar(call, "sigma", sigma, "a finite number", math.isfinite)
    decay_rate(call, decay)


def decay_rate(call: str, decay: Any) -> None:
    """Checks that `decay` is the share of an average that stays from step to step."""
    scalar(call, "decay", decay, "in [0, 1)", lambda d: 0 <= d < 1)


def weight(call: str, name: str, value: Any) -> None:
    """Checks that `value` is a finite number >= 0, or a traced scalar."""
    rule = "a finite number >= 0"
    scalar(call, name, value, rule, lambda x: x >= 0 and math.isfinite(x))


def loss_scale(value: Any) -> None:
    """Checks that `value` is None or a number that gradients can be divided by."""
    if value is not None:
        positive("tx.update", "loss_scale", value)


def dynamic_scale(call: str, interval: Any, factor: Any, **bounds: Any) -> None:
    """Checks how a loss scale moves; `bounds` are its limits and start, in rising order."""
    if not isinstance(interval, Tracer):
        size(call, "growth_interval", interval)
    rule = "a finite number > 1"
    scalar(call, "factor", factor, rule, lambda f: f > 1 and math.isfinite(f))
    for name, value in bounds.items():
        positive(call, name, value)
    for (low, less), (high, more) in itertools.pairwise(bounds.items()):
        is_known = not isinstance(less, Tracer) and not isinstance(more, Tracer)
        if is_known and float(less) > float(more):
            raise ValueError(
                f"{call}({low}={less!r}, {high}={more!r}): {low} must be at most {high}; "
                f"got {less!r} above {more!r}; pass a smaller {low} or a larger {high}."
            )


def positive(call: str, name: str, value: Any) -> None:
    """Checks that `value` is a finite number above zero, or a traced scalar."""
    rule = "a finite number > 0"
    scalar(call, name, value, rule, lambda s: s > 0 and math.isfinite(s))


def seed(call: str, value: Any) -> None:
    """Checks that `value` is an integer, Python's, NumPy's or a traced one."""
    array = value if _kinds.is_array(value) else _kinds.as_vector(value)
    fits = not isinstance(value, int) or -(2**63) <= value < 2**63
    if array.ndim or not fits or not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{call}(seed={shown(value)}): seed must be one integer from -2**63 to "
            f"2**63 - 1; got {_kinds.described(value)}."
        )


def size(
    call: str, name: str, value: Any, rule: str = "an integer >= 1", least: int = 1
) -> None:
    """Checks that `value` is an integer >= `least`, known when the step is traced."""
    rule = f"{name} must be {rule}"
    plain = None if isinstance(value, Tracer) else plain_number(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Integral):
        text = "<traced>" if isinstance(value, Tracer) else shown(value)
        kind = type(value).__name__
        raise TypeError(
            f"{call}({name}={text}): {rule}, known when the step is traced; got {text} "
            f"of type {kind}."
        )
    if plain < least:
        raise ValueError(f"{call}({name}={plain}): {rule}; got {plain}.")
    if int(plain) >= 2**31:
        raise ValueError(
            f"{call}({name}={plain}): {rule} that 32 bits can hold; got {plain}; pass one "
            f"below 2**31."
        )


def whole(call: str, name: str, value: Any, least: int) -> None:
    """Checks that `value` is an integer >= `least`, or a traced one."""
    is_traced = isinstance(value, Tracer) and value.ndim == 0
    if is_traced and jnp.issubdtype(value.dtype, jnp.integer):
        return
    rule = f"{name} must be an integer >= {least}, or a traced one"
    plain = value if isinstance(value, Tracer) else plain_number(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Integral):
        text = "<traced>" if isinstance(value, Tracer) else shown(value)
        kind = type(value).__name__
        raise TypeError(f"{call}({name}={text}): {rule}; got one of type {kind}.")
    if not least <= int(plain) < 2**31:
        raise ValueError(f"{call}({name}={plain}): {rule}, below 2**31; got {plain}.")


def boundaries(call: str, num_methods: int, steps: list[Any]) -> None:
    """Checks that there is a rising step from each method to the next."""
    if len(steps) != num_methods - 1:
        raise ValueError(
            f"{call}(methods=<{num_methods}>, boundaries=<{len(steps)}>): boundaries must "
            f"be one fewer than methods, the steps at which the next one begins; got "
            f"{num_methods} methods and {len(steps)} boundaries."
        )
    for step in steps:
        whole(call, "boundaries", step, least=0)
    for before, after in itertools.pairwise(steps):
        is_known = not isinstance(before, Tracer) and not isinstance(after, Tracer)
        if is_known and int(before) > int(after):
            raise ValueError(
                f"{call}(boundaries={shown(steps)}): boundaries must be in rising "
                f"order; got "
                f"{before!r} before {after!r}; sort them, and the methods with them."
            )


def parts(call: str, name: str, value: Any) -> int:
    """Returns the number of groups or microbatches, None meaning 1."""
    # None rather than 1 by default: inject_hyperparams would trace a number.
    if value is None:
        return 1
    size(call, name, value)
    return int(value)


def plain_number(value: Any) -> Any:
    """The Python number in a NumPy scalar or in an array without axes."""
    if not _kinds.is_array(value) or value.ndim or not isinstance(value.dtype, np.dtype):
        return value
    return value.item()


def _as_float(plain: Any) -> float:
    try:
        return float(plain)
    except OverflowError:
        return math.inf if plain > 0 else -math.inf
