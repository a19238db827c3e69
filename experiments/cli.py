"""Command lines from dataclasses, where a mistake costs one clear line, not a page."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

Config = TypeVar("Config")


class UsageError(Exception):
    """Something the user can put right; its text is the one line they see."""


def parse(
    config: type[Config], argv: Sequence[str] | None, prog: str, description: str
) -> Config:
    """Reads `config` from the command line.

    Raises:
      UsageError: if an option is unknown or its value can't be read.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            result, unknown = tyro.cli(
                config,
                args=argv,
                prog=prog,
                # tyro joins lines into endless ones, except those that start with a space.
                description=textwrap.indent(description, " "),
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_message(said.getvalue())) from None
    if unknown:
        known: Any = config
        names = [field.name for field in dataclasses.fields(known)]
        options = [f"--{name.replace('_', '-')}" for name in names]
        raise UsageError(f"unknown option {unknown[0]!r}{_suggest(unknown[0], options)}")
    return result


def _message(boxed: str) -> str:
    """The sentence in the upper part of the box that tyro draws around an error."""
    uncoloured = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    # The first line is the box's title; rules of dashes part what is inside.
    _, *inside = [line.strip(" │╭╮╰╯") for line in uncoloured.splitlines()]
    upper = itertools.dropwhile(lambda line: not line.strip("─-"), inside)
    sentence = itertools.takewhile(lambda line: line.strip("─-"), upper)
    return " ".join(sentence) or boxed.strip()


def one_of(what: str, value: str, valid: Collection[str]) -> str:
    """Returns `value` if it is one of `valid`, and raises a UsageError otherwise."""
    if value in valid:
        return value
    raise UsageError(f"unknown {what} {value!r}{_suggest(value, valid)}")


def _suggest(value: str, valid: Collection[str]) -> str:
    close = difflib.get_close_matches(value, valid, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Valid: {', '.join(valid)}"


def at_least(name: str, value: int, least: int) -> None:
    """Raises a UsageError unless `value` is at least `least`."""
    if value < least:
        raise UsageError(f"--{name} must be at least {least}; got {value}")


def fraction(name: str, value: float) -> None:
    """Raises a UsageError unless `value` is at least 0 and below 1."""
    if not 0 <= value < 1:
        raise UsageError(f"--{name} must be at least 0 and below 1; got {value:g}")


def writable(folder: Path) -> Path:
    """Makes the folder; fails before hours of work, not after.

    Raises:
      UsageError: if no file can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"can't write to {folder}: {error.strerror}") from error
    return folder


def command(prog: str, config: Any, without: Collection[str] = ()) -> str:
    """The command that gives these options, with placeholders for private folders.

    Args:
      prog: what starts it.
      config: a dataclass of options; those at their defaults aren't written.
      without: names of options that don't change the result.
    """
    words = [prog]
    for field in dataclasses.fields(config):
        value, option = getattr(config, field.name), field.name.replace("_", "-")
        if value == field.default or field.name in without:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
            continue
        is_private = isinstance(value, Path) and value.is_absolute()
        shown = "DIR" if is_private else str(value)
        words += [f"--{option}", *(value if isinstance(value, tuple) else (shown,))]
    return " ".join(words)


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """Calls `main` and returns the exit status: a UsageError is a line and status 2."""
    try:
        return main(argv)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
