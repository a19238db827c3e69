"""The search: even trials, the best by validation alone, and nothing done twice."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import search
from experiments.configs import compare
from experiments.configs.choices import read
from experiments.configs.options import BEFORE_SGD
from experiments.configs.spaces import Interval, space
from experiments.data import catalogue
from experiments.data.examples import Examples
from experiments.shell import cli
from experiments.training import splits, trials
from experiments.training.evaluation import Evaluator
from experiments.training.splits import TrainingSplit, draw_test

RATE = Interval(0.01, 1.0)


@pytest.fixture
def quick(monkeypatch, protocol):
    """The digits, but small and for two epochs."""
    monkeypatch.setitem(compare.PROTOCOLS, "digits", protocol)


@pytest.fixture
def searched(monkeypatch, quick):
    """No training: the first trial wins. A list of which methods were searched for."""
    names = []

    def first(trainer, evaluator, protocol, split, values, seeds, on_epoch):
        names.append(set(values) - {"learning_rate", "weight_decay"})
        hyperparameters = {name: float(v[0]) for name, v in values.items()}
        return {
            "hyperparameters": hyperparameters,
            "validation_accuracy": 0.9,
            "validation_loss": 0.3,
            "trial": 0,
        }

    monkeypatch.setattr(trials, "best", first)
    return names


def run(folder, *options):
    return cli.run(
        search.main, ["--chosen", str(folder), "--trials", "2", "--seeds", "1", *options]
    )


@pytest.mark.parametrize("method", BEFORE_SGD)
def test_trials_cover_each_range_evenly(method):
    count, ranges = 8, space(method, RATE)
    for name, values in trials.trials(ranges, split=3, count=count).items():
        interval = ranges[name]
        ends = [interval.at(i / count) for i in range(count + 1)]
        # One trial in each eighth of the range, up to the rounding to four digits.
        strata = np.searchsorted(ends, values * (1 + 1e-9)) - 1
        assert sorted(strata.tolist()) == list(range(count)), name


def test_methods_share_positions_and_splits_do_not():
    sgd, sam = (trials.trials(space(name, RATE), 0, 8) for name in ("sgd", "sam"))
    np.testing.assert_array_equal(sgd["learning_rate"], sam["learning_rate"])
    other = trials.trials(space("sgd", RATE), 1, 8)
    assert not np.array_equal(sgd["learning_rate"], other["learning_rate"])


@pytest.mark.parametrize(
    ("accuracy", "loss", "winner"),
    [
        # Mean accuracies .7, .8, .75: the second trial.
        ([0.6, 0.8, 0.8, 0.8, 0.9, 0.6], [1, 1, 9, 9, 1, 1], 1),
        # All .8, in other words of floating point: the lowest mean loss.
        ([0.7, 0.9, 0.8, 0.8, 0.9, 0.7], [3, 3, 2, 5, 1, 4], 2),
        # A diverged trial loses a tie.
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [np.nan, 1, 8, 8, np.nan, 2], 1),
    ],
)
def test_best_is_by_validation_accuracy_then_loss(
    monkeypatch, protocol, accuracy, loss, winner
):
    nothing = Examples(np.zeros((1, 1)), np.zeros(1))
    trained = []
    monkeypatch.setattr(trials, "train", lambda *args: trained.append(args[3]))
    entry = trials.best(
        None,  # pyright: ignore
        Evaluator(lambda *_: np.array(accuracy), lambda *_: np.array(loss, float), None),  # pyright: ignore
        protocol,
        TrainingSplit(nothing, nothing),
        {"learning_rate": np.array([0.1, 0.2, 0.3])},
        seeds=2,
    )
    assert entry.get("trial") == winner
    assert entry["hyperparameters"] == {"learning_rate": [0.1, 0.2, 0.3][winner]}
    (runs,) = trained
    assert runs.seed.tolist() == [1000, 1001] * 3
    expected = jnp.array([0.1, 0.1, 0.2, 0.2, 0.3, 0.3])
    np.testing.assert_array_equal(runs.hyperparameters["learning_rate"], expected)


def test_test_examples_are_never_loaded(tmp_path, monkeypatch, quick, digits, protocol):
    fetched = []

    def recording(indices):
        fetched.extend(indices.tolist())
        return digits.fetch(indices)

    def forbidden():
        raise AssertionError("the search asked for the official test set")

    watched = replace(digits, fetch=recording, official_test=forbidden)
    monkeypatch.setattr(catalogue, "load", lambda name, data_dir: watched)
    assert run(tmp_path, "--methods", "sgd") == 0
    touched, fetched[:] = set(fetched), []
    draw_test(replace(watched, official_test=None), protocol, 0)
    validation = protocol.experiment.validation_examples
    assert len(touched) == protocol.train + validation
    assert touched.isdisjoint(fetched)
    assert not hasattr(search, "draw_test")
    assert not hasattr(trials, "draw_test")
    assert hasattr(splits, "draw_test")


def test_a_second_run_does_only_what_is_missing(tmp_path, searched):
    assert run(tmp_path, "--methods", "sgd", "sam") == 0
    first = json.loads((tmp_path / "digits.json").read_text())["splits"]["0"]
    assert set(first) == {"sgd", "sam"}
    searched.clear()
    assert run(tmp_path, "--methods", "sgd", "sam", "esam") == 0
    assert searched == [{"rho", "beta"}]
    choices = read(tmp_path / "digits.json")
    assert set(choices.splits["0"]) == {"sgd", "sam", "esam"}
    assert choices.splits["0"]["sam"] == first["sam"]
    entry = choices.splits["0"]["sam"]
    tried = trials.trials(space("sam", RATE), 0, 2)
    assert entry["hyperparameters"]["rho"] in tried["rho"]
    assert choices.settings.get("trials") == 2


def test_other_settings_are_not_mixed_in(tmp_path, searched, capsys):
    assert run(tmp_path, "--methods", "sgd") == 0
    before = (tmp_path / "digits.json").read_text()
    assert run(tmp_path, "--methods", "sam", "--seeds", "2") == 2
    assert "was searched with other settings or ranges" in capsys.readouterr().err
    assert (tmp_path / "digits.json").read_text() == before
    assert run(tmp_path, "--methods", "sam", "--seeds", "2", "--restart") == 0
    assert set(read(tmp_path / "digits.json").splits["0"]) == {"sam"}


def test_label_noise_has_a_file_of_its_own(tmp_path, searched):
    assert run(tmp_path, "--methods", "sgd", "--label-noise", "0.25") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["digits-noise-0.25.json"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--methods", "sdg"], "unknown method 'sdg'; did you mean 'sgd'?"),
        (["--trials", "0"], "--trials must be at least 1; got 0"),
        (["--label-noise", "1"], "--label-noise must be at least 0 and below 1; got 1"),
        (["--datset", "mnist"], "unknown option '--datset'; did you mean '--dataset'?"),
    ],
)
def test_mistakes_cost_one_line(tmp_path, capsys, options, line):
    assert cli.run(search.main, ["--chosen", str(tmp_path), *options]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
