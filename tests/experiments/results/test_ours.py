"""What is not published is expected as we got it, with the very same settings."""

import math
from dataclasses import replace
from typing import Any

import pytest

from experiments.configs.rows import ROWS
from experiments.results import records
from experiments.results.contents import COMPARISON
from experiments.results.ours import ours
from experiments.shell import files

ROW = ROWS["digits_sgd"]
WHAT = ROW.experiment


def runs() -> dict[str, Any]:
    """Two seeds at the row's own hyperparameters."""
    return {
        **{key: [0.9478, 0.9546] for key in ("test_accuracy", "validation_accuracy")},
        **{key: [0.1, 0.1] for key in ("train_loss", "sharpness", "seconds")},
        "split": 0,
        "hyperparameters": {
            "learning_rate": WHAT.learning_rate,
            "weight_decay": WHAT.weight_decay,
        },
    }


def write(folder, pixels="pixel / 16"):
    """A reproduced table of the digits; returns where `ours` looks for such tables."""
    content: dict[str, Any] = {
        **records.summarised({"sgd": [runs()]}),
        **dict.fromkeys(("command", "date"), ""),
        "complete": True,
        "seconds": 1.0,
        "dataset": {"title": "digits", "train": 384, "validation": 516, "test": 897},
        "config": {"methods": ["sgd"], "seeds": 2, "splits": 1, "label_noise": 0.0},
        "notes": [],
        "machine": {**files.machine(), "cpu": "A processor"},
        "versions": {},
        "protocol": {"model": "MLP", "epochs": WHAT.epochs, "pixels": pixels},
    }
    COMPARISON.write(folder / "digits" / "results.json", content)
    return folder


def test_it_is_the_mean_over_seeds_with_its_spread_and_machine(tmp_path):
    found = ours(ROW, write(tmp_path))
    assert found is not None
    # 34 hundredths of a percent on either side, times the square root of 2.
    assert (found.accuracy, found.spread) == (
        pytest.approx(95.12),
        pytest.approx(0.34 * math.sqrt(2)),
    )
    assert found.seeds == 2
    assert found.source == "Ours, 2 seeds, A processor (results/reference/reproduce/digits)"


@pytest.mark.parametrize(
    "other",
    [
        replace(ROW, experiment=replace(WHAT, learning_rate=0.9)),
        replace(ROW, experiment=replace(WHAT, epochs=3)),
        ROWS["digits_sam"],
        ROWS["mnist_1000_sgd"],
    ],
    ids=["learning rate", "epochs", "method", "dataset"],
)
def test_with_other_settings_it_is_another_experiment(tmp_path, other):
    folder = write(tmp_path)
    assert ours(ROW, folder) is not None
    assert ours(other, folder) is None


def test_with_other_pixels_it_is_another_experiment(tmp_path):
    assert ours(ROW, write(tmp_path, pixels="(pixel - 33.32) / 78.57")) is None
