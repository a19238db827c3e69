"""A count of steps, all the state that schedules and random draws need."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key


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
    return jax.random.fold_in(jax.random.key(seed), state.steps)
