"""Measured flatness from the command line: its values, resuming, and its tables."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

from experiments import figures, sharpness
from experiments.data.examples import Examples
from experiments.flatness import measures, report, tabulated
from experiments.flatness.contents import FLATNESS
from experiments.flatness.measures import LOSS, MEASURES, Value
from experiments.flatness.solutions import in_batches, replica
from experiments.pages.block import Block, Source
from experiments.pages.renders import measured
from experiments.results.output import PARTIAL, RESULTS
from experiments.shell import cli, files
from experiments.training.evaluation import evaluator, losses_of
from experiments.training.splits import training_split
from experiments.training.study import Trained

# What is compiled once serves several tests.
pytestmark = pytest.mark.xdist_group("sharpness")

NAMES = ("one_step", "ascent", "adaptive", "in_groups", "top_eigenvalue", "trace")


def run(*options):
    return cli.run(sharpness.main, [str(option) for option in options])


def entry(accuracy, loss, values):
    return {
        "split": 0,
        "hyperparameters": {"learning_rate": 0.1},
        "test_accuracy": accuracy,
        "validation_accuracy": accuracy,
        "train_loss": loss,
        "sharpness": loss,
        "measures": {
            name: {"values": values, "errors": [0.2 * v if v else v for v in values]}
            for name in NAMES
        },
        "seconds": 1.5,
    }


@pytest.fixture
def training(monkeypatch):
    """Instead of training: notes methods, and can be stopped before one of them."""
    noted = SimpleNamespace(methods=[], stop_before=None)

    def train_all(study, methods, splits, console, on_result, extra):
        assert splits == 1
        assert extra.steps == sum(m.passes for m in MEASURES.values()) * 3
        runs = {}
        for name in methods:
            if name == noted.stop_before:
                raise KeyboardInterrupt
            noted.methods.append(name)
            found = entry([0.9, 0.8], [0.1, 0.2], [float(len(noted.methods)), 2.5])
            values = study.choices.choice(name, 0).values
            runs[name] = [found | {"hyperparameters": values}]
            on_result(runs)
        return runs

    monkeypatch.setattr(sharpness, "train_all", train_all)
    return noted


@pytest.fixture
def options(tmp_path, chosen):
    return (
        *("--methods", "sam", "sgd", "--seeds", 2, "--epochs", 2),
        *("--out", tmp_path, "--chosen", chosen),
    )


def read(path):
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def test_what_was_measured_before_a_stop_is_kept(tmp_path, options, training):
    training.stop_before = "sam"
    assert run(*options) == 130
    folder = tmp_path / "digits"
    assert [path.name for path in folder.iterdir()] == [PARTIAL]
    assert list(read(folder / PARTIAL)["methods"]) == ["sgd"]
    training.stop_before = None
    assert run(*options) == 0
    assert training.methods == ["sgd", "sam"]
    assert [path.name for path in folder.iterdir()] == [RESULTS]
    content = read(folder / RESULTS)
    assert content["complete"] is True
    # The first value counts the trainings.
    first = [
        entry["runs"][0]["measures"]["trace"]["values"][0]
        for entry in content["methods"].values()
    ]
    assert list(content["methods"]) == ["sgd", "sam"]
    assert first == [1, 2]
    assert content["seconds"] == 3
    assert content["command"] == (
        "python -m experiments.sharpness --methods sam sgd --seeds 2 --epochs 2 "
        "--out DIR --chosen DIR"
    )


def test_a_finished_run_is_made_anew(options, training):
    for _ in range(2):
        assert run(*options) == 0
    assert training.methods == ["sgd", "sam"] * 2


def test_of_other_options_or_hyperparameters_nothing_is_kept(tmp_path, options, training):
    training.stop_before = "sam"
    assert run(*options) == 130
    assert run(*options, "--epochs", 3) == 130
    assert training.methods == ["sgd", "sgd"]
    assert run(*options, "--epochs", 3) == 130
    assert training.methods == ["sgd", "sgd"]
    path = tmp_path / "chosen" / "digits.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.1', '"learning_rate": 1'))
    assert run(*options, "--epochs", 3) == 130
    assert training.methods == ["sgd", "sgd", "sgd"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"complete": fal'])
def test_a_broken_file_of_a_stopped_run_is_ignored(tmp_path, options, training, text):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / PARTIAL).write_text(text)
    assert run(*options) == 0
    assert training.methods == ["sgd", "sam"]


@pytest.mark.slow
def test_the_whole_command(tmp_path, options):
    assert run(*options) == 0
    content = read(tmp_path / "digits" / RESULTS)
    for entry_ in content["methods"].values():
        (found,) = entry_["runs"]
        # The comparison's own sharpness doesn't come from the library's measures.
        np.testing.assert_allclose(
            found["measures"]["one_step"]["values"], found["sharpness"], rtol=1e-3
        )
    assert content["correlations"]["trace"]["replicas"]["n"] == 4


class Replicas(NamedTuple):
    """Two replicas that weren't trained, with what their measures found and told a bar."""

    params: Any
    examples: Any
    found: dict[str, Any]
    steps: list[int]

    def values(self, name):
        return np.array(self.found[name]["values"])


