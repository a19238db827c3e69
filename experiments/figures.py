"""Copies measured figures from result files into README.md and the pages in docs.

Everything between two marks, <!-- NAME:begin --> and <!-- NAME:end -->, is replaced, so
that no figure there is typed by hand; and pictures of several result files are drawn. With
--check nothing is written: the exit status says whether all is up to date. Run it in the
project's folder.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from experiments.pages.block import read
from experiments.pages.blocks import BLOCKS, PICTURES
from experiments.pages.picture import Picture
from experiments.shell import cli

PROG = "python -m experiments.figures"


@dataclass(frozen=True)
class Config:
    """Options of the copying."""

    check: Annotated[
        bool, arg(help="Write nothing; exit status 1 if a page isn't up to date.")
    ] = False


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrites or checks the pages, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    stale = [_picture(picture, config.check) for picture in PICTURES]
    stale += [_page(path, config.check) for path in dict.fromkeys(b.page for b in BLOCKS)]
    return int(any(stale))


def _picture(picture: Picture, check: bool) -> bool:
    """Draws it if it is stale; whether it is, where nothing is written."""
    if not check and not picture.is_fresh():
        picture.write()
        print(f"drew {picture.path}")
    return _told(picture.path, picture.is_fresh())


def _page(path: Path, check: bool) -> bool:
    """Rewrites a page if it is stale; whether it is, where nothing is written."""
    old = new = read(path)
    for block in BLOCKS:
        if block.page == path:
            new = block.into(new)
    if new != old and not check:
        path.write_text(new, encoding="utf-8")
        print(f"rewrote the figures in {path}")
    return _told(path, new == old or not check)


def _told(path: Path, is_fresh: bool) -> bool:
    if is_fresh:
        print(f"{path} is up to date")
    else:
        print(f"{path} is stale: run {PROG}", file=sys.stderr)
    return not is_fresh


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
