"""Programs stand at the top, parts in rooms, and arrows between them point one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2] / "experiments"
PROGRAMS = sorted(path.stem for path in HOUSE.glob("*.py") if path.stem != "__init__")

# Each imports only from those before it.
ROOMS = (
    "shell",
    "processes",
    "judging",
    "methods",
    "data",
    "models",
    "configs",
    "costs",
    "results",
    "training",
    "flatness",
    "racing",
    "pages",
)


def modules() -> dict[str, Path]:
    """Each module's file, by its name behind `experiments`."""
    return {
        ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in sorted(HOUSE.rglob("*.py"))
    }


def imported(path: Path) -> Iterator[str]:
    """What of `experiments` a file imports, by the names behind `experiments`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: say from where"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("experiments."):
                yield name.removeprefix("experiments.")


ARROWS = {name: sorted(imported(path)) for name, path in modules().items()}


def test_the_rooms_are_these():
    inside = {name.split(".")[0] for name in ARROWS} - {"__init__", *PROGRAMS}
    assert inside == set(ROOMS)


def test_every_file_at_the_top_is_a_program():
    for name in PROGRAMS:
        source = (HOUSE / f"{name}.py").read_text(encoding="utf-8")
        assert f"python -m experiments.{name}" in source, name
        assert '\nif __name__ == "__main__":\n' in source, name


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_those_before_it(room):
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for name, wanted in ARROWS.items():
        if name.split(".")[0] == room:
            strange = [other for other in wanted if other.split(".")[0] not in allowed]
            assert not strange, f"experiments.{name} imports {strange}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_imports_another(program):
    others = {other.split(".")[0] for other in ARROWS[program]}
    assert not others & set(PROGRAMS)


def test_no_module_stands_above_itself():
    """Inside a room, too, arrows point one way."""
    known = set(ARROWS)

    def below(name: str) -> set[str]:
        return {
            other if other in known else other.rpartition(".")[0] for other in ARROWS[name]
        }

    left = {name: below(name) & known for name in known}
    while ends := {name for name, wanted in left.items() if not wanted & set(left)}:
        left = {name: wanted for name, wanted in left.items() if name not in ends}
    assert not left, f"in a circle: {sorted(left)}"


def test_a_circle_would_be_seen(tmp_path):
    lines = "import experiments.data\nfrom experiments.models import pure\nimport os\n"
    (tmp_path / "one.py").write_text(lines)
    assert list(imported(tmp_path / "one.py")) == ["data", "models.pure"]
