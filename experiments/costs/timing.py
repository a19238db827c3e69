"""Times of several programs that run in turn, and what XLA says about each.

Times are taken in rounds, in each of which every program runs a burst of steps; a ratio
compares two bursts of one round, so that what slows the machine for a while slows both.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax

Name = TypeVar("Name", bound=Hashable)
State = TypeVar("State")

# Runs so many steps and returns the seconds that one of them took.
Burst = Callable[[int], float]

# What a burst should take, and the fewest rounds however slow steps are.
BURST_SECONDS = 0.02
LEAST_ROUNDS = 3


def repeated(step: Callable[[State], State], state: State) -> Burst:
    """Bursts of a step that may take its state's memory: each goes on from the last."""

    def burst(steps: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(steps):
            state = step(state)
        jax.block_until_ready(state)
        return (time.perf_counter() - start) / steps

    return burst


def interleaved(
    bursts: Mapping[Name, Burst],
    repeats: Mapping[Name, int],
    rounds: int,
    on_burst: Callable[[], None] = lambda: None,
) -> dict[Name, list[float]]:
    """Seconds per step of each program in each round.

    Args:
      bursts: the programs, warmed up.
      repeats: steps in a burst of each.
      rounds: how often each has its turn.
      on_burst: called after each burst.
    """
    times: dict[Name, list[float]] = {name: [] for name in bursts}
    names = list(bursts)
    for i in range(rounds):
        # Another program goes first in each round: none always follows the same one.
        start = i % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(bursts[name](repeats[name]))
            on_burst()
    return times


def paced(
    bursts: Mapping[Name, Burst],
    rounds: int,
    most_seconds: float,
    say: Callable[[str], None] = lambda text: None,
) -> dict[Name, list[float]]:
    """As `interleaved`, with bursts and rounds as long and as many as there is time for.

    Args:
      bursts: the programs, warmed up.
      rounds: at most so many.
      most_seconds: how long all rounds may take; `LEAST_ROUNDS` are done however long.
      say: called with what is being done.
    """
    seconds = {name: burst(1) for name, burst in bursts.items()}
    repeats = {name: max(1, round(BURST_SECONDS / s)) for name, s in seconds.items()}
    one_round = sum(repeats[name] * seconds[name] for name in bursts)
    affordable = int(most_seconds / one_round)
    rounds = min(rounds, max(LEAST_ROUNDS, affordable))
    done = 0

    def on_burst() -> None:
        nonlocal done
        done += 1
        round_ = min(rounds, 1 + done // len(bursts))
        say(f"timing, round {round_}/{rounds} of about {one_round:.1f} s")

    return interleaved(bursts, repeats, rounds, on_burst)


def ratio(mine: Sequence[float], its: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile of the rounds' ratios."""
    return median_and_quartiles([a / b for a, b in zip(mine, its, strict=True)])


def median_and_quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile of one or more values."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def operations(compiled: Any) -> float:
    """Floating-point operations of a compiled function, counted by XLA."""
    return float(compiled.cost_analysis()["flops"])


def bytes_moved(compiled: Any) -> float:
    """Bytes that a compiled function's operations read and write, counted by XLA."""
    return float(compiled.cost_analysis()["bytes accessed"])


def temporary_bytes(compiled: Any) -> int | None:
    """Memory besides arguments and results; None where XLA doesn't say."""
    analysis = compiled.memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)
