"""Every committed result is read by its format, and its command is one of today's."""

import importlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from experiments.costs.baseline.contents import BASELINES
from experiments.costs.benchmark.contents import BENCHMARK, LARGEST_BATCH
from experiments.costs.devices.contents import SCALING
from experiments.costs.full_size import FULL_SIZE
from experiments.costs.growth.contents import GROWTH
from experiments.flatness.contents import ALIGNMENTS, FLATNESS
from experiments.flatness.landscapes.contents import LANDSCAPE
from experiments.methods import METHODS
from experiments.pages.batchnorm import BATCHNORM
from experiments.racing.contents import RACE
from experiments.results.contents import COMPARISON
from experiments.results.speeds import SPEEDS
from experiments.shell import cli

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "results" / "reference").rglob("*.json"))
# By the program that wrote it.
FORMATS: dict[str, Any] = {
    "alignment": ALIGNMENTS,
    "batchnorm": BATCHNORM,
    "benchmark": BENCHMARK,
    "compare": COMPARISON,
    "full_size": FULL_SIZE,
    "growth": GROWTH,
    "landscape": LANDSCAPE,
    "largest_batch": LARGEST_BATCH,
    "race": RACE,
    "reproduce": COMPARISON,
    "scaling": SCALING,
    "sharpness": FLATNESS,
    "throughput": SPEEDS,
}
# Written for people alone: no program reads it again.
UNREAD = "tune"


def name(path):
    return path.relative_to(ROOT).as_posix()


def words(path):
    """Those of the command in a file, behind "python -m"."""
    python, m, *rest = shlex.split(json.loads(path.read_text())["command"])
    assert (python, m) == ("python", "-m"), path
    return rest


def program(path):
    return words(path)[0].removeprefix("experiments.")


def format_of(path):
    return BASELINES if "--baseline" in words(path) else FORMATS[program(path)]


def test_they_are_found_and_all_formats_are_there():
    assert {program(path) for path in FILES} == {*FORMATS, UNREAD}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_it_is_read_by_its_format(path):
    if program(path) == UNREAD:
        assert path.name == "tune.json"
        assert "version" not in json.loads(path.read_text())
        return
    content = format_of(path).read(path)
    assert content["command"].startswith("python -m experiments.")
    assert content["versions"].keys() >= {"python", "jax"}
    assert content.get("complete", True)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_its_command_parses_as_printed(path):
    module, *options = words(path)
    of = importlib.import_module(module)
    parsed = cli.parse(of.Config, options, of.PROG, "")
    # What a program looks at itself; others have methods of the comparison alone.
    if hasattr(of, "_checked"):
        assert of._checked(parsed)
    else:
        assert set(getattr(parsed, "methods", ())) <= METHODS.keys()
