"""How long a run still takes."""

import time

from experiments.shell.progress import duration


class Pace:
    """How long the rest takes if it goes on as since the first record.

    What comes before the first record is compilation and, in a run that was continued,
    another process: neither says how long the rest takes.
    """

    def __init__(self, total: int):
        self._total = total
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)

    def reached(self, step: int) -> None:
        """Is told that so many steps are made."""
        self._last = step, time.monotonic()
        self._first = self._first or self._last

    def left(self) -> str:
        """In words; "" while nobody knows, and at the end."""
        if self._first is None or not self._first[0] < self._last[0] < self._total:
            return ""
        steps, seconds = (b - a for a, b in zip(self._first, self._last, strict=True))
        rest = seconds * (self._total - self._last[0]) / steps
        return f"about {duration(rest)} left"
