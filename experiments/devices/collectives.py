"""The collectives of a compiled program, read from its HLO text."""

import math
import re
from collections.abc import Sequence
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
    """All of a compiled program's, in the order of its text."""
    return in_hlo(compiled.as_text())


def in_hlo(text: str) -> list[Collective]:
    """The collectives in HLO text; of one that starts and ends apart the start."""
    found = []
    for line in text.splitlines():
        match = _OPERATION.search(line)
        if match:
            arrays = [_size(*array) for array in _ARRAY.findall(match[1])]
            found.append(_collective(match[2], arrays, is_start=match[3] is not None))
    return found


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
