"""A whole grid on the digits: what it leaves, repeats, survives and says."""

import json
import shutil
from typing import Any

import numpy as np
import pytest

from experiments import reproduce
from experiments.configs.rows import ROWS
from experiments.configs.tables import TABLES
from experiments.costs import cost
from experiments.costs.cost import Cost
from experiments.pages import renders
from experiments.processes.stopping import StoppedError
from experiments.results import plots, records, report
from experiments.results.plots import comparison
from experiments.shell import cli
from experiments.shell.cli import RunError
from experiments.training.harness import costs, grid, tabulated
from experiments.training.harness.grid import NOTE, Outcome
from experiments.training.harness.loop import Loop

# All tests read what one grid has left, so they belong into one process.
pytestmark = pytest.mark.xdist_group("reproduce")

# Without the number of processes each call would look for others, which JAX does once.
DIGITS = ("--table", "digits", "--num-processes", 1)
SMALL = (*DIGITS, "--methods", "k_sam", "sgd", "--epochs", 1, "--seeds", 2)
DIVERGED = RunError("the loss isn't finite at step 2")


def call(*options):
    return cli.run(reproduce.main, [str(option) for option in options])


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Two methods, two seeds, one epoch."""
    out = tmp_path_factory.mktemp("reproduce")
    assert call(*SMALL, "--out", out) == 0
    return out / "digits"


@pytest.fixture
def copy(first, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(first, tmp_path / "digits")


def again(folder, *options):
    return call(*SMALL, "--out", folder.parent, *options)


def ending_in(error, monkeypatch):
    """Training does nothing but raise."""

    def fails(*args):
        raise error

    monkeypatch.setattr(Loop, "run", fails)


def read(path):
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def run_folder(folder, method, seed):
    return folder / f"digits_{method}" / f"seed-{seed}"


def result(folder, method, seed):
    return read(run_folder(folder, method, seed) / "result.json")


def row_of(folder, label):
    """The cells of a method's row in table.md."""
    lines = (folder / "table.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in row.split("|")[1:-1]]


# What it leaves.


@pytest.mark.slow
def test_files_are_written(first):
    names = {path.name for path in first.iterdir() if path.is_file()}
    assert names == {"results.json", "comparison.png", "table.md", "cost.json", "lock"}
    assert (first / "comparison.png").read_bytes().startswith(b"\x89PNG")
    for method in ("sgd", "k_sam"):
        for seed in (0, 1):
            assert result(first, method, seed)["command"] == (
                f"python -m experiments.train --config digits_{method} --epochs 1"
                + (" --seed 1" if seed else "")
            )
            assert (run_folder(first, method, seed) / "report.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "label"), [("sgd", "SGD"), ("k_sam", "K-SAM, k = 1/4")])
def test_the_table_has_the_numbers_of_the_runs(first, method, label):
    runs = [result(first, method, seed) for seed in (0, 1)]
    accuracy = 100 * np.array([run["last"]["test_accuracy"] for run in runs])
    validation = np.array([run["last"]["validation_accuracy"] for run in runs])
    sharpness = np.array([run["sharpness"] for run in runs])
    assert accuracy[0] != accuracy[1]
    _, n, mean_and_std, operations, time, rise = row_of(first, label)
    assert n == "2"
    assert mean_and_std == f"{accuracy.mean():.2f} ± {accuracy.std(ddof=1):.2f}"
    assert rise == f"{sharpness.mean():.2g}"
    measured = read(first / "cost.json")["methods"]
    counts = [measured[name]["cost"]["operations"] for name in (method, "sgd")]
    assert operations == f"{counts[0] / counts[1]:.2f}"
    assert (method == "sgd") == (time == "1.00 [1.00, 1.00]")
    summary = read(first / "results.json")["methods"][method]["summary"]
    assert summary["validation_accuracy"] == pytest.approx(validation.mean())


@pytest.mark.slow
def test_differences_are_paired_by_seed(first):
    (found,) = read(first / "results.json")["differences"]
    pairs = [
        result(first, "k_sam", seed)["last"]["test_accuracy"]
        - result(first, "sgd", seed)["last"]["test_accuracy"]
        for seed in (0, 1)
    ]
    assert (found["method"], found["minus"], found["n"]) == ("k_sam", "sgd", 2)
    assert found["mean"] == pytest.approx(np.mean(pairs))
    # Student's t with one degree of freedom is 12.706, times std / sqrt(2).
    margin = 12.7062047 * np.std(pairs, ddof=1) / np.sqrt(2)
    assert found["high"] == pytest.approx(np.mean(pairs) + margin)


@pytest.mark.slow
def test_how_it_was_made_is_in_the_results(first):
    content = read(first / "results.json")
    assert content["complete"] is True
    assert content["command"] == (
        "python -m experiments.reproduce --table digits --seeds 2 --methods k_sam sgd "
        "--out DIR --epochs 1"
    )
    assert report.title(content) == (
        "digits: 384 training images, 897 test images; MLP (256-256), 1 epoch"
    )
    notes = " ".join(report.notes(content))
    assert "over 2 seeds, after the last epoch" in notes
    assert "Trained for 1 epoch instead of 60: another setting" in notes
    assert "the best of 24 trials" in notes
    assert all(entry["published"] is None for entry in content["methods"].values())
    (entry,) = content["methods"]["k_sam"]["runs"]
    expected = ROWS["digits_k_sam"].experiment
    assert entry["hyperparameters"]["rho"] == expected.rho


@pytest.mark.slow
def test_a_page_shows_it(first):
    text = renders.reproduced(read(first / "results.json"), "some/folder")
    assert "| " + " | ".join(row_of(first, "SGD")) + " |" in text
    assert "](some/folder/comparison.png)" in text
    assert "`python -m experiments.reproduce --table digits" in text
    assert "of `digits_sgd`, `digits_k_sam`." in text


# What it repeats.


@pytest.mark.slow
def test_the_second_call_trains_and_measures_nothing(copy, monkeypatch, capsys):
    before = read(copy / "results.json")
    ending_in(AssertionError("trained again"), monkeypatch)
    monkeypatch.setattr(cost, "measure", lambda steps: pytest.fail("measured again"))
    assert again(copy) == 0
    assert read(copy / "results.json") == before
    said = capsys.readouterr().out
    assert "4 of 4 runs were made before, 0 to go" in said
    assert "decoded" not in said


@pytest.fixture
def measured(monkeypatch):
    """Which methods were measured, each time, without measuring."""
    found = []

    def measure(steps, baseline):
        assert baseline == "sgd"
        found.append(set(steps))
        return {name: Cost(1.0, 0.125, 1.0, (0.5, 0.25, 0.75)) for name in steps}

    monkeypatch.setattr(cost, "measure", measure)
    monkeypatch.setattr(costs, "_step", lambda job: None)
    return found


@pytest.mark.slow
def test_costs_are_measured_where_they_are_unknown(copy, measured):
    path = copy / "cost.json"
    kept = read(path)
    kept["methods"]["k_sam"]["of"]["device"] = "another"
    path.write_text(json.dumps(kept))
    assert again(copy) == 0
    # SGD as well, for the ratio, but what was known of it stays.
    assert measured == [{"sgd", "k_sam"}]
    _, _, _, operations, time, _ = row_of(copy, "K-SAM, k = 1/4")
    assert (operations, time) == ("0.12", "0.50 [0.25, 0.75]")
    assert row_of(copy, "SGD")[3] == "1.00"
    assert again(copy) == 0
    assert len(measured) == 1


def test_seeds_come_before_methods():
    rows = [ROWS["digits_sgd"], ROWS["digits_sam"]]
    found = grid.cells(rows, 2, {"epochs": 3}, reproduce.Config.out)
    assert [(cell.row.name, cell.experiment.seed) for cell in found] == [
        *(("digits_sgd", 0), ("digits_sam", 0), ("digits_sgd", 1), ("digits_sam", 1))
    ]
    assert {cell.experiment.epochs for cell in found} == {3}


# What it survives.


@pytest.fixture
def failed(copy, monkeypatch):
    """A copy in which one run of SGD was lost, and failed when it was made again."""
    shutil.rmtree(run_folder(copy, "sgd", 1))
    with monkeypatch.context() as patch:
        ending_in(DIVERGED, patch)
        assert again(copy) == 0
    return copy


@pytest.mark.slow
def test_a_failed_run_is_shown(capsys, failed):
    assert "[1/1] seed 1, SGD: failed: the loss isn't finite" in capsys.readouterr().out
    _, n, accuracy, *_ = row_of(failed, "SGD (1 of 2 failed)")
    alone = result(failed, "sgd", 0)["last"]["test_accuracy"]
    assert (n, accuracy) == ("1", f"{100 * alone:.2f}")
    assert row_of(failed, "K-SAM, k = 1/4")[1] == "2"
    content = read(failed / "results.json")
    assert content["methods"]["sgd"]["failed"] == [{"seed": 1, "message": str(DIVERGED)}]
    assert f"digits_sgd with seed 1 failed: {DIVERGED}." in content["notes"]
    # Of the pairs, the one that both have.
    assert [found["n"] for found in content["differences"]] == [1]


@pytest.mark.slow
def test_a_failed_run_is_not_tried_again_unless_told(failed, monkeypatch):
    with monkeypatch.context() as patch:
        ending_in(AssertionError("tried again"), patch)
        assert again(failed) == 0
    # What led to the failure is not gone on from: this would be refused.
    left = run_folder(failed, "sgd", 1) / "checkpoints" / "3"
    left.mkdir(parents=True)
    assert again(failed, "--retry") == 0
    assert row_of(failed, "SGD")[1] == "2"
    assert not (run_folder(failed, "sgd", 1) / NOTE).exists()


@pytest.mark.slow
def test_a_method_may_fail_altogether(copy, monkeypatch):
    for seed in (0, 1):
        shutil.rmtree(run_folder(copy, "k_sam", seed))
    ending_in(DIVERGED, monkeypatch)
    assert again(copy) == 0
    label = "K-SAM, k = 1/4 (2 of 2 failed)"
    assert row_of(copy, label)[1:3] == ["0", "n/a"]
    assert read(copy / "results.json")["differences"] == []


def test_without_any_finished_run_there_is_one_line(tmp_path, monkeypatch, capsys):
    ending_in(DIVERGED, monkeypatch)
    assert call(*SMALL, "--out", tmp_path) == 1
    said = capsys.readouterr().err
    assert said == f"error: all 4 runs failed; the first: {DIVERGED}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (StoppedError(15, 2), 143, "stopped by SIGTERM after step 2"),
        (OSError(28, "No space left on device"), 1, "error: can't write to "),
    ],
)
def test_being_told_to_stop_and_a_full_disk_end_it(
    copy, monkeypatch, capsys, error, status, line
):
    before = read(copy / "results.json")
    shutil.rmtree(run_folder(copy, "sgd", 0))
    shutil.rmtree(run_folder(copy, "sgd", 1))
    ending_in(error, monkeypatch)
    assert again(copy) == status
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1
    assert not (run_folder(copy, "sgd", 0) / NOTE).exists()
    assert not run_folder(copy, "sgd", 1).exists()
    assert read(copy / "results.json") == before


