"""A part of a page that is made of result files."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.shell import cli
from experiments.shell.formats import Format

# Where committed results are.
REFERENCE = Path("results/reference")


class Source(NamedTuple):
    """A result file, and what is in it."""

    format: Format[Any]
    path: Path

    def content(self) -> Any:
        """What the format says.

        Raises:
          UsageError: if the file can't be read, or its run wasn't finished.
        """
        content = self.format.read(self.path)
        if not content.get("complete", True):
            raise cli.UsageError(f"{self.path} is of a run that wasn't finished")
        return content


@dataclass(frozen=True)
class Block:
    """A part of a page that is made of result files.

    Attributes:
      page: the file that has the marks.
      name: of the marks.
      sources: result files.
      render: (*contents of the sources, folder=that of the pictures) -> Markdown.
      otherwise: the text as long as the first source isn't there; None: it must be.
    """

    page: Path
    name: str
    sources: tuple[Source, ...]
    render: Callable[..., str]
    otherwise: str | None = None

    def text(self) -> str:
        """The figures as Markdown."""
        if self.otherwise is not None and not self.sources[0].path.exists():
            return self.otherwise
        contents = [source.content() for source in self.sources]
        folder = os.path.relpath(self.sources[0].path.parent, self.page.parent)
        return self.render(*contents, folder=Path(folder).as_posix())

    def into(self, text: str) -> str:
        """The page's text, with the figures between the block's marks."""
        figures = self.text()
        begin, end = (f"<!-- {self.name}:{which} -->" for which in ("begin", "end"))
        if text.count(begin) != 1 or text.count(end) != 1:
            raise cli.UsageError(f"{self.page} must have {begin} and {end} once each")
        before, rest = text.split(begin)
        _, after = rest.split(end)
        return f"{before}{begin}\n{figures}\n{end}{after}"


def read(path: Path) -> str:
    """A page's text, or one line that says why not."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise cli.UsageError(f"can't read {path}: {error.strerror}") from error
