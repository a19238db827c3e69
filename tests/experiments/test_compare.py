"""The main job from the command line: what it writes, and what mistakes cost."""

import json
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from hand_chosen import write_choices

from experiments import compare
from experiments.flatness import slices
from experiments.results import plots
from experiments.results.intervals import estimate
from experiments.results.output import PARTIAL, PICTURE, RESULTS, SLICE
from experiments.shell import cli

pytestmark = pytest.mark.xdist_group("compare")


def run(*options):
    return cli.run(compare.main, [str(option) for option in options])


# All tests read the results of one run, so they belong into one process.
pytestmark = pytest.mark.xdist_group("compare")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Two methods, two splits, two seeds, two epochs."""
    folder = tmp_path_factory.mktemp("compare")
    write_choices(folder / "chosen")
    (folder / "out" / "digits").mkdir(parents=True)
    (folder / "out" / "digits" / RESULTS).write_text('{"old": true}')
    status = run(
        *("--methods", "k_sam", "sgd", "--splits", 2, "--seeds", 2, "--epochs", 2),
        *("--label-noise", 0.1, "--out", folder / "out", "--chosen", folder / "chosen"),
    )
    assert status == 0
    return folder / "out" / "digits"


@pytest.fixture(scope="module")
def content(outcome):
    return json.loads((outcome / RESULTS).read_text(), parse_constant=pytest.fail)


def test_files_are_written(outcome):
    assert {path.name for path in outcome.iterdir()} == {RESULTS, PICTURE, SLICE}
    for name in (PICTURE, SLICE):
        assert (outcome / name).read_bytes().startswith(b"\x89PNG")


def test_every_run_is_in_the_results(content):
    assert content["complete"] is True
    assert list(content["methods"]) == ["sgd", "k_sam"]
    for entry in content["methods"].values():
        assert [run["split"] for run in entry["runs"]] == [0, 1]
        for run_ in entry["runs"]:
            assert run_["chosen_on_split"] == 0
            for name in ("test_accuracy", "validation_accuracy", "train_loss", "sharpness"):
                assert len(run_[name]) == 2
            hits = np.array(run_["test_accuracy"]) * 897
            np.testing.assert_allclose(hits, np.round(hits), atol=1e-6)
    assert content["methods"]["k_sam"]["cost"]["operations_vs_sgd"] < 0.85


def test_slices_go_through_the_solutions_of_the_first_split(content):
    for entry in content["methods"].values():
        first, second = entry["runs"]
        assert "slice" not in second
        at, losses = (np.array(first["slice"][name]) for name in ("at", "losses"))
        assert losses.shape == (2, *at.shape)
        middle = losses[:, np.flatnonzero(at == 0)[0]]
        np.testing.assert_allclose(middle, first["train_loss"], rtol=1e-5)
        # Each seed has a direction of its own.
        assert not np.isclose(losses[0, 0], losses[1, 0], rtol=1e-3)


def test_a_slice_leaves_out_what_is_not_finite(tmp_path, content):
    broken = json.loads(json.dumps(content))
    broken["methods"]["sgd"]["runs"][0]["slice"]["losses"][0][3] = None
    broken["methods"]["k_sam"]["runs"][0]["slice"]["losses"] = [[None] * 21] * 2
    slices.draw(broken, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    # With nothing to draw, an older picture doesn't stay either.
    del broken["methods"]["sgd"]
    slices.draw(broken, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_summaries_and_differences_follow_from_the_runs(content):
    table = {
        name: np.array([run["test_accuracy"] for run in entry["runs"]])
        for name, entry in content["methods"].items()
    }
    for name, values in table.items():
        expected = estimate(values.mean(axis=1))
        summary = content["methods"][name]["summary"]["test_accuracy"]
        assert summary["mean"] == pytest.approx(expected.mean)
        assert summary["high"] == pytest.approx(expected.high)
    (difference,) = content["differences"]
    assert (difference["method"], difference["minus"]) == ("k_sam", "sgd")
    assert (difference["over"], difference["n"]) == ("splits", 2)
    expected = table["k_sam"].mean() - table["sgd"].mean()
    assert difference["mean"] == pytest.approx(expected)


def test_how_it_was_made_is_in_the_results(content):
    assert content["command"] == (
        "python -m experiments.compare --methods k_sam sgd --seeds 2 --epochs 2 "
        "--label-noise 0.1 --out DIR --chosen DIR --splits 2"
    )
    assert content["dataset"]["test"] == 897
    assert content["protocol"]["epochs"] == 2
    assert content["config"]["label_noise"] == 0.1
    assert content["notes"] == [
        "Hyperparameters were chosen with epochs 60.",
        "Hyperparameters on split 1 are those chosen on split 0.",
    ]


def test_a_stopped_run_leaves_what_it_had_and_the_old_results(
    tmp_path, chosen, monkeypatch
):
    out = tmp_path / "digits"
    out.mkdir()
    (out / RESULTS).write_text('{"old": true}')

    def stopped(study, methods, splits, console, on_result, extra):
        values = ("test_accuracy", "validation_accuracy", "train_loss", "sharpness")
        run = {"split": 0, "hyperparameters": {}, "seconds": 1.0}
        on_result({"sgd": [run | {name: [0.5] for name in values}]})
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "train_all", stopped)
    small = ("--epochs", 1, "--seeds", 1, "--methods", "sgd", "--chosen", chosen)
    assert run(*small, "--out", tmp_path) == 130
    assert json.loads((out / RESULTS).read_text()) == {"old": True}
    partial = json.loads((out / PARTIAL).read_text())
    assert partial["complete"] is False
    summary = partial["methods"]["sgd"]["summary"]
    assert summary["seeds"] == 1
    assert summary["test_accuracy"]["std_over_seeds"] is None


def test_a_picture_of_one_seed_and_one_method(tmp_path, content):
    one = json.loads(json.dumps(content))
    del one["methods"]["sgd"]
    values = one["methods"]["k_sam"]["summary"]
    values["splits"] = 1
    values["test_accuracy"]["std_over_seeds"] = None
    plots.accuracy_against_cost(one, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--methods", "sgd", "ksam"],
            "unknown method 'ksam'; did you mean 'k_sam'? Valid: ",
        ),
        (["--methods"], "--methods needs at least one of sgd, "),
        (["--dataset", "mnits"], "unknown dataset 'mnits'; did you mean 'mnist'? Valid: "),
        (["--label-noise", "1.5"], "--label-noise must be at least 0 and below 1; got 1.5"),
        (
            ["--label-noise", "-0.1"],
            "--label-noise must be at least 0 and below 1; got -0.1",
        ),
        (["--label-noise", "nan"], "--label-noise must be at least 0 and below 1; got nan"),
        (["--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["--splits", "-1"], "--splits must be at least 1; got -1"),
        (["--epochs", "0"], "--epochs must be at least 1; got 0"),
        (
            ["--batch-size", "385"],
            "--batch-size 385 is more than the 384 training examples",
        ),
        (["--seeds", "many"], "invalid literal for int()"),
        (["--sedes", "3"], "unknown option '--sedes'; did you mean '--seeds'?"),
        (["--out", __file__], "can't write to "),
        (
            ["--dataset", "mnist", "--data-dir", "nowhere"],
            "'mnist' is not prepared in nowhere",
        ),
    ],
)
def test_mistakes_cost_one_line(tmp_path, monkeypatch, capsys, options, line):
    monkeypatch.chdir(tmp_path)
    assert run(*options) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert line in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_itself_exits_with_2_and_no_traceback():
    command = [sys.executable, "-m", "experiments.compare", "--methods", "smm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown method 'smm'; did you mean 'sam'?")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    said = capsys.readouterr().out
    for field in fields(compare.Config):
        assert f"--{field.name.replace('_', '-')}" in said
    assert "highest_loss (highest loss, no climb)" in said