# What it says.


def of_cifar(epochs, source="TFDS") -> Any:
    """A table with published values, and outcomes that nobody trained for."""
    table = TABLES["cifar100_resnet18"]
    rows = [ROWS[name] for name in table.rows if name.endswith(("sgd", "_sam", "_asam"))]
    changes = {} if epochs is None else {"epochs": epochs}
    outcomes = [
        Outcome(cell, finished(cell.experiment, 0.7 + 0.01 * i, source), "")
        for i, cell in enumerate(grid.cells(rows, 2, changes, reproduce.Config.out))
    ]
    content = tabulated.content(table, outcomes) | {"command": "", "complete": True}
    names = content["methods"]
    costs = {name: Cost(2.0, 1.0 + (name != "sgd"), 1.0, (1.0, 1.0, 1.0)) for name in names}
    return records.with_costs(content, costs)


def finished(experiment, accuracy, source) -> Any:
    last = {"test_accuracy": accuracy, "validation_accuracy": None, "train_loss": 0.1}
    sizes = {"train": 50_000, "validation": 0, "test": 10_000}
    return {
        "experiment": {"seed": experiment.seed},
        "last": last,
        "sharpness": 0.5,
        "seconds": 60.0,
        "dataset": {"title": "CIFAR-100", "source": source, **sizes},
        "machine": {"device": "a GPU"},
    }


