"""The command line: mistakes cost a line, folders are safe, and what is shown is true."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import runs

from experiments import train
from experiments.configs import rows
from experiments.configs.experiment import Experiment
from experiments.data import catalogue, images
from experiments.data.augment import Augmentation
from experiments.training.harness import folder, run

pytestmark = pytest.mark.xdist_group("train")

SGD = ("--config", "digits_sgd", "--epochs", "1")
DIVERGING = (*SGD[:2], "--epochs", "2", "--learning-rate", "1e30")
OFTEN = ("--log-every", "4", "--evaluate-every", "1", "--checkpoint-every", "1")


# ---------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "--config NAME is missing; --list shows the names"),
        (("--config",), "--config"),
        (
            ("--config", "digits_ksam"),
            "unknown config 'digits_ksam'; did you mean 'digits_",
        ),
        (("--config", "zzz"), "unknown config 'zzz'. --list shows all"),
        ((*SGD, "--epoch", "3"), "unknown option '--epoch'; did you mean '--epochs'?"),
        ((*SGD, "--augmentation.crip", "3"), "unknown option '--augmentation.crip'"),
        ((*SGD, "--augmentation.crop", "-3"), "crop must be a number of pixels, at least"),
        ((*SGD, "--epochs", "0"), "--epochs must be at least 1 and finite; got 0"),
        ((*SGD, "--epochs", "two"), "Error parsing --epochs"),
        (
            (*SGD, "--batch-size", "100"),
            "--batch-size must be a multiple of the number of devices, 8, and at most the "
            "number of training examples, 384; got 100",
        ),
        ((*SGD, "--batch-size", "392"), "number of training examples, 384; got 392"),
        ((*SGD, "--batch-size", "0"), "--batch-size must be at least 1 and finite; got 0"),
        ((*SGD, "--rho", "0.1"), "--rho is not for --method sgd, which takes nothing"),
        ((*SGD, "--method", "sam", "--k", "0.5"), "--k is not for --method sam, which"),
        ((*SGD, "--method", "k_momentum_remembered", "--rho", "1"), "needs --decay"),
        (
            ("--config", "digits_k_sam", "--k", "1.5"),
            "--method k_sam: k_sam(k=1.5): k must be",
        ),
        (
            ("--config", "digits_sam", "--rho", "-1"),
            "--method sam: sam(rho=-1.0): rho must be",
        ),
        (
            (*SGD, "--dtype", "float64"),
            "unknown dtype 'float64'; did you mean 'float",
        ),
        ((*SGD, "--norm", "group"), "--norm must be batch for --model mlp"),
        ((*SGD, "--model", "resnet"), "unknown model 'resnet'; did you mean 'resnet"),
        ((*SGD, "--method", "ksam"), "unknown method 'ksam'; did you mean 'k_sam'?"),
        ((*SGD, "--dataset", "digit"), "unknown dataset 'digit'; did you mean 'digits'?"),
        ((*SGD, "--crop", "4"), "unknown option '--crop'; did you mean '--augmentation.c"),
        ((*SGD, "--seed", "2147483648"), "--seed must be below 2147483648; got 2147483648"),
        (
            (*SGD, "--learning-rate", "1e39"),
            "--learning-rate must be at least 0 and finite",
        ),
        ((*SGD, "--no-sync-ascent"), "--no-sync-ascent is not for --method sgd, which"),
        ((*SGD, "--momentum", "1"), "--momentum must be from 0 to below 1; got 1"),
        ((*SGD, "--seed", "-1"), "--seed must be at least 0 and finite; got -1"),
        ((*SGD, "--learning-rate", "nan"), "--learning-rate must be at least 0 and finite"),
        ((*SGD, "--weight-decay", "inf"), "--weight-decay must be at least 0 and finite"),
        (
            (*SGD, "--train-examples", "5000"),
            "at most the 1797 of digits together; got 5000",
        ),
        (
            (*SGD, "--train-examples", "1281"),
            "digits has no test examples of its own: leave",
        ),
        ((*SGD, "--log-every", "0"), "--log-every must be at least 1; got 0"),
        ((*SGD, "--evaluate-every", "0"), "--evaluate-every must be at least 1; got 0"),
        ((*SGD, "--checkpoint-every", "0"), "--checkpoint-every must be at least 1; got 0"),
        ((*SGD, "--out", __file__), f"can't write to {__file__}"),
        ((*SGD, "--out", f"{__file__}/run"), f"can't write to {__file__}/run"),
    ],
)
def test_mistakes_cost_one_line(options, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = runs.ended(["--num-processes", "1", *options])
    runs.assert_one_line(found, 2)
    assert line in found.err
    # Nothing was trained.
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_data_that_is_not_there_is_said_how_to_prepare(tmp_path):
    mnist = ("--config", "mnist_1000_sgd", "--data-dir", str(tmp_path / "data"))
    found = runs.run(tmp_path, "--batch-size", "40", command=mnist)
    runs.assert_one_line(found, 2)
    assert (
        f"prepare it with: tfds build mnist --file_format array_record --data_dir "
        f"{tmp_path / 'data'} (" in found.err
    )


def test_labels_of_no_class_are_refused(tmp_path, monkeypatch):
    digits = catalogue.load("digits")

    def fetch(numbers):
        found = digits.fetch(numbers)
        return found._replace(labels=np.where(numbers == 5, 10, found.labels))

    wrong = dataclasses.replace(digits, fetch=fetch)
    images.in_memory.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(images.Digits, "open", lambda *which: wrong)
        found = runs.run(tmp_path, command=SGD)
    images.in_memory.cache_clear()
    runs.assert_one_line(found, 2)
    assert "labels of digits must be from 0 to 9; got 10 at example" in found.err


# ----------------------------------------------------------------------------- folders


@pytest.mark.slow
def test_two_runs_into_one_folder(tmp_path):
    with folder.claimed(tmp_path):
        found = runs.run(tmp_path)
    runs.assert_one_line(found, 2)
    assert f"{tmp_path} is in use by another run (process " in found.err
    assert "give another --out, or wait" in found.err
    assert not (tmp_path / "config.json").exists()
    # And then it is free.
    assert runs.run(tmp_path).status == 0
    runs.assert_same_numbers(tmp_path, runs.whole())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seed", "3"), "--seed 0, and this is one with 3"),
        (("--rho", "0.25"), "--rho 0.1886, and this is one with 0.25"),
        (("--gamma", "0.75"), "--gamma None, and this is one with 0.75"),
        # The first one that differs, in the order of --help.
        (("--seed", "3", "--epochs", "7"), "--epochs 6, and this is one with 7"),
    ],
)
def test_another_experiment_into_the_folder_of_one(options, words):
    found = runs.run(runs.whole(), *options)
    runs.assert_one_line(found, 2)
    assert f"{runs.whole()} has a run with {words}: give the same, or another" in found.err


# -------------------------------------------------------------------------- divergence


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    found = runs.run(tmp_path, command=DIVERGING, pace=OFTEN)
    runs.assert_one_line(found, 1)
    # Weights of 1e30 after the first step; the second one's loss is no number.
    assert "the loss or its gradient isn't finite at step 2 (loss " in found.err
    assert f"last good: the checkpoint of step 1 in {tmp_path}/checkpoints" in found.err
    assert "Try a smaller --learning-rate (now 1e+30), in another --out" in found.err
    assert runs.kept(tmp_path) == [1]
    assert [record["step"] for record in runs.records(tmp_path)] == [1]


def test_the_step_that_failed_is_told_whenever_numbers_are_logged(tmp_path):
    pace = ("--log-every", "50")
    found = runs.run(tmp_path, command=DIVERGING, pace=pace)
    runs.assert_one_line(found, 1)
    assert "isn't finite at step 2 (" in found.err
    assert "last good: none yet in" in found.err
    assert runs.kept(tmp_path) == []


# ------------------------------------------------------------------------ what is shown


def test_list_names_all():
    found = runs.ended(["--list"])
    assert found.status == 0
    for name in rows.ROWS:
        assert name in found.out


def test_help_shows_every_field():
    with pytest.raises(SystemExit, match="0"), runs.captured() as (out, _):
        train.main(["--help"])
    for field in dataclasses.fields(Experiment):
        if field.name != "augmentation":
            assert f"--{field.name.replace('_', '-')}" in out.getvalue()
    for name in ("augmentation.crop", "augmentation.flip", "out", "log-every", "config"):
        assert f"--{name}" in out.getvalue()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("digits_sgd", {}),
        ("digits_k_sam", {"k": 0.375, "rho": 1e-3, "sync_ascent": False}),
        ("digits_k_sam", {"rho": None, "train_examples": None}),
        (
            "cifar10_resnet8_sam",
            {"augmentation": Augmentation(crop=0, flip=False, cutout=16), "norm": "group"},
        ),
        ("digits_sgd", {"augmentation": Augmentation(2, True, 3), "momentum": 0.0}),
        ("digits_esam", {"learning_rate": 1 / 3, "dtype": "bfloat16", "seed": 7}),
        ("digits_f_sam", {"sigma": 0.1 + 0.2, "decay": 0.5, "weight_decay": 1e-7}),
        ("sst2_transformer_adamw", {"clip": None, "decay_all": True, "schedule": "cosine"}),
        ("sst2_transformer_k_sam", {"dropout": 0.0, "length": 9, "vocabulary": 77}),
        ("digits_sgd", {"method": "adamw", "optimizer": "adamw", "warmup": 0.25}),
        ("cifar10_resnet8_sam", {"label_smoothing": 0.1, "clip": 0.5, "decay_all": False}),
    ],
)
def test_the_command_gives_the_same_experiment(name, changed):
    row = rows.ROWS[name]
    wanted = dataclasses.replace(row.experiment, **changed)
    program, *argv = run.command(row, wanted, 3, Path("/a/private/one")).split(train.PROG)
    assert program == ""
    found, parsed = train._parse(shlex.split(argv[0]))
    assert found == row
    assert parsed.experiment == wanted
    assert parsed.evaluate_every == 3
    assert parsed.data_dir == Path("DIR")


def test_the_result_has_the_command_and_no_folders():
    result = json.loads((runs.whole() / "result.json").read_text())
    assert result["command"] == (
        "python -m experiments.train --config digits_esam --epochs 6 "
        "--augmentation.crop 1 --augmentation.flip --evaluate-every 3"
    )
    everything = (runs.whole() / "result.json").read_text()
    everything += (runs.whole() / "report.md").read_text()
    assert str(runs.whole()) not in everything


# ---------------------------------------------------------------------------- odd folders


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("checkpoints", "a file", "can't write to "),
        ("config.json", "{", "is not the settings of a run: it isn't JSON"),
        (
            "config.json",
            '{"version": 1, "name": "a", "experiment": 3}',
            "is not the settings of a run: experiment must be dict; got 3",
        ),
        (
            "config.json",
            '{"version": 1, "name": "a", "experiment": {"epochs": 7}}',
            "has a run with --",
        ),
        ("result.json", "{}", "must be the result of a run in version 1"),
        ("result.json", '{"version": 1}', "is not the result of a run: it lacks best"),
        ("metrics.jsonl", '{"kind": "evaluation"}\n', "isn't a record"),
    ],
)
def test_an_odd_file_costs_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    found = runs.run(tmp_path, command=SGD)
    runs.assert_one_line(found, 2)
    assert said in found.err
    assert (tmp_path / name).read_text() == content


def test_the_result_of_another_run_costs_one_line(tmp_path):
    shutil.copy(runs.whole() / "result.json", tmp_path)
    found = runs.run(tmp_path, command=SGD)
    runs.assert_one_line(found, 2)
    assert "has a run with --" in found.err


def test_a_lock_that_cannot_be_had_costs_one_line(tmp_path):
    (tmp_path / "lock").mkdir()
    found = runs.run(tmp_path, command=SGD)
    runs.assert_one_line(found, 2)
    assert f"can't write to {tmp_path / 'lock'}: Is a directory" in found.err


def test_too_little_memory_is_said_with_what_helps(tmp_path, monkeypatch):
    def full(*given):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1")

    monkeypatch.setattr("experiments.training.harness.loop.Loop.run", full)
    found = runs.run(tmp_path, command=SGD)
    runs.assert_one_line(found, 1)
    assert "smaller --batch-size, --dtype bfloat16, or more devices" in found.err
