"""A picture that is made of result files, and knows of which."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from experiments.pages.block import Source


@dataclass(frozen=True)
class Picture:
    """A picture of several result files.

    Attributes:
      path: of the PNG.
      sources: result files.
      draw: (*contents of the sources, path=, source=) writes it; `source` is kept in it.
    """

    path: Path
    sources: tuple[Source, ...]
    draw: Callable[..., None]

    def is_fresh(self) -> bool:
        """Whether it is there, and made of these result files as they are."""
        if not self.path.is_file():
            return False
        with Image.open(self.path) as image:
            return image.info.get("Source") == self._digest()

    def write(self) -> None:
        """Draws it."""
        contents = [source.content() for source in self.sources]
        self.draw(*contents, path=self.path, source=self._digest())

    def _digest(self) -> str:
        found = hashlib.sha256()
        for source in self.sources:
            found.update(source.path.read_bytes())
        return found.hexdigest()