def test_published_values_stand_beside_with_their_source():
    content = of_cifar(None)
    assert report.headers(content)[-1] == "published %"
    shown = {row[0]: row[-1] for row in report.rows(content)}
    assert shown["SGD"] == "78.32 ± 0.02 [1]"
    assert shown["SAM"] == "80.18 ± 0.08 [1]"
    assert shown["ASAM"] == "-"
    published = ROWS["cifar100_resnet18_sgd"].published
    assert published is not None
    assert report.source_notes(content)[0] == f"[1] {published.source}."
    assert "Trained on a GPU." in content["notes"]
    assert content["methods"]["sgd"]["summary"]["seeds"] == 2


def test_images_with_losses_are_not_comparable_with_published_values():
    assert tabulated.JPEG not in of_cifar(None)["notes"]
    assert tabulated.JPEG in of_cifar(None, "TFDS, JPEG images")["notes"]


def test_another_setting_has_no_published_values():
    content = of_cifar(3)
    assert report.headers(content)[-1] == "sharpness"
    assert report.source_notes(content) == []
    assert content["notes"][0].startswith("Trained for 3 epochs instead of 200: another")


def test_published_values_are_hollow_in_the_picture(tmp_path, monkeypatch):
    drawn = []
    draw = comparison._draw

    def record(axes, name, point, *, hollow=False):
        drawn.append((name, round(point.y, 2), hollow))
        draw(axes, name, point, hollow=hollow)

    monkeypatch.setattr(comparison, "_draw", record)
    plots.accuracy_against_cost(of_cifar(None), tmp_path / "a.png")
    hollow = [(name, y) for name, y, is_hollow in drawn if is_hollow]
    assert ("sgd", 78.32) in hollow
    assert ("sam", 80.18) in hollow
    assert "asam" not in dict(hollow)
    assert len(drawn) == len(hollow) + len(of_cifar(None)["methods"])


