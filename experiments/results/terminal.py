"""Comparisons and reproduced tables on a terminal, from the content of results.json."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.results import report
from experiments.results.contents import Comparison


def show(content: Comparison, console: Console) -> None:
    """Prints both tables and their notes."""
    console.print(_fitting(content, console))
    for note in (*report.source_notes(content), *report.notes(content)):
        console.print(note, style="dim", highlight=False)
    if content["differences"]:
        headers = report.difference_headers(content)
        console.print(table(headers, report.difference_rows(content)))


def _fitting(content: Comparison, console: Console) -> Table:
    """The table; headers, then methods and at last figures are broken if they must be."""
    names, cells, above = (
        report.headers(content),
        report.rows(content),
        report.title(content),
    )
    broken = [name.replace(" / ", "\n/ ") for name in names]
    for header in (names, broken):
        if _least_width(header, cells) <= console.width:
            return table(header, cells, above, wrap=False)
    return table(broken, cells, above)


def _least_width(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Of the table with its methods broken between words, and nothing else."""
    methods, *figures = zip(headers, *rows, strict=True)
    parts = [
        " ".join(methods).split(),
        *("\n".join(cells).split("\n") for cells in figures),
    ]
    lengths = [max(map(len, column)) for column in parts]
    # Rich puts three spaces between columns, and a margin around.
    return sum(lengths) + 3 * (len(lengths) - 1) + 4


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    *,
    wrap: bool = True,
) -> Table:
    """Figures are aligned to the right."""
    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    first, *others = headers
    table.add_column(first)
    for header in others:
        table.add_column(header, justify="right", no_wrap=not wrap)
    for row in rows:
        table.add_row(*row)
    return table
