"""Who takes part: methods at the baseline's settings, and the baseline cut to a share."""

import dataclasses
from typing import NamedTuple

from experiments.configs.experiment import OWN, Experiment
from experiments.methods import METHODS
from experiments.methods.palette import BLACK
from experiments.shell.cli import UsageError, one_of


class Cut(NamedTuple):
    """The baseline at a share of its cost, as a sceptic would have it.

    Attributes:
      label: what tables call it, behind the baseline's.
      share: of the passes over the training examples.
      of_batch: the same share of the batch, so that the number of steps stays.
    """

    label: str
    share: float
    of_batch: bool


CUTS = {
    "three_quarters": Cut("3/4 of the epochs", 3 / 4, of_batch=False),
    "half": Cut("1/2 of the epochs", 1 / 2, of_batch=False),
    "half_batch": Cut("1/2 of the batch and epochs", 1 / 2, of_batch=True),
}
# Each against the baseline, SAM, and what costs less than they do.
DEFAULT = ("sam", "k_sam_following", "k_momentum_following", "half")


def label(name: str, baseline: str) -> str:
    """What tables and pictures call it."""
    if name in CUTS:
        return f"{METHODS[baseline].label}, {CUTS[name].label}"
    return METHODS[name].label


def entry(name: str, base: Experiment, rho: float | None) -> Experiment:
    """What it trains.

    Args:
      name: a method, or one of `CUTS`.
      base: the baseline's experiment.
      rho: of methods with a radius; None: each method's default.

    Raises:
      UsageError: if there is none of that name, or its share of the epochs isn't whole.
    """
    one_of("method", name, (*METHODS, *CUTS))
    if name in CUTS:
        return _cut(name, base)
    takes_it = "rho" in METHODS[name].takes
    own = dict.fromkeys(OWN) | {"rho": rho if takes_it else None}
    return dataclasses.replace(base, method=name, **own)


def _cut(name: str, base: Experiment) -> Experiment:
    share, of_batch = CUTS[name].share, CUTS[name].of_batch
    epochs = share * base.epochs
    if epochs % 1:
        raise UsageError(
            f"--methods {name} takes {share:g} of {base.epochs} epochs, which must be a "
            f"whole number; leave it out, or pass other --epochs"
        )
    size = round(share * base.batch_size) if of_batch else base.batch_size
    return dataclasses.replace(base, epochs=int(epochs), batch_size=size)


def mark(name: str, baseline: str) -> tuple[str, str]:
    """Its colour and marker in pictures."""
    if name in CUTS:
        return BLACK, "^v<"[list(CUTS).index(name)]
    return METHODS[name].colour, METHODS[name].marker
