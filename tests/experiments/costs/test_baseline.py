"""Two builds side by side: the older one is taken from git, asked in turn, and removed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

import ksam_jax
from experiments import benchmark
from experiments.configs.benchmark import CPU
from experiments.costs.baseline import commits, paired
from experiments.costs.baseline.builds import FailedError, both
from experiments.costs.benchmark.plan import Case
from experiments.models import MLP
from experiments.shell import cli

TINY = replace(CPU["mlp"], model=partial(MLP, widths=(8,)), shape=(5, 3, 1), batch_size=12)
OURS = Path(ksam_jax.__file__).parent
ROOT = OURS.parent


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def committed(folder, name):
    git(folder, "add", "--all")
    git(folder, "commit", "--message", name)
    git(folder, "branch", name)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A project whose branches are: nothing yet, no K-SAM, SAM that is ASAM."""
    folder = tmp_path_factory.mktemp("checkout")
    git(folder, "init", "--quiet")
    (folder / "README.md").write_text("a project")
    committed(folder, "empty")
    shutil.copytree(OURS, folder / "ksam_jax", ignore=shutil.ignore_patterns("*.pyc"))
    front = folder / "ksam_jax" / "__init__.py"
    known = front.read_text()
    front.write_text(f"{known}\ndel k_sam\n")
    committed(folder, "without_k_sam")
    front.write_text(f"{known}\n\n\ndef sam():\n    return asam(eta=0.02)\n")
    committed(folder, "asam")
    return folder


@pytest.fixture
def here(checkout, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "here", lambda: checkout)
    monkeypatch.setattr(benchmark, "workloads", lambda backend: {"mlp": TINY})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path


def run(folder, *options):
    options = (*options, "--models", "mlp", "--rounds", 2, "--compiles", 1, "--out", folder)
    return cli.run(benchmark.main, [str(option) for option in options])


def test_both_builds_are_measured_and_nothing_is_left_behind(here, checkout, capsys):
    options = ("--baseline", "asam", "--methods", "sam", "k_sam")
    assert run(here, *options) == 0
    assert "new / baseline" in capsys.readouterr().out
    file = here / "benchmark" / "baseline" / "mlp.json"
    content = json.loads(file.read_text(), parse_constant=pytest.fail)
    commit = git(checkout, "rev-parse", "asam").strip()
    assert content["builds"] == {"new": commit, "baseline": commit}
    assert content["command"].endswith(f"--baseline {commit} --compiles 1 --out DIR")
    assert content["parameters"] == 15 * 8 + 8 + 80 + 10
    assert_measured(content["cases"])
    assert list((here / "temporary").iterdir()) == []
    # The same again is there already, and needs no process.
    assert run(here, *options) == 0
    assert "measured on 2" in capsys.readouterr().out


def assert_measured(found):
    cases = {case["method"]: case for case in found}
    assert list(cases) == ["sgd", "sam", "k_sam"]
    # The library is another one, and nothing else is.
    assert cases["sgd"]["operations"] == cases["k_sam"]["operations"] == 1
    assert cases["sam"]["operations"] < 1
    for case in cases.values():
        assert case["time"]["n"] == 2
        assert case["time"]["median"] > 0
        assert case["compile"]["n"] == 1
        for build in ("new", "baseline"):
            assert case[build]["temporary_bytes"] > 0
            assert case[build]["time_vs_sgd"]["median"] > 0


@pytest.mark.slow
def test_a_method_that_the_commit_lacks(here, capsys):
    options = ("--baseline", "without_k_sam", "--methods")
    assert run(here, *options, "k_sam") == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "this one can't do K-SAM, k = 0.25" in line
    assert "ksam_jax has no k_sam): take " in line
    assert "--methods without k_sam, or a later commit" in line
    assert list((here / "temporary").iterdir()) == []
    assert run(here, *options, "sam") == 0


@pytest.mark.parametrize(
    ("commit", "line"),
    [
        ("nonsense", "--baseline must be a commit of this checkout; got 'nonsense': "),
        ("HEAD~9", "git fetch --unshallow"),
        ("--help", "got '--help'"),
        ("empty", "must be a commit that has ksam_jax/__init__.py; 'empty' has none"),
    ],
)
def test_a_commit_that_is_none(here, capsys, commit, line):
    assert run(here, f"--baseline={commit}") == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_outside_of_a_checkout(here, checkout, monkeypatch, capsys):
    for folder in (here, checkout / "ksam_jax"):
        monkeypatch.setattr(benchmark, "here", lambda folder=folder: folder)
        assert run(here, "--baseline", "HEAD") == 2
        line = "--baseline needs a git checkout of the project, and this copy is none"
        assert line in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(here))
    assert run(here, "--baseline", "HEAD") == 2
    assert "--baseline needs git, which isn't there" in capsys.readouterr().err


