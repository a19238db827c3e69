"""Files that are read again: their version and content, and one line where it's wrong."""

import json
import math
from typing import NotRequired, TypedDict

import numpy as np
import pytest

from experiments.shell.cli import UsageError
from experiments.shell.formats import Format, Versioned, problem


class Part(TypedDict):
    share: float
    rows: list[list[float | None]]


class Whole(Versioned):
    title: str
    parts: dict[str, Part]
    remark: NotRequired[str | None]


FORMAT = Format("a whole", Whole, version=2, remedy="make it again")
PART = {"share": 1, "rows": [[0.5, None], []]}
WHOLE = {"version": 2, "title": "all", "parts": {"a": PART}}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "folder" / "whole.json"
    rows = np.array([[0.5, math.nan]])
    written = FORMAT.write(path, {"title": "all", "parts": {"a": {**PART, "rows": rows}}})
    assert written == {**WHOLE, "parts": {"a": {"share": 1, "rows": [[0.5, None]]}}}
    assert FORMAT.read(path) == written == FORMAT.kept(path)
    assert next(iter(json.loads(path.read_text()))) == "version"


def test_true_is_neither_a_version_nor_a_whole_number(tmp_path):
    """Python takes it for 1."""
    first = Format("a whole", Versioned, version=1, remedy="make it again")
    path = tmp_path / "first.json"
    path.write_text('{"version": true}')
    with pytest.raises(UsageError, match=r"its version is True: make it again"):
        first.read(path)
    assert problem(True, int | None) == "it must be int; got True"
    assert not problem(True, bool)


def test_what_is_read_and_written_again_has_the_version_of_today(tmp_path):
    path = tmp_path / "whole.json"
    assert FORMAT.write(path, {**WHOLE, "version": 1}) == WHOLE == FORMAT.read(path)


def test_nothing_else_is_written(tmp_path):
    path = tmp_path / "whole.json"
    with pytest.raises(TypeError, match=r"whole.json must be a whole: it lacks title"):
        FORMAT.write(path, {"parts": {}})
    assert not path.exists()


@pytest.mark.parametrize(
    ("version", "said", "remedy"),
    [
        (1, "its version is 1", "make it again"),
        (None, "its version is none", "make it again"),
        ("2", "its version is '2'", "make it again"),
        (True, "its version is True", "make it again"),
        (3, "its version is 3", "use a newer state of this project"),
    ],
)
def test_another_version_is_told_with_the_remedy(tmp_path, version, said, remedy):
    path = tmp_path / "whole.json"
    content = {**WHOLE, "version": version}
    if version is None:
        del content["version"]
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError) as caught:
        FORMAT.read(path)
    assert str(caught.value) == (
        f"{path} must be a whole in version 2, as this program reads them; {said}: {remedy}"
    )
    assert FORMAT.kept(path) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "it isn't JSON"),
        ("[]", "it has no names"),
        (json.dumps({**WHOLE, "title": 3}), "title must be str; got 3"),
        (json.dumps({**WHOLE, "parts": []}), r"parts must be dict; got \[\]"),
        (
            json.dumps({**WHOLE, "parts": {"a": {**PART, "share": "1"}}}),
            "parts.a.share must be float; got '1'",
        ),
        (
            json.dumps({**WHOLE, "parts": {"a": {**PART, "rows": [[1], [0, "x"]]}}}),
            r"parts.a.rows.1.1 must be float; got 'x'",
        ),
        (json.dumps({**WHOLE, "parts": {"a": {"rows": []}}}), "parts.a lacks share"),
        (
            json.dumps({**WHOLE, "parts": {"a": {**PART, "share": True}}}),
            "parts.a.share must be float; got True",
        ),
    ],
)
def test_a_file_of_something_else_says_where(tmp_path, text, why):
    path = tmp_path / "whole.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"whole.json is not a whole: {why}") as caught:
        FORMAT.read(path)
    assert str(caught.value).endswith("; make it again")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"can't read .*nowhere.json: No such file"):
        FORMAT.read(tmp_path / "nowhere.json")
    assert FORMAT.kept(tmp_path / "nowhere.json") is None


def test_what_need_not_be_there_is_looked_at_if_it_is():
    assert not problem({**WHOLE, "remark": None}, Whole)
    assert not problem({**WHOLE, "unknown": object()}, Whole)
    assert problem({**WHOLE, "remark": 1}, Whole) == "remark must be str; got 1"
