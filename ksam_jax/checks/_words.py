"""How a message shows what it is about: in a line, whatever its size."""

from collections.abc import Iterable
from typing import Any

# A message is read in a terminal: longer texts keep their beginning and their end.
LONGEST, MOST_ITEMS = 400, 8


def shown(value: Any) -> str:
    """`repr(value)`, without its middle if it is long."""
    return shortened(repr(value))


def shortened(text: str) -> str:
    """A text without its middle if it is long."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]} ...{len(text) - 2 * half:,} characters... {text[-half:]}"


def several(items: Iterable[str]) -> str:
    """Items one after the other, the first few if there are many."""
    found = [shortened(item) for item in items]
    more = len(found) - MOST_ITEMS
    rest = f", and {more:,} more" if more > 0 else ""
    return ", ".join(found[:MOST_ITEMS]) + rest
