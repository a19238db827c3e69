"""The code of README.md and of all pages in docs runs, and their commands exist."""

import contextlib
import functools
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import optax
import pytest

import ksam_jax
from experiments import figures

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET = re.compile(r'^--8<-- "(.*?)"$', re.MULTILINE)


def blocks(language: str, page: Path) -> list[str]:
    """The blocks of a language, but for files that are included whole."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in found if not SNIPPET.search(block)]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


WITH_CODE = [page for page in PAGES if blocks("python", page)]
# In a process of its own, since it sets a mesh for all that follows.
ON_DEVICES = "docs/scaling.md"
QUICK = ("README.md", "docs/index.md", "docs/moving.md", "docs/how-to/watch.md")
# Lines that a page's code prints.
SAID = {
    "README.md": (r"^loss \d\.\d{4}, \d+% ran, climb 0\.0[05]$",),
    "docs/index.md": (r"^loss 0\.\d{4}, \d+% ran, climb 0\.0[05]$",),
    "docs/sharpness.md": (r"^\S+ \S+$", r"^\[.*\]$", r" \+- "),
    "docs/how-to/precision.md": (r"^0\.57 0\.26$",),
    "docs/how-to/watch.md": (r"'perturbation_norm': 0\.05,",),
    "docs/how-to/when.md": (r"^\[0\.0, 0\.0, 0\.05, 0\.05\]$",),
    "docs/how-to/combine.md": (r"^\[0 0 0 0 1 1 1 1\]$", r"^(0\.9|1\.0) (1\.0|1\.1)$"),
}
# What a page says of the names that it doesn't define.
AFTER_TEN_LINES = "are those of the [ten lines]"


def test_the_pages_with_code_are_found():
    assert {"README.md", "docs/moving.md", "docs/how-to/flax.md", ON_DEVICES} <= set(
        map(name, WITH_CODE)
    )


def code_of(page: Path) -> list[str]:
    """All that has to run, in order."""
    needs = AFTER_TEN_LINES in page.read_text(encoding="utf-8")
    before = blocks("python", ROOT / "docs" / "index.md")[:2] if needs else []
    return before + blocks("python", page)


def pages():
    """The others take as long together as all the rest of this file."""
    for page in WITH_CODE:
        marks = () if name(page) in QUICK else pytest.mark.slow
        if name(page) != ON_DEVICES:
            yield pytest.param(page, id=name(page), marks=marks)


@contextlib.contextmanager
def types_unchecked():
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("page", list(pages()))
def test_every_python_block_runs_after_those_before_it(page: Path, capsys):
    namespace: dict[str, Any] = {}
    # A reader runs them with JAX's default promotion, not with the strict one of the tests,
    # and without a checker of types, to which a symbolic size is no int.
    with jax.numpy_dtype_promotion("standard"), types_unchecked():
        for block in code_of(page):
            before = namespace.get("tx")
            exec(compile(block, name(page), "exec"), namespace)
            is_new = namespace.get("tx") is not before and "batch" in namespace
            if is_new and AFTER_TEN_LINES in page.read_text():
                step(namespace)
    said = capsys.readouterr().out
    for wanted in SAID.get(name(page), ()):
        assert re.search(wanted, said, re.MULTILINE), said


def step(names: dict[str, Any]) -> None:
    """Two steps of what a block has made, which may only show how it is made."""
    tx, params = names["tx"], names["params"]
    batch = names.get("numbered", {**names["batch"], "index": jnp.arange(64)})
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(
            None, state, params, loss_fn=names["loss_fn"], batch=batch
        )
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(updates))
        assert float(ksam_jax.get_info(state).perturbation_norm) >= 0


def test_the_code_about_several_devices_runs_in_order():
    code = "\n".join(
        [
            *blocks("python", ROOT / ON_DEVICES),
            "assert params.shape == (3,) and bool(jnp.any(params != 0))",
        ]
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=300,
    )


def test_every_block_is_of_a_language_that_is_tested():
    # Other programs' files have no test: service units, job scripts.
    languages = {"python", "bash"}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"^```(\w+)", text, re.MULTILINE)) <= languages, page


def test_included_files_and_sections_exist():
    included = SNIPPET.findall((ROOT / "docs" / "examples.md").read_text())
    examples = sorted((ROOT / "docs" / "examples").glob("*.py"))
    assert sorted(included) == [name(path) for path in examples]
    assert SNIPPET.search((ROOT / "docs" / "index.md").read_text())
    for page in PAGES:
        for included in SNIPPET.findall(page.read_text(encoding="utf-8")):
            path, _, section = included.partition(":")
            text = (ROOT / path).read_text(encoding="utf-8")
            assert f"[start:{section}]" in text or not section, included


def test_every_public_name_is_in_the_reference():
    from ksam_jax import equinox, linen, nnx, sharpness

    text = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    public = {
        f"{module.__name__}.{name}"
        for module in (ksam_jax, sharpness, nnx, linen, equinox)
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value)
    }
    assert shown == public


def test_the_first_page_is_short_and_the_lines_of_its_table_can_be_written():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 150
    rows = re.findall(r"^\| (.+?) \| (.+?) \| .+ \|$", text.partition("## Is it")[2], re.M)
    written = [line for _, cell in rows for line in re.findall(r"`([^`]+\))`", cell)]
    methods = [line for line in written if "(..." not in line and "get_info" not in line]
    assert len(methods) >= 8
    for line in methods:
        tx = eval(line, {"ksam_jax": ksam_jax, "optax": optax, "jnp": jnp})
        assert isinstance(tx, optax.GradientTransformationExtraArgs), line


def inline(page: Path) -> list[str]:
    """Commands of ours within a sentence, and those that are set in by four spaces."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    within = re.findall(r"`(python -m experiments\.[^`]+)`", text)
    alone = re.findall(r"^ {4}(python -m experiments\..+)$", text, re.MULTILINE)
    return [re.sub(r"\s*\n\s*", " ", one) for one in (*within, *alone)]


def commands() -> list[list[str]]:
    """Those of ours, each once; "..." stands for options that the text is about."""
    lines = "".join(block for page in PAGES for block in blocks("bash", page)).replace(
        "\\\n", " "
    )
    within = [one for page in PAGES for one in inline(page)]
    parts = (*lines.splitlines(), *within)
    found = [shlex.split(line, comments=True) for line in parts]
    ours = [each for each in found if each[:1] == ["make"] or each[:2] == ["python", "-m"]]
    return [list(each) for each in dict.fromkeys(map(tuple, ours))]


def test_every_program_is_called_on_some_page():
    programs = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__"}
    called = {
        each[2].removeprefix("experiments.") for each in commands() if each[1:2] == ["-m"]
    }
    assert programs <= called


@functools.cache
def help_of(module: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit, match="0"):
        importlib.import_module(module).main(["--help"])
    return said.getvalue()


@pytest.mark.xdist_group("readme")
@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_on_the_pages_exists(command: list[str]):
    if command[0] == "make":
        dry_run = ["make", "--dry-run", *command[1:]]
        subprocess.run(dry_run, cwd=ROOT, check=True, capture_output=True)
        return
    shown = help_of(command[2])
    for option in (word for word in command[3:] if word.startswith("--")):
        assert option in shown


def test_the_figures_are_those_of_the_committed_results(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert figures.main(["--check"]) == 0, capsys.readouterr().err
