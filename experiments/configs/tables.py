"""Tables to reproduce: all methods on one dataset with one network."""

from collections.abc import Iterable
from dataclasses import dataclass

from experiments.configs.experiment import Row
from experiments.configs.rows import ROWS
from experiments.data import catalogue
from experiments.models import zoo
from experiments.shell.cli import one_of

# Three as in most papers; the quick ones can have more, and one shows that a path works.
SEEDS = 3
SEEDS_OF = {"digits": 5, "mnist_1000": 5, "mnist_5000": 5, "cifar10_resnet8": 1}


@dataclass(frozen=True)
class Table:
    """A family of rows: they differ in the method and its hyperparameters only.

    Attributes:
      name: what the command line calls it; its rows' names begin with it.
      title: the dataset and the network.
      rows: names of its rows, in order.
      seeds: how many each row is trained with, unless told otherwise.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    seeds: int


def by_family(rows: Iterable[Row]) -> dict[str, Table]:
    """A table for each family, in the order of its first row."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    return {name: _table(name, family) for name, family in families.items()}


def _table(name: str, family: list[Row]) -> Table:
    what = family[0].experiment
    dataset = catalogue.title(what.dataset)
    some = f" ({what.train_examples:,} training examples)" if what.train_examples else ""
    title = f"{dataset}{some}, {zoo.title(what.model, what.norm)}"
    names = tuple(row.name for row in family)
    return Table(name, title, names, SEEDS_OF.get(name, SEEDS))


TABLES = by_family(ROWS.values())


def table(name: str) -> Table:
    """The table of that name.

    Raises:
      UsageError: if there is none.
    """
    return TABLES[one_of("table", name, TABLES)]
