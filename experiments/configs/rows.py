"""All named experiments."""

import difflib
from collections.abc import Iterable

from experiments.configs.cifar import CIFAR
from experiments.configs.cifar_part import PART
from experiments.configs.digits import DIGITS
from experiments.configs.experiment import Row
from experiments.configs.fashion import FASHION_MNIST
from experiments.configs.glue import GLUE
from experiments.configs.imagenet import IMAGENET
from experiments.configs.mnist import MNIST
from experiments.configs.small import SMALL
from experiments.configs.text import SST2
from experiments.shell.cli import UsageError


def by_name(rows: Iterable[Row]) -> dict[str, Row]:
    """The rows by name, in order.

    Raises:
      ValueError: if two have the same name.
    """
    named: dict[str, Row] = {}
    for row in rows:
        if row.name in named:
            raise ValueError(f"names of rows must be unique; got {row.name!r} twice")
        named[row.name] = row
    return named


# The quick ones first.
ROWS = by_name(
    (*DIGITS, *MNIST, *SMALL, *PART, *CIFAR, *FASHION_MNIST, *SST2, *GLUE, *IMAGENET)
)


def row(name: str) -> Row:
    """The row of that name.

    Raises:
      UsageError: if there is none.
    """
    if name in ROWS:
        return ROWS[name]
    # Not `cli.one_of`, which prints all names: too many for a line.
    close = difflib.get_close_matches(name, ROWS, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise UsageError(f"unknown config {name!r}{hint} --list shows all {len(ROWS)}")
