"""Who takes part: methods at the baseline's settings, and what is cut to a share.

`half` is the baseline on half of the epochs, and `k_sam_following:half` that method.
"""

import dataclasses
from typing import NamedTuple

from experiments.configs.experiment import OWN, Experiment
from experiments.methods import METHODS
from experiments.methods.palette import BLACK
from experiments.shell.cli import UsageError, one_of


class Cut(NamedTuple):
    """The baseline, or a method, at a share of its cost.

    Attributes:
      label: what tables call it, behind the baseline's or the method's.
      share: of the passes over the training examples.
      of_batch: the same share of the batch, so that the number of steps stays.
      marker: in pictures, as matplotlib names it.
    """

    label: str
    share: float
    of_batch: bool
    marker: str


CUTS = {
    "three_quarters": Cut("3/4 of the epochs", 3 / 4, of_batch=False, marker="^"),
    "half": Cut("1/2 of the epochs", 1 / 2, of_batch=False, marker="v"),
    "half_batch": Cut("1/2 of the batch and epochs", 1 / 2, of_batch=True, marker="<"),
}
# Each against the baseline, SAM, and what costs less than they do.
DEFAULT = ("sam", "k_sam_following", "k_momentum_following", "half")


class Parts(NamedTuple):
    """What a name says: the method, None for the baseline, and how it is cut, if it is."""

    method: str | None
    cut: Cut | None


def parts(name: str) -> Parts:
    """What a name is made of.

    Raises:
      UsageError: if there is no such method or cut.
    """
    if name in CUTS:
        return Parts(None, CUTS[name])
    method, is_cut, cut = name.partition(":")
    one_of("method", method, METHODS if is_cut else (*METHODS, *CUTS))
    return Parts(method, CUTS[one_of("cut", cut, CUTS)] if is_cut else None)


def label(name: str, baseline: str) -> str:
    """What tables and pictures call it."""
    method, cut = parts(name)
    found = METHODS[method or baseline].label
    return f"{found}, {cut.label}" if cut else found


def entry(name: str, base: Experiment, rho: float | None) -> Experiment:
    """What it trains.

    Args:
      name: a method, one of `CUTS`, or both as METHOD:CUT.
      base: the baseline's experiment.
      rho: of methods with a radius; None: each method's default.

    Raises:
      UsageError: if there is none of that name, or its share of the epochs isn't whole.
    """
    method, cut = parts(name)
    if method is not None:
        takes_it = "rho" in METHODS[method].takes
        own = dict.fromkeys(OWN) | {"rho": rho if takes_it else None}
        base = dataclasses.replace(base, method=method, **own)
    return _cut(name, cut, base) if cut else base


def _cut(name: str, cut: Cut, base: Experiment) -> Experiment:
    epochs = cut.share * base.epochs
    if epochs % 1:
        raise UsageError(
            f"--methods {name} takes {cut.share:g} of {base.epochs} epochs, which must be "
            f"a whole number; leave it out, or pass other --epochs"
        )
    size = round(cut.share * base.batch_size) if cut.of_batch else base.batch_size
    return dataclasses.replace(base, epochs=int(epochs), batch_size=size)


def mark(name: str, baseline: str) -> tuple[str, str]:
    """Its colour and marker in pictures."""
    method, cut = parts(name)
    colour = BLACK if method is None else METHODS[method].colour
    return colour, cut.marker if cut else METHODS[method or baseline].marker
