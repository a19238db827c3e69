"""Copies measured figures from result files into README.md and the pages in docs.

Everything between two marks, <!-- NAME:begin --> and <!-- NAME:end -->, is replaced, so
that no figure there is typed by hand. With --check nothing is written: the exit status
says whether the pages are up to date. Run it in the project's folder.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from experiments.pages.block import read
from experiments.pages.blocks import BLOCKS
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
    stale = False
    for path in dict.fromkeys(block.page for block in BLOCKS):
        old = read(path)
        new = old
        for block in BLOCKS:
            if block.page == path:
                new = block.into(new)
        if new == old:
            print(f"{path} is up to date")
        elif config.check:
            stale = True
            print(f"{path} is stale: run {PROG}", file=sys.stderr)
        else:
            path.write_text(new, encoding="utf-8")
            print(f"rewrote the figures in {path}")
    return int(stale)


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
