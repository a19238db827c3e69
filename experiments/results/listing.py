"""The named experiments as tables, and one of them in words."""

import itertools
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from experiments.configs.experiment import Experiment, Published, Row
from experiments.data import catalogue
from experiments.data.augment import Augmentation
from experiments.methods import METHODS
from experiments.models.zoo import title
from experiments.results.ours import ours

# Widths of an accuracy with its spread, and of that with the number of its source.
ACCURACY = len("96.50 ± 0.08")
EXPECTED = ACCURACY + len(" [1]")
GAP = 2
NOTHING = "-"


def show(console: Console, rows: Iterable[Row]) -> None:
    """Prints the rows, those of one dataset and model together, with their sources."""
    rows = list(rows)
    # The same for all families, so that the whole list is aligned.
    names = max((len(row.name) for row in rows), default=0)
    for heading, family in itertools.groupby(rows, lambda row: described(row.experiment)):
        _show_family(console, heading, list(family), names)
    console.print(
        f"{len(rows)} configs. Expected: what is quoted, in percent, published or else "
        f"ours; {NOTHING} where none is known. Starting one prints the origin of its "
        "hyperparameters.",
        highlight=False,
    )


def show_tables(console: Console, tables: Iterable[tuple[str, Sequence[Row], int]]) -> None:
    """Prints the tables that can be reproduced: their sizes, and what is published.

    Args:
      console: where to.
      tables: name, rows and number of seeds of each.
    """
    shown = Table(
        box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="not bold dim"
    )
    shown.add_column("name", no_wrap=True)
    shown.add_column("what")
    for header in ("methods", "seeds"):
        shown.add_column(header, justify="right")
    shown.add_column("published %", no_wrap=True)
    for name, rows, seeds in tables:
        sizes = str(len(rows)), str(seeds)
        shown.add_row(name, described(rows[0].experiment), *sizes, _range(rows))
    console.print(shown)


def _range(rows: Sequence[Row]) -> str:
    """The lowest and the highest published figure."""
    figures = [row.published.accuracy for row in rows if row.published]
    return f"{min(figures):.2f} to {max(figures):.2f}" if figures else NOTHING


def details(row: Row, changed: Sequence[str] = ()) -> str:
    """What the row trains, what to expect of it, and where its settings come from.

    Args:
      row: whose settings are the start.
      changed: the options that change them.
    """
    experiment = row.experiment
    method = METHODS[experiment.method].label
    lines = [f"{row.name}: {method}; {described(experiment)}"]
    figure = expected(row)
    if figure is None:
        lines.append("Expected: no figure is known for it, neither published nor ours.")
    else:
        lines.append(f"Expected: {accuracy(figure)} %. {figure.source}.")
    lines.append(f"Origin: {row.origin}")
    if changed:
        lines.append(f"Changed, so that neither holds any more: {' '.join(changed)}")
    return "\n".join(lines)


def _show_family(console: Console, heading: str, rows: Sequence[Row], names: int) -> None:
    known = sources(expected(row) for row in rows)
    console.print(heading, style="bold", highlight=False)
    table = _table(console.width, names)
    for row in rows:
        table.add_row(*_cells(row, known))
    console.print(table)
    notes = Table.grid(padding=(0, 1, 0, 0))
    for number, source in enumerate(known, start=1):
        notes.add_row(f"[{number}]", f"{source}.", style="dim")
    if known:
        console.print(notes)
    console.print()


def _table(width: int, names: int) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="not bold dim"
    )
    table.add_column("name", width=names, no_wrap=True)
    # On a narrow terminal only methods are wrapped, but never to less than their header.
    room = width - names - EXPECTED - 2 * GAP
    longest = max(len(method.label) for method in METHODS.values())
    table.add_column("method", width=max(len("method"), min(longest, room)))
    table.add_column("expected %", width=EXPECTED, no_wrap=True)
    return table


def _cells(row: Row, known: Sequence[str]) -> tuple[str, str, str]:
    method = METHODS[row.experiment.method].label
    figure = expected(row)
    if figure is None:
        return row.name, method, NOTHING
    number = known.index(figure.source) + 1
    return row.name, method, f"{accuracy(figure):<{ACCURACY}} [{number}]"


def expected(row: Row) -> Published | None:
    """What is published for a row or, where nothing is, our own result."""
    return row.published or ours(row)


def sources(figures: Iterable[Published | None]) -> list[str]:
    """Where figures are printed, each source once, in order."""
    return list(dict.fromkeys(figure.source for figure in figures if figure))


def accuracy(published: Published) -> str:
    """The figure as it is printed, with its spread if one is given; in percent."""
    spread = "" if published.spread is None else f" ± {published.spread:.2f}"
    return f"{published.accuracy:.2f}{spread}"


def described(experiment: Experiment) -> str:
    """All that the rows of a family have in common."""
    dataset = catalogue.title(experiment.dataset)
    some = experiment.train_examples
    parts = [
        *([f"{some:,} training examples"] if some else []),
        f"{experiment.epochs} epochs",
        f"batch {experiment.batch_size}",
        *_augmentation(experiment.augmentation),
    ]
    return f"{dataset}, {title(experiment.model, experiment.norm)}: {', '.join(parts)}"


def _augmentation(augmentation: Augmentation) -> list[str]:
    crop = [f"crop {augmentation.crop}"] if augmentation.crop else []
    flip = ["flip"] if augmentation.flip else []
    cutout = [f"Cutout {augmentation.cutout}"] if augmentation.cutout else []
    return crop + flip + cutout
