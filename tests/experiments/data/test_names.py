"""A data set is asked, and nobody compares its name: it stands where it is described."""

import ast
import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[3] / "experiments"
NAMES = re.compile(r"^glue|imagenet|mnist$")
# What the catalogue is made of.
CATALOGUE = {"data/catalogue.py", "data/glue.py", "data/imagenet.py"}


def texts(source):
    """All strings of a program but those that stand alone, which are its documentation."""
    tree = ast.parse(source)
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in alone:
            continue
        if isinstance(node.value, str):
            yield node.value


def named(source):
    return [text for text in texts(source) if NAMES.search(text)]


FILES = {path.relative_to(HOUSE).as_posix(): path for path in sorted(HOUSE.rglob("*.py"))}


def test_only_the_catalogue_and_the_configs_have_names_of_data_sets():
    found = {name for name, path in FILES.items() if named(path.read_text("utf-8"))}
    others = {name for name in found if not name.startswith("configs/")}
    assert others == CATALOGUE


@pytest.mark.parametrize(
    ("source", "there"),
    [
        ('if name == "mnist": pass', True),
        ('large = name.startswith("glue/")', True),
        ('title = f"imagenet_{model}"', True),
        ("from experiments.data import imagenet", False),
        ('def f():\n    """As glue has it, or imagenet."""', False),
    ],
)
def test_a_name_would_be_seen(source, there):
    assert bool(named(source)) is there
