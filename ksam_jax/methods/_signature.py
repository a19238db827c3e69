"""What tools see of a method: its shared arguments spelled out, and none of them traced."""

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

Factory = TypeVar("Factory", bound=Callable[..., Any])


class Untraced:
    """A value that `optax.inject_hyperparams` passes on as it is.

    It turns every number that it binds into an array, and takes a function for a schedule.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Untraced({self.value!r})"


class MethodSignature(inspect.Signature):
    """A signature that binds what is no hyperparameter as something else than a number."""

    fixed: Collection[str] = ()

    def bind(self, /, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        """As `inspect.Signature.bind`."""
        bound = super().bind(*args, **kwargs)
        for name in self.fixed & bound.arguments.keys():
            if _would_be_traced(bound.arguments[name]):
                bound.arguments[name] = Untraced(bound.arguments[name])
        return bound


def spelled_out(
    factory: Factory, shared: type, defaults: Mapping[str, Any], masks: Collection[str]
) -> Factory:
    """A method whose `**common` shows as the keywords of `shared`, each with its text.

    Of its own arguments `masks` may be functions, which are no schedules.
    """
    signature = inspect.signature(factory)
    own = [p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD]
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in defaults.items()
    ]
    keywords = [p.replace(annotation=shared.__annotations__[p.name]) for p in keywords]
    result = signature.return_annotation
    signature = MethodSignature([*own, *keywords], return_annotation=result)
    signature.fixed = {*defaults, *masks}

    @functools.wraps(factory)
    def method(*args: Any, **kwargs: Any) -> Any:
        return factory(*map(_plain, args), **{k: _plain(x) for k, x in kwargs.items()})

    vars(method)["__signature__"] = signature
    method.__doc__ = _with_text(factory.__doc__, shared.__doc__)
    return typing.cast(Factory, method)


def _would_be_traced(value: Any) -> bool:
    is_number = isinstance(value, int | float | jax.Array | np.ndarray)
    return callable(value) or (is_number and not isinstance(value, bool))


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Untraced) else value


def _with_text(doc: str | None, shared: str | None) -> str | None:
    """A docstring with the text of the shared arguments for its lines about them."""
    if not doc or not shared:  # Python leaves them out under -OO.
        return doc
    text = inspect.cleandoc(shared).split("Attributes:\n")[1].splitlines()
    before, line, after = doc.partition("      **common:")
    if not line:
        return doc
    # Its own lines end where one is indented no deeper.
    rest = after.split("\n")[1:]
    while rest and rest[0].startswith(" " * 8):
        del rest[0]
    spelled = [f"    {part}" if part else "" for part in text]
    return before + "\n".join([*spelled, *rest])
