"""Which models, batches and devices are measured, from the cheapest to the dearest."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.configs.growth import FAMILIES


class Case(NamedTuple):
    """One model on one batch, spread over so many devices."""

    model: str
    millions: float
    batch: int
    devices: int

    @property
    def work(self) -> float:
        """About how much a step does, of its own unit."""
        return self.millions * (self.batch + 8)


def plan(
    models: Sequence[str],
    millions: Sequence[float],
    batches: Sequence[int],
    devices: Sequence[int],
    spread_batch: int,
) -> list[Case]:
    """The cases.

    Args:
      models: names of families.
      millions: of parameters; each on the family's own batch, on one device.
      batches: each with the fewest parameters, on one device.
      devices: each with the fewest parameters, on `spread_batch`.
      spread_batch: examples on all devices together.
    """
    least, cases = min(millions), []
    for name in models:
        own = FAMILIES[name].like.batch_size
        cases += [Case(name, number, own, 1) for number in millions]
        cases += [Case(name, least, batch, 1) for batch in batches]
        cases += [Case(name, least, spread_batch, number) for number in devices]
    # Those on several devices before what may not fit into the time.
    return sorted(dict.fromkeys(cases), key=lambda case: (case.devices == 1, case.work))
