"""What bad input gets: one error naming the call, the rule, the value and the remedy.

Checks of values skip tracers, so that `optax.inject_hyperparams` and `jax.vmap` over
a hyperparameter work.
"""

import inspect
import itertools
import math
import numbers
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def scalar(call: str, name: str, value: Any, rule: str, holds: Callable) -> None:
    """Checks that `value` is a real scalar for which `holds`, or a traced scalar."""
    if isinstance(value, Tracer) and value.ndim == 0:
        return
    plain = plain_number(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        raise TypeError(
            f"{call}({name}={value!r}): {name} must be {rule}, got "
            f"{described(value)}; pass a real number."
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
    array = value if _is_array(value) else _listed(value)
    fits = not isinstance(value, int) or -(2**63) <= value < 2**63
    if array.ndim or not fits or not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{call}(seed={value!r}): seed must be one integer from -2**63 to 2**63 - 1; "
            f"got {described(value)}."
        )


def size(
    call: str, name: str, value: Any, rule: str = "an integer >= 1", least: int = 1
) -> None:
    """Checks that `value` is an integer >= `least`, known when the step is traced."""
    rule = f"{name} must be {rule}"
    plain = None if isinstance(value, Tracer) else plain_number(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Integral):
        shown = "<traced>" if isinstance(value, Tracer) else repr(value)
        kind = type(value).__name__
        raise TypeError(
            f"{call}({name}={shown}): {rule}, known when the step is traced; got {shown} "
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
    size(call, name, value, f"an integer >= {least}", least)


def listed(call: str, name: str, value: Any, least: int) -> list[Any]:
    """Returns the items of a list, a tuple or an array of one axis, `least` or more."""
    is_vector = _is_array(value) and value.ndim == 1
    if not is_vector and not isinstance(value, list | tuple):
        raise TypeError(
            f"{call}({name}={value!r}): {name} must be a list; got {described(value)}."
        )
    items = list(value)
    if len(items) < least:
        raise ValueError(
            f"{call}({name}={value!r}): {name} must have {least} or more items."
        )
    return items


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
                f"{call}(boundaries={steps!r}): boundaries must be in rising order; got "
                f"{before!r} before {after!r}; sort them, and the methods with them."
            )


def one_of(call: str, name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Checks that `value` is one of the words in `choices`."""
    if not isinstance(value, str) or value not in choices:
        words = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{call}({name}={value!r}): {name} must be one of {words}.")


def float_dtype(call: str, dtype: Any) -> None:
    """Checks that `dtype` is None or a real floating-point type of 16 bits or more."""
    if dtype is None:
        return
    try:
        # An array has a dtype, but isn't one.
        is_float = not _is_array(dtype) and jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
        fits = is_float and jnp.finfo(dtype).bits >= 16
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise TypeError(
            f"{call}(perturbed_dtype={dtype!r}): perturbed_dtype must be a "
            f"floating-point dtype of 16 bits or more such as jnp.float32, or None to keep "
            f"the parameters' own."
        )


def parts(call: str, name: str, value: Any) -> int:
    """Returns the number of groups or microbatches, None meaning 1."""
    # None rather than 1 by default: inject_hyperparams would trace a number.
    if value is None:
        return 1
    size(call, name, value)
    return int(value)


def devices(call: str, axis_name: Any, sync_ascent: Any, groups: Any) -> None:
    """Checks what says how several devices work together."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    # To JAX's collectives an integer is an axis of the array.
    fits = all(isinstance(n, Hashable) and not isinstance(n, int) for n in names)
    if not names or not fits:
        raise TypeError(
            f"{call}(axis_name={axis_name!r}): axis_name must be the name of a mapped "
            f"axis, a tuple of names, or None; got {described(axis_name)}."
        )
    switch(call, "sync_ascent", sync_ascent)
    if not sync_ascent and axis_name is None and groups is None:
        raise ValueError(
            f"{call}(sync_ascent=False): sync_ascent=False needs axis_name=... or "
            f"groups=...: they say which examples climb together; pass one of them."
        )


def switch(call: str, name: str, value: Any) -> None:
    """Checks that `value` is a bool."""
    if not isinstance(value, bool):
        raise TypeError(
            f"{call}({name}={value!r}): {name} must be True or False; got "
            f"{described(value)}."
        )


def synchronized(call: str, sync_ascent: Any, why: str) -> None:
    """Refuses `sync_ascent=False` where devices that climb apart can't be served."""
    if isinstance(sync_ascent, bool) and not sync_ascent:
        raise ValueError(
            f"{call}(sync_ascent=False): sync_ascent must be True, since {why}; leave it "
            f"at True."
        )


def plain_number(value: Any) -> Any:
    """The Python number in a NumPy scalar or in an array without axes."""
    if not _is_array(value) or value.ndim or not isinstance(value.dtype, np.dtype):
        return value
    return value.item()


def _as_float(plain: Any) -> float:
    try:
        return float(plain)
    except OverflowError:
        return math.inf if plain > 0 else -math.inf


def _listed(value: Any) -> np.ndarray:
    """A NumPy array of lists of numbers; of anything else one of an object."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.asarray(None)


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def described(value: Any) -> str:
    """A value and its type, for a message."""
    return f"{value!r} of type {type(value).__name__}"


def function(call: str, name: str, value: Any) -> None:
    """Checks that a loss is callable."""
    if not callable(value):
        raise TypeError(
            f"{call}({name}={value!r}): {name} must be a function; got {described(value)}."
        )


def words(call: str, name: str, value: Any, choices: tuple[str, ...]) -> frozenset[str]:
    """Returns the set of words, or of one, if all are in `choices`."""
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, tuple | list | set | frozenset):
        quoted = ", ".join(f'"{choice}"' for choice in choices)
        raise TypeError(
            f"{call}({name}={value!r}): {name} must be a collection of words out of "
            f"{quoted}; got {described(value)}."
        )
    for word in given:
        one_of(call, name, word, choices)
    return frozenset(given)


def name(call: str, given: Any, function: Callable | None) -> str:
    """What messages call a part: the name that it was given, or that of its function."""
    if isinstance(given, str):
        return given or getattr(function, "__name__", type(function).__name__)
    raise TypeError(
        f"{call}(call={given!r}): call must be a string, for messages to show; got "
        f"{described(given)}."
    )


def called(call: str, name: str, value: Callable, takes: str, *args: Any) -> Any:
    """`value(*args)`, if it takes them; what it raises itself comes out as it is."""
    try:
        return value(*args)
    except (TypeError, ValueError) as error:
        # A function of C leaves no frame, and a compiled one frames of JAX's.
        is_its_own = error.__traceback__ is not None and error.__traceback__.tb_next
        if is_its_own and _binds(value, args):
            raise
        raise TypeError(
            f"{call}({name}={value!r}): {name} must be a function that can be called with "
            f"{takes}; got one for which {error}."
        ) from error


def _binds(value: Callable, args: tuple[Any, ...]) -> bool:
    """Whether the signature, if there is one to be read, has a place for each of them.

    Asked only after a call has failed: a decorated function shows what it wraps, which may
    take other arguments.
    """
    try:
        inspect.signature(value).bind(*args)
    except TypeError:
        return False
    except ValueError:  # No signature to be read.
        pass
    return True


def vector(call: str, name: str, value: Any) -> Array:
    """Returns `value` as an array if it has one axis, isn't empty and is real."""
    array = value if _is_array(value) else _listed(value)
    is_real = jnp.issubdtype(array.dtype, jnp.floating)
    if array.ndim != 1 or not array.size or not is_real:
        raise ValueError(
            f"{call}({name}=...): {name} must be real floating-point numbers of shape "
            f"(N,), N >= 1; got shape {array.shape} and dtype {array.dtype}; pass one "
            f"loss per example."
        )
    return jnp.asarray(array)
