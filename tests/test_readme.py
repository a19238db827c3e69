"""The README's code runs as printed, and its commands exist."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_every_python_block_runs_after_those_before_it(capsys: pytest.CaptureFixture):
    blocks = _blocks("python")
    assert len(blocks) >= 8
    namespace: dict[str, object] = {}
    # A reader runs them with JAX's default promotion, not with the strict one of the tests.
    with jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, "README.md", "exec"), namespace)
    assert re.fullmatch(r"loss 0\.\d\d, rise 0\.\d{3} at 0\.050\n", capsys.readouterr().out)


def _commands() -> list[list[str]]:
    lines = "".join(_blocks("bash")).splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def test_every_block_is_of_a_language_that_is_tested():
    assert set(re.findall(r"^```(\w+)$", README, re.MULTILINE)) == {"python", "bash"}


@functools.cache
def _help(module: str) -> str:
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.mark.xdist_group("readme")
@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_of_the_readme_exists(command: list[str]):
    if command[0] == "make":
        dry_run = ["make", "--dry-run", *command[1:]]
        subprocess.run(dry_run, cwd=ROOT, check=True, capture_output=True)
        return
    assert command[:2] == ["python", "-m"]
    shown = _help(command[2])
    for option in (word for word in command[3:] if word.startswith("--")):
        assert option in shown


def test_the_figures_are_those_of_the_committed_results():
    check = [sys.executable, "-m", "experiments.figures", "--check"]
    subprocess.run(check, cwd=ROOT, check=True, capture_output=True)
