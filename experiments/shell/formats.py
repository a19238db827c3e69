"""JSON files that are written and read again: what they have, and in which version."""

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Any,
    Generic,
    TypedDict,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from experiments.shell import files
from experiments.shell.cli import UsageError
from experiments.shell.files import Machine

Content = TypeVar("Content")


class Versioned(TypedDict):
    """What every such file has."""

    version: int


class Made(Versioned):
    """How a file of results was made, on what, and when."""

    command: str
    date: str
    machine: Machine
    versions: dict[str, str]


@dataclass(frozen=True)
class Format(Generic[Content]):
    """A kind of file.

    Attributes:
      what: is in it, in words.
      content: a TypedDict of it, `Versioned`.
      version: a higher one whenever an older file can't be read as `content`.
      remedy: what to do with an older or damaged one.
    """

    what: str
    content: type[Content]
    version: int
    remedy: str

    def write(self, path: Path, content: Mapping[str, Any]) -> Content:
        """Writes it with the version, in one go; returns what `read` gives.

        Raises:
          TypeError: if it isn't what the format says; NaN counts as None.
        """
        version = {"version": self.version}
        plain = files.plain(version | dict(content) | version)
        if wrong := problem(plain, self.content):
            raise TypeError(f"{path} must be {self.what}: {wrong}")
        files.write_json(path, plain)
        return plain

    def read(self, path: Path) -> Content:
        """The content of a file.

        Raises:
          UsageError: if it can't be read, is of another version, or isn't such a file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"can't read {path}: {error.strerror}") from error
        except ValueError as error:
            raise self._refused(path, f"it isn't JSON ({error})") from error
        if not isinstance(content, dict):
            raise self._refused(path, "it has no names")
        self._check_version(path, content.get("version"))
        if wrong := problem(content, self.content):
            raise self._refused(path, wrong)
        # It was just found to be one.
        known: Any = content
        return known

    def kept(self, path: Path) -> Content | None:
        """The same; None where there is no such file of this version."""
        try:
            return self.read(path)
        except UsageError:
            return None

    def _check_version(self, path: Path, found: Any) -> None:
        is_number = _is_a(found, int)
        if is_number and found == self.version:
            return
        is_newer = is_number and found > self.version
        said = "none" if found is None else repr(found)
        remedy = "use a newer state of this project" if is_newer else self.remedy
        raise UsageError(
            f"{path} must be {self.what} in version {self.version}, as this program reads "
            f"them; its version is {said}: {remedy}"
        )

    def _refused(self, path: Path, why: str) -> UsageError:
        return UsageError(f"{path} is not {self.what}: {why}; {self.remedy}")


def problem(value: Any, kind: Any, where: str = "") -> str:
    """What is wrong with a value of JSON; "" if it is of that kind.

    Args:
      value: of a file.
      kind: a TypedDict, or what may be in one: a class, a list or dict, a union, Any.
      where: the value is, in its file.
    """
    if kind is Any:
        return ""
    if is_typeddict(kind):
        return _problem_of_names(value, kind, where)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        found = [problem(value, one, where) for one in args]
        return "" if "" in found else found[0]
    if origin is list and isinstance(value, list):
        parts = [(i, item, args[0]) for i, item in enumerate(value)]
        return _first_problem(parts, where)
    if origin is dict and isinstance(value, dict):
        parts = [(name, item, args[1]) for name, item in value.items()]
        return _first_problem(parts, where)
    # A whole number of JSON may be meant for either.
    valid = (int, float) if kind is float else origin or kind
    if _is_a(value, valid):
        return ""
    name = getattr(origin or kind, "__name__", str(kind))
    return f"{where or 'it'} must be {name}; got {value!r:.60}"


def _is_a(value: Any, kind: Any) -> bool:
    """Whether it is of that class; to Python true and false are numbers as well."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _problem_of_names(value: Any, kind: Any, where: str) -> str:
    if not isinstance(value, dict):
        return f"{where or 'it'} must have names; got {value!r:.60}"
    if missing := sorted(kind.__required_keys__ - value.keys()):
        return f"{where or 'it'} lacks {', '.join(missing)}"
    hints = get_type_hints(kind)
    return _first_problem([(n, value[n], h) for n, h in hints.items() if n in value], where)


def _first_problem(parts: list[tuple[Any, Any, Any]], where: str) -> str:
    before = f"{where}." if where else ""
    found = (problem(value, kind, f"{before}{name}") for name, value, kind in parts)
    return next(filter(None, found), "")
