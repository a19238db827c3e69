"""Choices: which split's they are, and in what respect they are for something else."""

import pytest
from hand_chosen import values_of, write_choices

from experiments.configs import choices
from experiments.configs.compare import DIGITS
from experiments.methods import DEFAULT
from experiments.shell.cli import UsageError


def test_a_split_has_its_own_or_the_first_splits(tmp_path):
    found = choices.read(write_choices(tmp_path, splits=(0, 2)))
    assert found.choice("sam", 2) == (values_of("sam"), 2)
    assert found.choice("sam", 1) == (values_of("sam"), 0)
    now = DIGITS.summary()
    (note,) = choices.caveats(found, now, 0.0, ["sam"], 4)
    assert note == "Hyperparameters on splits 1, 3 are those chosen on split 0."
    assert choices.caveats(found, now, 0.0, ["sam"], 1) == []


def test_other_settings_are_told(tmp_path):
    found = choices.read(write_choices(tmp_path, label_noise=0.0))
    other = DIGITS.changed(epochs=3, batch_size=64).summary()
    (note,) = choices.caveats(found, other, 0.2, ["sam"], 1)
    assert (
        note == "Hyperparameters were chosen with epochs 60, batch size 128, label noise 0."
    )


def test_choices_with_the_same_noise_come_first(tmp_path):
    path = write_choices(tmp_path)
    clean = path.rename(tmp_path / "keep")
    noisy = write_choices(tmp_path, label_noise=0.2).rename(
        tmp_path / "digits-noise-0.2.json"
    )
    clean.rename(path)
    assert choices.best_available("digits", 0.2, tmp_path).path == noisy
    assert choices.best_available("digits", 0.4, tmp_path).path == path
    assert choices.best_available("digits", 0.0, tmp_path).path == path


def test_missing_choices_name_the_command(tmp_path):
    found = choices.read(write_choices(tmp_path, methods=["sgd"]))
    found.require(["sgd"])
    with pytest.raises(
        UsageError, match=r"no hyperparameters for esam, sam in .*digits.json"
    ):
        found.require(["sam", "esam"])
    nothing = choices.read(tmp_path / "mnist-noise-0.2.json")
    with pytest.raises(UsageError, match=r"experiments\.search --dataset mnist"):
        nothing.require(["sgd"])


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "digits.json"
    path.write_text('{"splits": 3')
    with pytest.raises(UsageError, match="is not chosen hyperparameters"):
        choices.read(path)


def test_what_ships_fits_the_methods():
    shipped = choices.best_available("digits", 0.0)
    shipped.require(DEFAULT)
    for methods in shipped.splits.values():
        for name, entry in methods.items():
            assert set(entry["hyperparameters"]) == set(values_of(name))
