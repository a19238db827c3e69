"""What XLA says about a compiled step, per device."""

from dataclasses import dataclass
from typing import Any

from experiments.costs.devices.collectives import KINDS, collectives
from experiments.costs.timing import operations


@dataclass(frozen=True)
class Counts:
    """Of one compiled step on one device.

    Attributes:
      operations: floating-point operations.
      temporary_bytes: memory besides arguments and results.
      argument_bytes: weights, optimizer state and its part of the batch.
      collectives: kind -> (how many, bytes).
    """

    operations: float
    temporary_bytes: int
    argument_bytes: int
    collectives: dict[str, tuple[int, int]]


def count(compiled: Any) -> Counts:
    """Counts in a compiled step."""
    memory, found = compiled.memory_analysis(), collectives(compiled)
    by_kind = {
        kind: (len(own), sum(c.bytes for c in own))
        for kind in KINDS
        if (own := [c for c in found if c.kind == kind])
    }
    return Counts(
        operations(compiled),
        int(memory.temp_size_in_bytes),
        int(memory.argument_size_in_bytes),
        by_kind,
    )
