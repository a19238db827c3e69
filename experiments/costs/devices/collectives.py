"""The collectives of a compiled program, read from its HLO text."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

KINDS = (
    "all-reduce",
    "reduce-scatter",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
_OPERATION = re.compile(rf"= (.+?) ({'|'.join(KINDS)})(-start)?\(")
_COMPUTATION = re.compile(r"(?:ENTRY )?%(\S+) \(.*\{$")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective operation.

    Attributes:
      kind: HLO's name for it.
      arrays: how many it carries at once.
      elements: numbers in its result, on one device.
      bytes: the same in bytes.
    """

    kind: str
    arrays: int
    elements: int
    bytes: int


def collectives(compiled: Any) -> list[Collective]:
    """All that a compiled program runs, those in a loop as often as the loop turns."""
    return in_hlo(compiled.as_text())


def in_hlo(text: str) -> list[Collective]:
    """The collectives in HLO text; of one that starts and ends apart the start.

    Raises:
      ValueError: if one is in a loop of which XLA doesn't know how often it turns.
    """
    found, computations = [], _computations(text)
    for name, lines in computations.items():
        own = [match for line in lines if (match := _OPERATION.search(line))]
        times = _turns(computations, name) if own else 0
        found += [_read(match) for match in own] * times
    return found


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation; those before the first one by the name ""."""
    found, name = {"": []}, ""
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        name = head[1] if head else name
        found.setdefault(name, []).append(line)
    return found


def _turns(computations: Mapping[str, Sequence[str]], name: str) -> int:
    """How often the computation runs: as often as the loops turn that it is the body of."""
    for caller, lines in computations.items():
        for line in lines:
            if name and re.search(rf"body=%{re.escape(name)}\b", line):
                trips = _TRIPS.search(line)
                if trips is None:
                    raise ValueError(f"nobody knows how often the loop {name} turns")
                return int(trips[1]) * _turns(computations, caller)
    return 1


def _read(match: re.Match[str]) -> Collective:
    arrays = [_size(*array) for array in _ARRAY.findall(match[1])]
    return _collective(match[2], arrays, is_start=match[3] is not None)


def _collective(
    kind: str, arrays: Sequence[tuple[int, int]], *, is_start: bool
) -> Collective:
    # What starts an all-gather holds its operands as well as its results.
    if is_start and kind != "all-reduce":
        arrays = arrays[len(arrays) // 2 :]
    elements = sum(size for size, _ in arrays)
    return Collective(kind, len(arrays), elements, sum(b for _, b in arrays))


def _size(dtype: str, shape: str) -> tuple[int, int]:
    elements = math.prod(int(n) for n in shape.split(",") if n)
    bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
    return elements, elements * bits // 8
