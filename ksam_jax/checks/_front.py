"""What stands in front of a method in a chain, where there is no gradient yet.

Optax's chain calls one `update` after the other, and on None most of them do nothing,
without a word. A method can't see that in what it is given: it sees None. So it looks at
who called it: of a chain's `update`, known by its code, at the states that it has made so
far, which are those of what stands in front, and at the updates that came of it. This is
done while a step is traced; where Optax or Python tell nothing, nothing is refused.
"""

import inspect
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any

import jax
import optax


def _code_of(update: Callable[..., Any]) -> CodeType | None:
    """What tells whose function it is; None of what isn't written in Python."""
    return getattr(update, "__code__", None)


_NOTHING = optax.identity()
_IDENTITY = _code_of(_NOTHING.update)
_WRAPPED = _code_of(optax.with_extra_args_support(_NOTHING).update)
_CHAIN = _code_of(optax.chain(_NOTHING).update)
_NAMED_CHAIN = _code_of(optax.named_chain(("nothing", _NOTHING)).update)


def nothing_in_front(call: str) -> None:
    """Checks, without a gradient, that no transformation was run on the None before.

    `optax.identity()` may stand there, since doing nothing is what it is for.
    """
    frame = inspect.currentframe()
    while frame is not None:
        found = _has_run(frame) if frame.f_code in (_CHAIN, _NAMED_CHAIN) else []
        if found:
            raise ValueError(
                f"tx.update(updates=None): in the chain {_listed(found)} in front of "
                f"{call}, where there is no gradient yet, so that it would have no effect; "
                f"put it behind {call}, where it sees the descent gradient (or, for the "
                f"climb alone, into the perturbation of ksam_jax.sharpness_aware)."
            )
        frame = frame.f_back


def _has_run(frame: FrameType) -> list[str]:
    """What a chain has run so far, by name, if all that it has made of nothing is nothing.

    A chain around another program, such as one that trains within a loss, has updates.
    """
    names, states = frame.f_locals, frame.f_locals.get("new_state")
    if not isinstance(states, list | dict) or jax.tree.leaves(names.get("updates")):
        return []
    updates = _members(frame.f_code, names)[: len(states)]
    return [name for update in updates for name in _effects(update)]


def _effects(update: Callable[..., Any]) -> list[str]:
    """What an update does, by name; nothing for what Optax does nothing with."""
    code = _code_of(update)
    if code is not None and code is _IDENTITY:
        return []
    if code is not None and code in (_WRAPPED, _CHAIN, _NAMED_CHAIN):
        inner = _members(code, inspect.getclosurevars(update).nonlocals)
        return [name for each in inner for name in _effects(each)]
    return [getattr(update, "__qualname__", type(update).__name__).split(".")[0]]


def _members(code: CodeType | None, names: Mapping[str, Any]) -> list[Callable[..., Any]]:
    """The updates that one of Optax's calls, by the names that they have in it."""
    if code is _CHAIN:
        return list(names.get("update_fns", ()))
    if code is _NAMED_CHAIN:
        return [each.update for _, each in names.get("transforms", ())]
    return [names["tx"].update] if "tx" in names else []


def _listed(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    if len(names) == 1:
        return f"{names[0]} stands"
    return f"{', '.join(names[:-1])} and {names[-1]} stand"
