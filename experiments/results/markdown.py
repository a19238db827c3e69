"""Comparisons and reproduced tables as Markdown, from the content of results.json."""

from collections.abc import Sequence
from pathlib import Path

from experiments.results import report, wording
from experiments.results.contents import Comparison, Timed
from experiments.results.output import PICTURE


def comparison(content: Comparison, folder: str) -> str:
    """Tables, picture, notes, and how it was made.

    Args:
      content: of results.json.
      folder: of the picture, as seen from the page.
    """
    differences = report.difference_rows(content)
    parts = [
        f"**{report.title(content)}**",
        table(report.headers(content), report.rows(content)),
        "\n".join(f"- {note}" for note in report.source_notes(content)),
        f"![{_caption(content)}]({Path(folder) / PICTURE})",
        table(report.difference_headers(content), differences) if differences else "",
        " ".join(report.notes(content)),
        how(content),
    ]
    return "\n\n".join(part for part in parts if part)


def _caption(content: Comparison) -> str:
    quoted = wording.first_upper(wording.quoted(content))
    return f"{quoted} against the cost of a training step"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Numbers are aligned to the right; the first columns are of words."""
    aligned = ["---"] * words + ["---:"] * (len(headers) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, aligned, *rows))


def how(content: Timed) -> str:
    """Hyperparameters, command, time and machine."""
    # Of a table, which may have been stopped and continued, the training alone is timed.
    what = " of training" if "table" in content else ""
    machine = report.made_on(content, report.accelerator(content))
    # A reproduced table's notes tell where they come from.
    search = f"Hyperparameters: {content['search']}. " if "search" in content else ""
    return (
        f"{search}Command: `{content['command']}` "
        f"({content['seconds'] / 60:.1f} minutes{what} on {machine})."
    )
