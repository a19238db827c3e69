"""The README's code runs as printed, and its commands exist."""

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

import jax
import pytest

from experiments import figures

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def _blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_every_python_block_runs_after_those_before_it(capsys: pytest.CaptureFixture):
    blocks = _blocks("python")
    assert len(blocks) >= 8
    namespace: dict[str, object] = {}
    # A reader runs them with JAX's default promotion, not with the strict one of the tests.
    with jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), namespace)
    wanted = r"loss 0\.\d\d, rise 0\.\d{3} at 0\.050\n0\.\d+ \[.*\] (0\.\d+|1\.0)\n"
    assert re.fullmatch(wanted, capsys.readouterr().out)


def test_the_code_about_several_devices_runs_in_order():
    """In a process of its own, since it sets a mesh for all that follows."""
    blocks = _blocks("python", (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"))
    assert len(blocks) >= 3
    code = "\n".join(
        [*blocks, "assert params.shape == (3,) and bool(jnp.any(params != 0))"]
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=300,
    )


def test_the_code_about_sharpness_runs_in_order(capsys: pytest.CaptureFixture[str]):
    page = (ROOT / "docs" / "sharpness.md").read_text(encoding="utf-8")
    namespace: dict[str, object] = {}
    with jax.numpy_dtype_promotion("standard"):
        for block in _blocks("python", page):
            exec(compile(block, "sharpness.md", "exec"), namespace)
    assert len(capsys.readouterr().out.splitlines()) >= 5


def _commands() -> list[list[str]]:
    blocks = _blocks("bash") + _blocks("bash", TRAINING)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def test_every_block_is_of_a_language_that_is_tested():
    assert set(re.findall(r"^```(\w+)$", README, re.MULTILINE)) == {"python", "bash"}


@functools.cache
def _help(module: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit, match="0"):
        importlib.import_module(module).main(["--help"])
    return said.getvalue()


@pytest.mark.xdist_group("readme")
@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_on_the_pages_exists(command: list[str]):
    if command[0] == "make":
        dry_run = ["make", "--dry-run", *command[1:]]
        subprocess.run(dry_run, cwd=ROOT, check=True, capture_output=True)
        return
    assert command[:2] == ["python", "-m"]
    shown = _help(command[2])
    for option in (word for word in command[3:] if word.startswith("--")):
        assert option in shown


def test_the_figures_are_those_of_the_committed_results(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert figures.main(["--check"]) == 0, capsys.readouterr().err
