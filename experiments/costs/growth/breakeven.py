"""From where on K-SAM's step is faster than SGD's, and what is counted there."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.costs.growth.contents import Case, Growth


class Sweep(NamedTuple):
    """Cases of one model that differ in one number: field, its name, and its values."""

    field: str
    words: str
    cases: list[Case]

    @property
    def values(self) -> list[float]:
        """The number, from the least to the largest."""
        return [_number(case, self.field) for case in self.cases]

    def ratios(self, method: str) -> list[float]:
        """The method's time against SGD's."""
        return [case["steps"][method]["time_vs_sgd"]["median"] for case in self.cases]


FIELDS = {
    "parameters": "parameters",
    "batch": "batch",
    "devices": "virtual devices",
}


def sweeps(content: Growth, model: str) -> dict[str, Sweep]:
    """Of one model: sizes on its own batch, batches and devices of its smallest."""
    cases = [case for case in content["cases"] if case["model"] == model]
    least = min((case["millions"] for case in cases), default=0)
    spread, own = (content["settings"][name] for name in ("spread_batch", f"{model}_batch"))
    alone = [case for case in cases if case["devices"] == 1]
    chosen = {
        "parameters": [case for case in alone if case["batch"] == own],
        "batch": [case for case in alone if case["millions"] == least],
        "devices": [case for case in cases if case["batch"] == spread],
    }
    # The smallest alone is on the batch that is spread.
    chosen["devices"] = [c for c in chosen["devices"] if c["millions"] == least]
    return {
        field: Sweep(field, FIELDS[field], sorted(found, key=lambda c: _number(c, field)))
        for field, found in chosen.items()
    }


def _number(case: Case, field: str) -> float:
    numbers = {
        "parameters": case["parameters"],
        "batch": case["batch"],
        "devices": case["devices"],
    }
    return numbers[field]


def crossing(values: Sequence[float], ratios: Sequence[float]) -> float | None:
    """Where the ratio goes through 1, on a line between two neighbours' logarithms.

    Args:
      values: ascending.
      ratios: of each.

    Returns:
      The last such place; None if all are below 1, or all above it.
    """
    for i in range(len(values) - 1, 0, -1):
        before, after = ratios[i - 1] - 1, ratios[i] - 1
        if (before < 0) != (after < 0):
            share = before / (before - after)
            low, high = math.log(values[i - 1]), math.log(values[i])
            return math.exp(low + share * (high - low))
    return None


def fixed_and_per_example(sweep: Sweep, method: str, what: str) -> tuple[float, float]:
    """Of a count that grows with the batch: what each weight costs, and each example.

    The line through the counts on the two smallest batches: what is left at none of it is
    what the weights cost, whatever the batch is.

    Args:
      sweep: over batches, two or more.
      method: whose step.
      what: "operations" or "bytes_moved".

    Returns:
      Per weight and step, and per example of a step.
    """
    first, second = sweep.cases[:2]
    low, high = (float(case["steps"][method][what]) for case in (first, second))
    slope = (high - low) / (second["batch"] - first["batch"])
    return (low - slope * first["batch"]) / first["parameters"], slope
