"""How many cases of a test function `make test` runs; `make test-slow` runs the others.

Most of the time of all tests goes into few functions, over many methods, dtypes and losses,
each of which compiles programs of its own. shares.txt names these functions and how many of
their cases run in the short time that a person waits for; those are spread evenly over all.
What it doesn't name runs whole. `make times` measures all tests and writes it anew.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("shares.txt")

# Seconds on one core that a function may take in `make test`, and one case of it at most.
TOGETHER, LONGEST = 0.4, 1.0


def function_of(nodeid: str) -> str:
    """The name of a test without that of its case, and of its group, which pytest adds."""
    return nodeid.partition("[")[0].partition("@")[0]


class Laps:
    """Seconds that cores have worked for this process and its children: what else runs on
    the machine, and what only waits, doesn't count.
    """

    def __init__(self):
        self._before = _worked()

    def lap(self) -> float:
        """Since the last time that it was asked."""
        before, self._before = self._before, _worked()
        return self._before - before


def _worked() -> float:
    return sum(os.times()[:4])


def read(file: Path = FILE) -> dict[str, int]:
    """Of each function named in the file, how many of its cases run."""
    rows = (line.split(" ", 1) for line in file.read_text(encoding="utf-8").splitlines())
    return {name: int(number) for number, name in rows}


def left_out(items: Iterable[pytest.Item], shares: Mapping[str, int]) -> list[pytest.Item]:
    """The tests that the short run leaves to the long one; none that is slow anyway."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        name = function_of(item.nodeid)
        if name in shares and item.get_closest_marker("slow") is None:
            cases[name].append(item)
    return [item for name, mine in cases.items() for item in _others(mine, shares[name])]


def _others(cases: list[pytest.Item], number: int) -> list[pytest.Item]:
    number = min(number, len(cases))
    kept = {place * len(cases) // number for place in range(number)}
    return [item for place, item in enumerate(cases) if place not in kept]


def write(
    seconds: Mapping[str, float], known: Mapping[str, int], file: Path = FILE
) -> None:
    """Writes the file anew, from what each test took.

    What several tests need, such as a compiled program, is of the first of them, and once
    that is left out of the next. So the short run is measured as well, and made shorter.

    Args:
      seconds: of each test that ran.
      known: how many cases of a function ran; all of those that it doesn't name.
      file: to write.
    """
    cases: dict[str, list[float]] = defaultdict(list)
    for nodeid, took in seconds.items():
        cases[function_of(nodeid)].append(took)
    numbers = {name: _number(took) for name, took in cases.items()}
    fewer = {name: n for name, n in numbers.items() if n < len(cases[name])}
    rows = sorted({**known, **fewer}.items())
    file.write_text("".join(f"{n} {name}\n" for name, n in rows), encoding="utf-8")


def _number(seconds: list[float]) -> int:
    """How many of the cases fit: one at least, unless it is too long by itself."""
    mean = sum(seconds) / len(seconds)
    if sum(seconds) <= TOGETHER:
        return len(seconds)
    return max(1, int(TOGETHER / mean)) if mean <= LONGEST else 0
