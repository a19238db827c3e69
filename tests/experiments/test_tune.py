"""The search for one setting: ranked by held-out examples, by hand from the runs."""

import json
import shutil
from typing import NamedTuple

import pytest
import runs

from experiments import tune
from experiments.shell import cli
from experiments.training.harness import curves, grid

pytestmark = pytest.mark.xdist_group("train")

VALUES, SEEDS = ("0.001", "0.3"), 2
SIZES = ("--validation-examples", "200", "--train-examples", "256", "--epochs", "1")
SETTING = ("--config", "digits_sgd", "--setting", "learning_rate")


class Found(NamedTuple):
    status: int
    out: str
    err: str


def search(folder, *options, values=VALUES, setting=SETTING):
    argv = [*setting, *SIZES, "--values", *values, "--num-processes", "1"]
    with pytest.MonkeyPatch.context() as patch, runs.captured() as said:
        patch.setattr(curves, "draw", lambda *content: None)
        status = cli.run(tune.main, [*argv, "--out", str(folder), *options])
    return Found(status, *(text.getvalue() for text in said))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    found = search(folder, "--seeds", str(SEEDS))
    assert found.status == 0, found.err
    return folder / "digits_sgd" / "learning_rate", found


def results(folder, value):
    paths = [folder / value / f"seed-{seed}" / "result.json" for seed in range(SEEDS)]
    return [json.loads(path.read_text()) for path in paths]


def held_out(folder, value):
    scores = [found["last"]["validation_accuracy"] for found in results(folder, value)]
    return sum(scores) / SEEDS


@pytest.mark.slow
def test_values_are_ranked_by_their_seeds_mean_on_held_out_examples(whole):
    folder, found = whole
    content = json.loads((folder / "tune.json").read_text())
    by_hand = {float(value): held_out(folder, value) for value in VALUES}
    assert content["found"] == [[value, score] for value, score in by_hand.items()]
    assert content["best"] == max(by_hand, key=by_hand.__getitem__)
    assert len(set(by_hand.values())) == len(VALUES)
    for value, score in by_hand.items():
        mark = " (best)" * (value == content["best"])
        line = next(line for line in found.out.splitlines() if f"{value:g}{mark} " in line)
        assert f"{100 * score:.2f}" in line
    # What is drawn can't be told from the other way around by chance.
    assert by_hand[0.001] < by_hand[0.3]


@pytest.mark.slow
def test_runs_are_what_was_asked_for(whole):
    for value in VALUES:
        for seed, found in enumerate(results(whole[0], value)):
            mine = found["experiment"]
            assert (mine["learning_rate"], mine["seed"]) == (float(value), seed)
            assert (found["dataset"]["train"], found["dataset"]["validation"]) == (256, 200)
            assert mine["epochs"] == 1


@pytest.mark.slow
def test_test_figures_are_neither_shown_nor_kept_with_the_choice(whole):
    folder, found = whole
    kept = (folder / "tune.json").read_text()
    assert "test" not in found.out + kept
    for value in VALUES:
        for one in results(folder, value):
            figure = one["last"]["test_accuracy"]
            assert f"{figure:.1%}" not in found.out
            assert str(figure) not in kept


@pytest.mark.slow
def test_the_choice_does_not_depend_on_the_test_examples(whole, tmp_path):
    # The opposite figures there, and the same choice.
    folder = tmp_path / "digits_sgd" / "learning_rate"
    shutil.copytree(whole[0], folder)
    for path in folder.rglob("result.json"):
        content = json.loads(path.read_text())
        for end in ("last", "best"):
            content[end]["test_accuracy"] = 1 - content[end]["validation_accuracy"]
        path.write_text(json.dumps(content))
    assert search(tmp_path, "--seeds", str(SEEDS)).status == 0
    here, there = (json.loads((f / "tune.json").read_text()) for f in (folder, whole[0]))
    assert (here["found"], here["best"]) == (there["found"], there["best"])