def test_every_config_is_in_one_table():
    assert [name for table in TABLES.values() for name in table.rows] == list(ROWS)
    for table in TABLES.values():
        alike = [ROWS[name].experiment for name in table.rows]
        assert len({(one.dataset, one.model, one.epochs) for one in alike}) == 1
        assert len({one.method for one in alike}) == len(alike)
    seeds = {name: table.seeds for name, table in TABLES.items()}
    assert {seeds.pop(name) for name in ("digits", "mnist_1000", "mnist_5000")} == {5}
    assert seeds.pop("cifar10_resnet8") == 1
    assert set(seeds.values()) == {3}


def test_the_list_tells_what_is_published(capsys):
    assert call("--list") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in TABLES)
    (line,) = [one for one in said.splitlines() if one.startswith("cifar100_resnet18 ")]
    assert line.endswith("8      3  78.32 to 81.19")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "--table NAME is missing; --list shows the names"),
        (
            ["--table", "mnist_100"],
            "unknown table 'mnist_100'; did you mean 'mnist_1000'? Valid: ",
        ),
        (["--methods", "ksam"], "unknown method 'ksam'; did you mean 'k_sam'? Valid: "),
        (["--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["--epochs", "0"], "--epochs must be at least 1 and finite; got 0"),
        (["--dtype", "float31"], "unknown dtype 'float31'; did you mean 'float32'? "),
        (["--num-processes", "2"], "--coordinator, --num-processes and --process-id must "),
    ],
)
def test_mistakes_cost_one_line(tmp_path, monkeypatch, capsys, options, line):
    monkeypatch.chdir(tmp_path)
    table = ["--table", "digits"] if options and "--table" not in options else []
    assert call(*table, *options) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {line}")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_runs_of_another_setting_are_not_taken_for_these(copy, capsys):
    options = ("--methods", "sgd", "--epochs", 2, "--out", copy.parent)
    assert call(*DIGITS, *options) == 2
    said = capsys.readouterr().err
    assert "has a run with --epochs 1, and this is one with 2: give the same" in said
