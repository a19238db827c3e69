"""What bad input gets: one error naming the call, the rule, the value and the remedy.

Checks of values skip tracers, so that `optax.inject_hyperparams` and `jax.vmap` over
a hyperparameter work.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def scalar(call: str, name: str, value: Any, rule: str, holds: Callable) -> Any:
    """Returns `value` if it is a real scalar for which `holds`, or a traced scalar."""
    if isinstance(value, Tracer) and value.ndim == 0:
        return value
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        raise TypeError(
            f"{call}({name}={value!r}): {name} must be {rule}, got "
            f"{_describe(value)}; pass a real number."
        )
    if not holds(float(plain)):
        raise ValueError(f"{call}({name}={plain!r}): {name} must be {rule}; got {plain!r}.")
    return value


def radius(call: str, rho: Any) -> Any:
    """Returns `rho` if it is a finite number >= 0, a traced scalar or a schedule."""
    if callable(rho):
        return rho
    rule = "a finite number >= 0 or an optax.Schedule"
    return scalar(call, "rho", rho, rule, lambda r: r >= 0 and math.isfinite(r))


def keep_probability(call: str, beta: Any) -> Any:
    """Returns `beta` if it is a probability of keeping that can be divided by."""
    return scalar(call, "beta", beta, "in (0, 1]", lambda b: 0 < b <= 1)


def ema(call: str, sigma: Any, decay: Any) -> None:
    """Checks the two numbers of F-SAM's moving average."""
    scalar(call, "sigma", sigma, "a finite number", math.isfinite)
    scalar(call, "decay", decay, "in [0, 1)", lambda d: 0 <= d < 1)


def offset(call: str, eta: Any) -> Any:
    """Returns ASAM's `eta` if it is a finite number >= 0."""
    rule = "a finite number >= 0"
    return scalar(call, "eta", eta, rule, lambda e: e >= 0 and math.isfinite(e))


def seed(call: str, value: Any) -> Any:
    """Returns `value` if it is an integer, Python's, NumPy's or a traced one."""
    array = value if _is_array(value) else np.asarray(value)
    if array.ndim or not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{call}(seed={value!r}): seed must be one integer of at most 64 bits; got "
            f"{_describe(value)}."
        )
    return value


def one_of(call: str, name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Returns `value` if it is one of the words in `choices`."""
    if value not in choices:
        words = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{call}({name}={value!r}): {name} must be one of {words}.")
    return value


def inexact_dtype(call: str, dtype: Any) -> Any:
    """Returns `dtype` if it is None or a real floating-point type."""
    try:
        fits = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        fits = False
    if not fits:
        raise TypeError(
            f"{call}(perturbed_dtype={dtype!r}): perturbed_dtype must be a floating-point "
            f"dtype such as jnp.float32, or None to keep the parameters' own."
        )
    return dtype


class ExampleCount(NamedTuple):
    """A number of examples as the user gave it: a count, or a fraction of the batch."""

    call: str
    name: str
    value: int | float

    def of(self, n: int) -> int:
        """Returns the number of examples chosen from a batch of `n`."""
        if isinstance(self.value, float):
            return max(1, math.floor(self.value * n + 0.5))
        if self.value > n:
            raise ValueError(
                f"{self.call}({self.name}={self.value}): {self.name} must be at most the "
                f"number of examples, and this batch has N={n}; pass a smaller count or a "
                f"fraction in (0, 1]."
            )
        return self.value


def example_count(call: str, name: str, value: Any) -> ExampleCount:
    """Returns the count if it is an integer >= 1 or a fraction in (0, 1]."""
    rule = (
        f"{name} must be an integer >= 1 (a number of examples, at most the batch's N) "
        f"or a fraction of N in (0, 1]"
    )
    if isinstance(value, Tracer):
        raise TypeError(
            f"{call}({name}=<traced>): {rule}, known when the step is traced, since it is "
            f'a shape; under optax.inject_hyperparams name it: static_args=("{name}",).'
        )
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        raise TypeError(f"{call}({name}={value!r}): {rule}; got {_describe(value)}.")
    plain = int(plain) if isinstance(plain, numbers.Integral) else float(plain)
    if not (plain >= 1 if isinstance(plain, int) else 0 < plain <= 1):
        raise ValueError(f"{call}({name}={plain!r}): {rule}; got {plain!r}.")
    return ExampleCount(call, name, plain)


def not_yet(call: str, **arguments: Any) -> None:
    """Refuses the arguments for many devices that this version doesn't carry yet."""
    for name, (value, default) in arguments.items():
        if value is not default and value != (1 if default is None else default):
            raise NotImplementedError(
                f"{call}({name}={value!r}): {name} is not available in this version of "
                f"ksam_jax; leave it at {default!r}."
            )


def _plain(value: Any) -> Any:
    """The Python number in a NumPy scalar or in an array without axes."""
    if not _is_array(value) or value.ndim or not isinstance(value.dtype, np.dtype):
        return value
    return value.item()


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def _describe(value: Any) -> str:
    return f"{value!r} of type {type(value).__name__}"


def function(call: str, name: str, value: Any) -> None:
    """Checks that a loss is callable."""
    if not callable(value):
        raise TypeError(
            f"{call}({name}={value!r}): {name} must be a function; got {_describe(value)}."
        )


def vector(call: str, name: str, value: Any) -> Array:
    """Returns `value` as an array if it has one axis, isn't empty and is real."""
    array = jnp.asarray(value)
    is_real = jnp.issubdtype(array.dtype, jnp.floating)
    if array.ndim != 1 or not array.size or not is_real:
        raise ValueError(
            f"{call}({name}=...): {name} must be real numbers of shape (N,), N >= 1; got "
            f"shape {array.shape} and dtype {array.dtype}; pass one loss per example."
        )
    return array
