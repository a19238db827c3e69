"""What the notebooks have besides code that runs: `--nbmake` runs that."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"][
    "Repository"
].removeprefix("https://github.com/")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def source(cell: Any) -> str:
    return "".join(cell["source"])


def test_all_that_are_promised_are_there():
    assert [path.stem for path in NOTEBOOKS] == [
        "flax_nnx_batchnorm_dropout",
        "quickstart",
        "reproduce_ksam",
        "scaling",
        "see_the_sharpness",
    ]


@each
def test_a_badge_on_top_opens_this_notebook(path):
    top = source(cells(path, "markdown")[0])
    where = f"github/{REPOSITORY}/blob/main/notebooks/{path.name}"
    assert f"badge.svg)](https://colab.research.google.com/{where})" in top


@each
def test_the_top_tells_how_long_it_takes(path):
    assert re.search(r"\bminutes?\b", source(cells(path, "markdown")[0]))


@each
def test_the_first_cell_installs_the_same_way_and_the_text_tells_of_the_restart(path):
    told = source(cells(path, "markdown")[1])
    assert "Restart session" in told
    first = source(cells(path, "code")[0])
    (needed,) = re.findall(r'^NEEDED = "(.*)"$', first, re.MULTILINE)
    assert needed.startswith("ksam_jax")
    others = source(cells(NOTEBOOKS[0], "code")[0])
    assert first == re.sub(r"^NEEDED = .*$", f'NEEDED = "{needed}"', others, flags=re.M)


@each
def test_the_outputs_are_those_of_one_run_from_the_top(path):
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    kinds = {output["output_type"] for output in outputs}
    assert kinds
    assert "error" not in kinds
    assert "stderr" not in {output.get("name") for output in outputs}
