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
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro

Config = TypeVar("Config")


class UsageError(Exception):
    """Something the user can put right; its text is the one line they see."""


class RunError(Exception):
    """Something that ends a run; its text is the one line that says why.

    Attributes:
      status: what the process exits with.
      label: what is printed before the text.
    """

    status = 1
    label = "error: "


def parse(
    config: type[Config],
    argv: Sequence[str] | None,
    prog: str,
    description: str,
    default: Config | None = None,
) -> Config:
    """Reads `config` from the command line.

    Args:
      config: a dataclass of options.
      argv: the command line; None: the process's.
      prog: what starts the program.
      description: for --help.
      default: what options that aren't given are; None: the dataclass's own defaults.

    Raises:
      UsageError: if an option is unknown or its value can't be read.
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            result, unknown = tyro.cli(
                config,
                args=argv,
                **given,
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
        raise UsageError(
            f"unknown option {unknown[0]!r}{_suggest(unknown[0], _options(config))}"
        )
    return result


def _options(config: Any, prefix: str = "--") -> list[str]:
    """A dataclass's options, those of dataclasses in it included."""
    found = []
    for name, hint in typing.get_type_hints(config, include_extras=True).items():
        kind, *about = typing.get_args(hint) if hasattr(hint, "__metadata__") else [hint]
        option = prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(kind):
            # tyro leaves the name out where it is told that it is "".
            is_flat = any(getattr(one, "name", None) == "" for one in about)
            found += _options(kind, prefix if is_flat else f"{option}.")
        else:
            found.append(option)
    return found


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
    # An option of a dataclass within is looked for by its own name alone.
    close = [name for name in valid if name.endswith(f".{value.lstrip('-')}")]
    close += difflib.get_close_matches(value, valid, n=1, cutoff=0.5)
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
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{option}", *map(_public, values)]
    return " ".join(words)


def _public(value: Any) -> str:
    """A value as an option, without private folders."""
    is_path = isinstance(value, str | Path)
    is_outside = is_path and (Path(value).is_absolute() or ".." in Path(value).parts)
    return "DIR" if is_outside else str(value)


def changed(old: Any, new: Any, prefix: str = "") -> list[str]:
    """The options, with their values, that make one dataclass into another of its kind."""
    words = []
    for field in dataclasses.fields(new):
        before, now = getattr(old, field.name), getattr(new, field.name)
        option = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(now):
            words += changed(before, now, f"{option}.")
        elif isinstance(now, bool) and now != before:
            head, dot, last = option.rpartition(".")
            words.append(f"--{option}" if now else f"--{head}{dot}no-{last}")
        elif now != before:
            words += [f"--{option}", _public(now)]
    return words


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """Calls `main` and returns the exit status: a UsageError is a line and status 2.

    Flax and Optax mix dtypes, so JAX_NUMPY_DTYPE_PROMOTION=strict, as a user may have set
    it for programs of their own, doesn't hold in here.
    """
    try:
        with jax.numpy_dtype_promotion("standard"):
            return main(argv)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"{error.label}{error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