@pytest.fixture(scope="module")
def replicas(digits, protocol, model):
    small = protocol.changed(train_examples=64)
    examples = jax.device_put(training_split(digits, small, 0).train)
    params = model.stacked(jax.random.split(jax.random.key(3), 2))
    steps: list[int] = []
    trained = Trained(params, 0, examples)
    found = measures.measured(losses_of(model), trained, steps.append)
    return Replicas(params, examples, found, steps)


@pytest.mark.slow
def test_one_step_is_the_comparisons_own_sharpness(replicas, protocol, model):
    judged = evaluator(model, protocol.changed(train_examples=64))
    expected = judged.sharpness(replicas.params, replicas.examples)
    np.testing.assert_allclose(replicas.values("one_step"), expected, rtol=1e-3)


@pytest.mark.slow
def test_measures_are_ordered_as_they_must_be(replicas):
    # More steps never find less, and groups climb higher than all together.
    one_step = replicas.values("one_step")
    assert (replicas.values("ascent") >= one_step * (1 - 1e-6)).all()
    assert (replicas.values("in_groups") > one_step).all()
    assert (replicas.values("adaptive") > 0).all()


@pytest.mark.slow
def test_the_top_eigenvalue_is_that_of_power_iteration(replicas, model):
    top = _top_eigenvalue(model, replica(replicas.params, 1), replicas.examples)
    assert replicas.values("top_eigenvalue")[1] == pytest.approx(top, rel=1e-2)


@pytest.mark.slow
def test_all_measures_have_errors_where_they_are_drawn_and_tell_the_bar(replicas):
    assert list(replicas.found) == list(NAMES)
    assert np.isnan(replicas.found["one_step"]["errors"]).all()
    assert (np.array(replicas.found["trace"]["errors"]) > 0).all()
    # What the bar is told adds up.
    passes = sum(measure.passes for measure in MEASURES.values())
    assert sum(replicas.steps) == 2 * passes


def _top_eigenvalue(model, params, examples):
    """By power iteration, on the mean loss of one batch."""

    def mean(weights):
        return model.losses(weights, examples).mean()

    def product(_, pair):
        vector = optax.tree.scale(1 / pair[1], pair[0])
        found = jax.jvp(jax.grad(mean), (params,), (vector,))[1]
        return found, optax.tree.norm(found)

    return float(jax.lax.fori_loop(0, 500, product, (params, jax.numpy.float32(1)))[1])


def test_a_diverged_replica_is_left_out(monkeypatch):
    def take(losses, params, batches, progress):
        if params > 7:
            raise measures.sharpness.NonFiniteError("the loss isn't finite")
        return Value(float(params), 0.25)

    fake = {name: replace(measure, take=take) for name, measure in MEASURES.items()}
    monkeypatch.setattr(measures, "MEASURES", fake)
    examples = Examples(np.zeros((3, 1)), np.zeros(3))
    trained = Trained(np.arange(7.0, 10.0), 0, examples)
    found = measures.measured(lambda params, batch: None, trained, lambda steps: None)
    np.testing.assert_array_equal(found["trace"]["values"], [7, math.nan, math.nan])


