"""Counts: of the steps taken, and of the examples that a user asks for."""

import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Int, Key

from ..checks import _kinds, _values
from ..checks._words import shown
from ..trees._keys import key_of


class StepCount(NamedTuple):
    """Steps taken; with a seed it gives the key of a step, so no key is stored."""

    steps: Int[Array, ""]


def no_steps(params: Any = None) -> StepCount:
    """The count at the start; takes `params` so that it can be an Optax `init`."""
    del params
    return StepCount(jnp.zeros((), jnp.int32))


def advance(state: StepCount) -> StepCount:
    """One step more, held at the largest integer instead of wrapping around."""
    return StepCount(jnp.asarray(optax.safe_increment(state.steps)))


def step_key(seed: Any, state: StepCount) -> Key[Array, ""]:
    """The key of this step, made from the seed and the count alone."""
    return jax.random.fold_in(key_of(seed), state.steps)


class ExampleCount(NamedTuple):
    """A number of examples as the user gave it: a count, or a fraction of the batch."""

    call: str
    name: str
    value: int | float
    least: int = 1

    def of(self, n: int, one_of_several: bool = False) -> int:
        """Returns the number of examples chosen from `n`.

        With `one_of_several` these n are the part of one device or group, where rounding
        up to one example would choose several times as many as was said.
        """
        if isinstance(self.value, float):
            refuse_unknown(self.call, self.name, self.value, n)
            if one_of_several and self.least and self.value * n < 1 - 1e-9:
                raise ValueError(
                    f"{self.call}({self.name}={self.value}): {self.name} must be at least "
                    f"one example of each device or group, and {self.value} of the {n} "
                    f"that one has is {self.value * n:g}; pass a larger batch, fewer "
                    f"groups, or {self.name}=1 for one example of each."
                )
            return max(self.least, math.floor(self.value * n + 0.5))
        if _surely_more(self.value, n):
            raise ValueError(
                f"{self.call}({self.name}={self.value}): {self.name} must be at most the "
                f"number of examples, and this batch has N={n}; pass a smaller count or a "
                f"fraction in (0, 1]."
            )
        return self.value


def refuse_unknown(call: str, name: str, value: Any, n: Any) -> None:
    """Checks that a share is of a number of examples, not of a symbol of `jax.export`."""
    if jax.export.is_symbolic_dim(n):
        raise ValueError(
            f"{call}({name}={value!r}): {name} must be an integer where the number of "
            f"examples is symbolic, since a share of it is a shape that isn't known, and "
            f"this batch has N={n}; pass a number of examples, or export for a fixed N."
        )


def refuse_unknown_draw(count: ExampleCount, n: Any) -> None:
    """Checks that a random subset is of a number of examples that is known."""
    if jax.export.is_symbolic_dim(n):
        raise ValueError(
            f"{count.call}({count.name}={count.value}): a random subset must be drawn from "
            f"a number of examples that is known, and this batch has N={n}; export for a "
            f"fixed N."
        )


def _surely_more(count: Any, n: Any) -> bool:
    """Whether it is above the number of examples, as far as that is known."""
    if not jax.export.is_symbolic_dim(n):
        return count > n
    try:
        return bool(count > n)
    except jax.errors.InconclusiveDimensionOperation:
        return False


def example_count(call: str, name: str, value: Any) -> ExampleCount:
    """Returns the count if it is an integer >= 1 or a fraction in (0, 1]."""
    rule = (
        f"{name} must be an integer >= 1 (a number of examples, at most the batch's N) "
        f"or a fraction of N in (0, 1]"
    )
    plain = _plain_count(call, name, value, rule)
    if not (plain >= 1 if isinstance(plain, int) else 0 < plain <= 1):
        raise ValueError(f"{call}({name}={plain!r}): {rule}; got {plain!r}.")
    return ExampleCount(call, name, plain)


def skip_count(call: str, value: Any) -> ExampleCount:
    """Returns the count if it is None, an integer >= 0 or a fraction in [0, 1)."""
    # None rather than 0 by default: inject_hyperparams would trace a number.
    value = 0 if value is None else value
    rule = (
        "skip must be None, an integer >= 0 (a number of examples, less than the batch's "
        "N) or a fraction of N in [0, 1)"
    )
    plain = _plain_count(call, "skip", value, rule)
    if not (plain >= 0 if isinstance(plain, int) else 0 <= plain < 1):
        raise ValueError(f"{call}(skip={plain!r}): {rule}; got {plain!r}.")
    return ExampleCount(call, "skip", plain, least=0)


def both_fit(
    count: ExampleCount, taken: int, skip: ExampleCount, n: int
) -> tuple[int, int]:
    """Returns how many of `n` examples are taken and skipped, if there are so many."""
    skipped = skip.of(n)
    if isinstance(count.value, float) and count.value + skip.value <= 1:
        # Of an odd batch both halves would be rounded up.
        skipped = min(skipped, n - taken)
    if _surely_more(taken + skipped, n):
        raise ValueError(
            f"{count.call}({count.name}={count.value}, skip={skip.value}): {count.name} "
            f"and skip must together be at most the number of examples, and of this "
            f"batch's N={n} they would take {taken} and skip {skipped}; pass a smaller one."
        )
    return taken, skipped


def _plain_count(call: str, name: str, value: Any, rule: str) -> int | float:
    if isinstance(value, Tracer):
        raise TypeError(
            f"{call}({name}=<traced>): {rule}, known when the step is traced, since it is "
            f'a shape; under optax.inject_hyperparams name it: static_args=("{name}",).'
        )
    plain = _values.plain_number(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        raise TypeError(
            f"{call}({name}={shown(value)}): {rule}; got {_kinds.described(value)}."
        )
    return int(plain) if isinstance(plain, numbers.Integral) else float(plain)