def test_compiles_must_be_some(here, capsys):
    options = ["--models", "mlp", "--baseline", "asam", "--compiles", "0"]
    assert cli.run(benchmark.main, options) == 2
    assert "--compiles must be at least 1; got 0" in capsys.readouterr().err


def test_only_the_library_is_taken(checkout, tmp_path):
    commits.export(checkout, "asam", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ksam_jax"]
    assert "asam(eta=0.02)" in (tmp_path / "ksam_jax" / "__init__.py").read_text()


def test_changes_are_told(checkout):
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert commits.current(checkout) == commit
    readme = checkout / "README.md"
    before = readme.read_text()
    readme.write_text("another project")
    assert commits.current(checkout) == f"{commit}-dirty"
    readme.write_text(before)


HELD = """
import sys, tempfile, time
from pathlib import Path
from experiments.costs.baseline.builds import both
tempfile.tempdir = sys.argv[2]
with both(Path(sys.argv[1]), "asam"):
    print("open", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_program_that_is_killed(checkout, tmp_path, number):
    words = [sys.executable, "-c", HELD, str(checkout), str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=env) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"open\n"
        assert [path.name for path in next(tmp_path.iterdir()).iterdir()] == ["ksam_jax"]
        program.send_signal(number)
    until = time.monotonic() + 30
    while list(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_died(checkout):
    with both(checkout, "asam") as builds:
        for build in builds.values():
            build._process.kill()
            line = f"process of the {build.name} build is gone, with status -9"
            with pytest.raises(cli.RunError, match=line):
                build.ask("compile", None)


class Said:
    """A build whose figures are given by formulas."""

    def __init__(self, name, factor, order):
        self.name, self.factor, self.order = name, factor, order

    def ask(self, name, *args):
        return getattr(self, name)(*args)

    def open(self, workload, dtype):
        return 7

    def compile(self, case):
        self.order.append((self.name, case.method))
        size = 2.0 if case.method == "sam" else 1.0
        return {
            "operations": self.factor * size,
            "temporary_bytes": int(64 * self.factor * size),
            "compile_seconds": 3 * self.factor * size,
        }

    def warm_up(self, case):
        return None if case.method == "asam" else 0.5 * self.factor

    def burst(self, case, steps):
        assert steps == 1
        is_second = len(self.order) % 2
        return self.compile(case)["operations"] * (1.2 if is_second else 1.0)


def settings(*methods):
    return SimpleNamespace(
        methods=methods, keeps=("auto",), dtype="float32", rounds=4, compiles=2
    )


@pytest.fixture
def order():
    """Who was asked to compile and to run what, in turn."""
    return []


@pytest.fixture
def paired_cases(order):
    """Of SGD, SAM and ASAM, where the new build takes half as long."""
    builds = {"new": Said("new", 0.5, order), "baseline": Said("baseline", 1.0, order)}
    found = paired.of_model(builds, TINY, settings("sam", "asam"), lambda text: None)
    assert found["parameters"] == 7
    return found["cases"]


def quartiles(n, lower, median, upper):
    return {"n": n, "median": median, "lower_quartile": lower, "upper_quartile": upper}


def test_ratios_are_of_the_same_step(paired_cases):
    sgd, sam, asam = paired_cases
    assert (sgd["operations"], sgd["temporary"]) == (0.5, 0.5)
    assert sgd["compile"] == quartiles(2, 0.5, 0.5, 0.5)
    # Who comes second takes longer, so each has to as often as the other.
    low, high = 0.5 / 1.2, 0.5 * 1.2
    assert sam["time"] == pytest.approx(quartiles(4, low, (low + high) / 2, high))
    # There was too little memory for it.
    assert asam["time"] is asam["new"]["seconds"] is asam["new"]["time_vs_sgd"] is None


def test_each_build_is_compared_with_its_own_sgd(paired_cases):
    _, sam, _ = paired_cases
    assert sam["new"]["operations_vs_sgd"] == sam["baseline"]["compile_vs_sgd"]["median"]
    assert sam["new"]["operations_vs_sgd"] == 2


def test_each_build_compiles_first_as_often_as_the_other(paired_cases, order):
    compiled = [(name, method) for name, method in order[:12] if method == "sgd"]
    assert [n for n, _ in compiled[:4]] == ["new", "baseline", "baseline", "new"]


def test_only_the_older_build_is_the_user_s_mistake():
    class Fails(Said):
        def compile(self, case):
            raise FailedError("TypeError: no")

    for failing, kind, words in (
        ("baseline", cli.UsageError, "take --methods without sam, or a later commit"),
        ("new", cli.RunError, "SAM, batch 12: TypeError: no"),
    ):
        builds = {
            name: (Fails if name == failing else Said)(name, 1.0, [])
            for name in ("new", "baseline")
        }
        with pytest.raises(kind, match=words):
            paired._asked(builds, failing, "compile", Case("sam", None, None, 12))