@pytest.fixture
def table():
    """Accuracies 0.90 to 0.96; one replica of K-SAM is lost."""
    runs = {
        "sgd": [entry([0.90, 0.92], [0.5, 0.7], [4e-4, 8e-4])],
        "k_sam": [entry([0.96, 0.94, 0.0], [0.2, 0.1, None], [1e-4, 2e-4, None])],
    }
    return {
        "version": 1,
        "complete": True,
        "command": "python -m experiments.sharpness",
        "date": "2030-01-02",
        "config": {"methods": [*runs], "seeds": 2, "splits": 1, "label_noise": 0.0},
        "dataset": {"title": "digits", "train": 384, "validation": 516, "test": 897},
        "protocol": {"model": "MLP 256-256", "epochs": 60},
        "search": "by hand",
        "notes": ["A caveat."],
        "measures": measures.described(),
        "machine": {
            **{"cores": 2, "cpu": "a CPU", "system": "Linux x86_64"},
            **{"device": "cpu", "backend": "cpu"},
        },
        "versions": {"python": "3.11.0", "jax": "0.10.2"},
        "seconds": 150.0,
    } | json.loads(json.dumps(files.plain(tabulated.content(runs))))


def test_summaries_and_rank_correlations(table):
    spread = table["methods"]["k_sam"]["summary"]["measures"]["ascent"]
    assert spread["mean"] == pytest.approx(1.5e-4)
    assert spread["std"] == pytest.approx(0.5e-4 * math.sqrt(2))
    assert spread["n"] == 2
    assert spread["error"] == pytest.approx(0.3e-4)
    # Of accuracies 90 92 96 94 the ranks are 1 2 4 3; of the measure 4 8 1 2: 3 4 1 2.
    # d = -2 -2 3 1, so 1 - 6 * 18 / (4 * 15) = -0.8.
    found = table["correlations"]["trace"]
    assert found["replicas"] == {"spearman": pytest.approx(-0.8), "n": 4}
    assert found["methods"] == {"spearman": pytest.approx(-1), "n": 2}
    # Of the loss the ranks are 3 4 2 1: d = 0 0 -1 1, so 1 - 6 * 2 / 60 = 0.8.
    assert found["loss"] == {"spearman": pytest.approx(0.8), "n": 4}
    # The loss 5 7 2 1 has ranks 3 4 2 1: d = -2 -2 2 2, 1 - 6 * 16 / 60 = -0.6.
    found = table["correlations"][LOSS]["replicas"]
    assert found == {"spearman": pytest.approx(-0.6), "n": 4}


def test_one_replica_has_neither_spread_nor_ranks():
    runs = {"sgd": [entry([0.9], [0.5], [1.0])]}
    found = tabulated.content(runs)
    assert math.isnan(found["methods"]["sgd"]["summary"]["measures"]["trace"]["std"])
    nothing = found["correlations"]["trace"]["replicas"]
    assert math.isnan(nothing["spearman"])
    assert nothing["n"] == 1


def test_a_page_has_the_tables(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("results.json").write_text(json.dumps(table))
    Path("page.md").write_text("<!-- sharpness:begin -->\n<!-- sharpness:end -->\n")
    source = Source(FLATNESS, Path("results.json"))
    block = Block(Path("page.md"), "sharpness", (source,), measured)
    monkeypatch.setattr(figures, "BLOCKS", (block,))
    monkeypatch.setattr(figures, "PICTURES", ())
    assert cli.run(figures.main, []) == 0
    text = Path("page.md").read_text()
    assert "| method | test accuracy % | training loss | 1 step / 10^-6 |" in text
    assert "| SGD | 91.00 ± 1.41 | 0.600 ± 0.141 | 600 ± 283 |" in text
    assert "| trace | -0.80 (n = 4) | -1.00 (n = 2) | +0.80 (n = 4) |" in text
    assert "the standard error is 20% of it. Below: Spearman's" in text
    assert "A caveat." in text


def test_cells_without_values(table):
    for spread in table["methods"]["sgd"]["summary"]["measures"].values():
        spread |= {"mean": None, "std": None}
    for found in table["correlations"].values():
        found["replicas"]["spearman"] = None
    assert report.rows(table)[0][2:] == ("n/a",) * 7
    assert report.rank_rows(table)[0][1] == "n/a"


def test_batches_have_every_example_once(digits, protocol):
    examples = training_split(digits, protocol.changed(train_examples=300), 0).train
    batches = in_batches(examples)
    assert [batch.number for batch in batches] == [128, 128, 44]
    together = np.concatenate([batch.labels for batch in batches])
    np.testing.assert_array_equal(together, examples.labels)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--methods", "ksam"], "unknown method 'ksam'; did you mean 'k_sam'?"),
        (["--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["--splits", "2"], "unknown option '--splits'"),
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
