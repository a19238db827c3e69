"""What `make test` leaves out is what shares.txt says, and no test is in neither part."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import shares


def collected(nodeids, slow=()) -> list[Any]:
    def one(nodeid):
        mark = SimpleNamespace(name="slow") if nodeid in slow else None
        return SimpleNamespace(nodeid=nodeid, get_closest_marker=lambda name: mark)

    return [one(nodeid) for nodeid in nodeids]


def names(items):
    return [item.nodeid for item in items]


@pytest.mark.parametrize(
    ("number", "kept"), [(0, []), (1, [0]), (2, [0, 3]), (3, [0, 2, 4]), (9, range(6))]
)
def test_the_cases_that_run_are_spread_evenly(number, kept):
    cases = collected([f"a.py::f[{i}]" for i in range(6)])
    rest = names(shares.left_out(cases, {"a.py::f": number}))
    assert rest == [f"a.py::f[{i}]" for i in range(6) if i not in kept]


def test_what_is_slow_anyway_takes_no_place():
    cases = collected([f"a.py::f[{i}]" for i in range(3)], slow=["a.py::f[0]"])
    assert names(shares.left_out(cases, {"a.py::f": 1})) == ["a.py::f[2]"]


def test_what_the_file_does_not_name_runs():
    assert shares.left_out(collected(["a.py::f", "a.py::g[1]"]), {"a.py::h": 0}) == []


def test_a_function_runs_as_many_cases_as_fit(tmp_path):
    file = tmp_path / "shares.txt"
    cases = {f"a.py::few[{i}]": shares.TOGETHER / 3 for i in range(3)}
    cases |= {f"a.py::many[{i}]": shares.TOGETHER / 4 for i in range(9)}
    cases |= {"a.py::long": 2 * shares.TOGETHER, "a.py::longest": 2 * shares.LONGEST}
    shares.write(cases, {}, file)
    assert shares.read(file) == {"a.py::longest": 0, "a.py::many": 4}


def test_cases_are_counted_with_and_without_the_name_of_their_group(tmp_path):
    file = tmp_path / "shares.txt"
    shares.write(
        {"a.py::f@group": 99.0, "a.py::g[1]@group": 0.9, "a.py::g[2]": 0.9}, {}, file
    )
    assert shares.read(file) == {"a.py::f": 0, "a.py::g": 1}


def test_what_a_short_run_shows_is_left_out_as_well(tmp_path):
    file = tmp_path / "shares.txt"
    known = {"a.py::f": 0, "a.py::g": 2, "a.py::h": 3}
    shares.write({"a.py::g[1]": 9.0, "a.py::h[0]": 0.1, "a.py::i": 9.0}, known, file)
    assert shares.read(file) == known | {"a.py::g": 0, "a.py::i": 0}


def test_what_only_waits_takes_no_time():
    laps = shares.Laps()
    time.sleep(0.5)
    assert laps.lap() < 0.25
    before = time.process_time()
    while time.process_time() < before + 0.3:
        pass
    assert laps.lap() > 0.25


def test_the_file_names_functions_that_there_are(request):
    root = request.config.rootpath
    for name in shares.read():
        path, _, function = name.partition("::")
        text = (root / path).read_text(encoding="utf-8")
        assert function.rpartition("::")[2].rpartition(".")[2] in text, name
