"""What kind of thing an argument is: a word, a list, a function, a dtype, an axis."""

import inspect
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from . import _remedies
from ._words import shown


def listed(call: str, name: str, value: Any, least: int) -> list[Any]:
    """Returns the items of a list, a tuple or an array of one axis, `least` or more."""
    is_vector = is_array(value) and value.ndim == 1
    if not is_vector and not isinstance(value, list | tuple):
        raise TypeError(
            f"{call}({name}={shown(value)}): {name} must be a list; got {described(value)}."
        )
    items = list(value)
    if len(items) < least:
        raise ValueError(
            f"{call}({name}={shown(value)}): {name} must have {least} or more items."
        )
    return items


def one_of(call: str, name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Checks that `value` is one of the words in `choices`."""
    if not isinstance(value, str) or value not in choices:
        words = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{call}({name}={shown(value)}): {name} must be one of {words}.")


def float_dtype(call: str, dtype: Any) -> None:
    """Checks that `dtype` is None or a real floating-point type of 16 bits or more."""
    if dtype is None:
        return
    try:
        # An array has a dtype, but isn't one.
        is_float = not is_array(dtype) and jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
        fits = is_float and jnp.finfo(dtype).bits >= 16
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise TypeError(
            f"{call}(perturbed_dtype={shown(dtype)}): perturbed_dtype must be a "
            f"floating-point dtype of 16 bits or more such as jnp.float32, or None to keep "
            f"the parameters' own."
        )


def devices(call: str, axis_name: Any, sync_ascent: Any, groups: Any) -> None:
    """Checks what says how several devices work together."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    # To JAX's collectives an integer is an axis of the array.
    fits = all(isinstance(n, Hashable) and not isinstance(n, int) for n in names)
    if not names or not fits:
        raise TypeError(
            f"{call}(axis_name={shown(axis_name)}): axis_name must be the name of a mapped "
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
            f"{call}({name}={shown(value)}): {name} must be True or False; got "
            f"{described(value)}."
        )


def synchronized(call: str, sync_ascent: Any, why: str) -> None:
    """Refuses `sync_ascent=False` where devices that climb apart can't be served."""
    if isinstance(sync_ascent, bool) and not sync_ascent:
        raise ValueError(
            f"{call}(sync_ascent=False): sync_ascent must be True, since {why}; leave it "
            f"at True."
        )


def as_vector(value: Any) -> np.ndarray:
    """A NumPy array of lists of numbers; of anything else one of an object."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.asarray(None)


def is_array(value: Any) -> bool:
    """Whether it has a shape and a dtype as JAX and NumPy give them."""
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def described(value: Any) -> str:
    """A value and its type, for a message."""
    return f"{shown(value)} of type {type(value).__name__}"


def function(call: str, name: str, value: Any) -> None:
    """Checks that a loss is callable."""
    if not callable(value):
        raise TypeError(
            f"{call}({name}={shown(value)}): {name} must be a function; got "
            f"{described(value)}."
        )


def words(call: str, name: str, value: Any, choices: tuple[str, ...]) -> frozenset[str]:
    """Returns the set of words, or of one, if all are in `choices`."""
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, tuple | list | set | frozenset):
        quoted = ", ".join(f'"{choice}"' for choice in choices)
        raise TypeError(
            f"{call}({name}={shown(value)}): {name} must be a collection of words out of "
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
        f"{call}(call={shown(given)}): call must be a string, for messages to show; got "
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
            f"{call}({name}={shown(value)}): {name} must be a function that can be called "
            f"with {takes}; got one for which {error}."
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
    array = value if is_array(value) else as_vector(value)
    is_real = jnp.issubdtype(array.dtype, jnp.floating)
    if array.ndim != 1 or not array.size or not is_real:
        raise ValueError(
            f"{call}({name}=...): {name} must be real floating-point numbers of shape "
            f"(N,), N >= 1; got shape {array.shape} and dtype {array.dtype}; "
            f"{_remedies.for_vector(array.shape)}."
        )
    return jnp.asarray(array)