@pytest.mark.slow
def test_the_command_has_no_private_folder(whole):
    folder, _ = whole
    kept = (folder / "tune.json").read_text()
    assert str(folder.parents[1]) not in kept
    assert json.loads(kept)["command"] == (
        "python -m experiments.tune --config digits_sgd --setting learning_rate --values "
        "0.001 0.3 --seeds 2 --validation-examples 200 --train-examples 256 --epochs 1 "
        "--out DIR"
    )


@pytest.mark.slow
def test_what_is_done_is_not_repeated(whole, tmp_path, monkeypatch):
    folder = tmp_path / "digits_sgd" / "learning_rate"
    shutil.copytree(whole[0], folder)
    monkeypatch.setattr(grid, "_trained", lambda *run: pytest.fail("trained again"))
    found = search(tmp_path, "--seeds", str(SEEDS))
    assert found.status == 0, found.err
    # A value more is all that is trained.
    trained = []

    def noted(cell, *others):
        trained.append((cell.experiment.learning_rate, cell.experiment.seed))
        return grid.Outcome(cell, None, "not today")

    monkeypatch.setattr(grid, "_trained", noted)
    found = search(tmp_path, values=(*VALUES, "0.2"))
    assert found.status == 0, found.err
    assert trained == [(0.2, 0)]
    content = json.loads((folder / "tune.json").read_text())
    assert content["found"][-1] == [0.2, None]
    assert content["best"] in map(float, VALUES)
    assert any("0.2" in line and "failed" in line for line in found.out.splitlines())


@pytest.mark.slow
def test_a_value_with_a_failed_run_has_no_mean(whole, tmp_path, monkeypatch):
    folder = tmp_path / "digits_sgd" / "learning_rate"
    shutil.copytree(whole[0], folder)
    best = json.loads((folder / "tune.json").read_text())["best"]
    (folder / f"{best:g}" / "seed-1" / "result.json").unlink()

    def failed(cell, *others):
        return grid.Outcome(cell, None, "not today")

    monkeypatch.setattr(grid, "_trained", failed)
    assert search(tmp_path, "--seeds", str(SEEDS)).status == 0
    content = json.loads((folder / "tune.json").read_text())
    assert dict(content["found"])[best] is None
    assert content["best"] != best


@pytest.mark.slow
def test_if_all_fail_it_is_one_line(tmp_path):
    found = search(tmp_path, values=("1e30", "2e30"))
    runs.assert_one_line(found, 1)
    where = tmp_path / "digits_sgd" / "learning_rate"
    assert f"all runs failed; {where} has a failed.json for each" in found.err
    assert len(list(where.rglob("failed.json"))) == 2
    assert not (where / "tune.json").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "--config NAME is missing; experiments.train --list has them"),
        (("--config", "digits_sgd"), "--values needs at least one number"),
        ((*SETTING, "--values", "many"), "Error parsing --values"),
        (
            ("--config", "digits_sg", "--values", "1"),
            "unknown config 'digits_sg'; did you mean 'digits_sgd'",
        ),
        (
            ("--config", "digits_sgd", "--setting", "epochs", "--values", "1"),
            "unknown setting 'epochs'. Valid: learning_rate, weight_decay, rho, k",
        ),
        (
            ("--config", "digits_sgd", "--values", "0.1"),
            "--rho is not for --method sgd, which takes nothing of its own",
        ),
        (
            (*SETTING, "--values", "0.1", "--seeds", "0"),
            "--seeds must be at least 1; got 0",
        ),
        (
            (*SETTING, "--values", "0.1", "--validation-examples", "0"),
            "--validation-examples must be at least 1; got 0",
        ),
        (
            (*SETTING, "--values", "0.1", "nan"),
            "--learning-rate must be at least 0 and fin",
        ),
        ((*SETTING, "--values", "0.1", "--epochs", "0"), "--epochs must be at least 1"),
        (
            (*SETTING, "--values", "0.1", "--validation-examples", "1500"),
            "the 1797 of digits together; got 384 and 1500",
        ),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_mistakes_cost_one_line(options, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with runs.captured() as said:
        status = cli.run(tune.main, ["--num-processes", "1", *options])
    found = Found(status, *(text.getvalue() for text in said))
    runs.assert_one_line(found, 2)
    assert line in found.err
    assert not list(tmp_path.rglob("*.json"))
