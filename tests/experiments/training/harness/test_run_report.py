"""A finished run's page and picture have the figures of its files."""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from experiments.configs.experiment import Experiment
from experiments.data.augment import CROP_AND_FLIP
from experiments.training.harness import curves, report
from experiments.training.harness.metrics import Metrics

EXPERIMENT = Experiment(
    dataset="cifar10",
    model="resnet18",
    method="sam",
    epochs=3,
    learning_rate=0.1,
    weight_decay=5e-4,
    rho=0.05,
    augmentation=CROP_AND_FLIP,
    validation_examples=5000,
)


@pytest.fixture
def run(tmp_path):
    """A folder of three epochs of ten steps."""
    result = _result()
    with Metrics(tmp_path, after_step=0) as metrics:
        for step in range(2, 31, 2):
            metrics.train(_means(step))
            if step % 10 == 0:
                metrics.evaluation(_evaluation(step))
    _save(tmp_path, result)
    return tmp_path


def test_the_page_has_the_figures(run):
    report.write(run)
    page = (run / "report.md").read_text()
    assert page.startswith("# CIFAR-10, ResNet-18, SAM\n\n**Test accuracy 63.00%**")
    assert "![Loss, accuracy, sharpness and norms over epochs](curves.png)" in page
    for row in (
        "|  | last checkpoint | best by validation accuracy |",
        "| step | 30 | 20 |",
        "| epoch | 3 | 2 |",
        "| training accuracy, % | 80.00 | 70.00 |",
        "| validation accuracy, % | 64.00 | 65.00 |",
        "| test accuracy, % | 63.00 | 62.00 |",
        "| test loss | 0.3333 | 0.5000 |",
        "| learning rate | 0.1, falling to 0 as a cosine |",
        "| weight decay | 0.0005 |",
        "| rho | 0.05 |",
        "| augmentation | random crop after a border of 4, random flip |",
        "| train examples | all that aren't held out |",
    ):
        assert f"\n{row}\n" in page
    assert "gamma" not in page
    assert "Sharpness of the last checkpoint: 0.01235." in page
    assert "2.0 h for 30 steps on 1 device, 1,234 examples/s (median)." in page
    assert "2 cores, A CPU, A GPU, Linux; Python 3.11.7, JAX 0.10.2; 2026-11-21." in page
    assert "Packages: optax 0.2.8." in page
    assert "```bash\npython -m experiments.train --config row --out OUT\n```" in page


def test_it_says_which_result_to_quote(run):
    report.write(run)
    page = (run / "report.md").read_text()
    assert "The result to quote is the last checkpoint's, as in the papers" in page
    assert "the highest validation accuracy. The choice flatters that figure" in page


def test_without_validation(run):
    result = _result(validation=None)
    result["best"] = {**result["last"], "judged_by": "training loss"}
    _save(run, result)
    report.write(run)
    page = (run / "report.md").read_text()
    assert "validation accuracy" not in page
    assert "The last checkpoint is also the best by training loss." in page
    assert "50,000 training, 10,000 test examples" in page


def test_a_diverged_run_says_so(run):
    result = _result()
    result["last"] |= {"train_loss": None, "test_loss": None, "test_accuracy": 0.1}
    _save(run, result | {"sharpness": None, "examples_per_second": None})
    report.write(run)
    page = (run / "report.md").read_text()
    assert "| test loss | not finite | 0.5000 |" in page
    assert "Sharpness of the last" not in page
    assert "on 1 device.\n" in page


def test_the_title_names_the_norm(run):
    result = _result()
    result["experiment"]["norm"] = "group"
    assert report.title(result) == "CIFAR-10, ResNet-18, GroupNorm, SAM"


def test_the_picture_is_drawn(run):
    report.write(run)
    pixels = imread(run / "curves.png")
    assert pixels.shape[:2] == (1230, 1650)
    # Each of the four panels has more than its frame and its grid: colours.
    halves = (slice(150, 690), slice(690, 1230)), (slice(0, 825), slice(825, 1650))
    for rows in halves[0]:
        for columns in halves[1]:
            panel = pixels[rows, columns, :3]
            assert np.sum(np.ptp(panel, axis=-1) > 0.2) > 1000


@pytest.mark.parametrize("steps", [0, 1, 4, 500])
@pytest.mark.parametrize("evaluations", [1, 40])
def test_pictures_of_runs_of_any_length(tmp_path, monkeypatch, steps, evaluations):
    figures = _kept(monkeypatch)
    train = [_means(i + 1) | {"sharpness": None} for i in range(steps)]
    judged = [_evaluation(10 * i + 10) for i in range(evaluations)]
    curves.draw(tmp_path / "p.png", ("Title", "below"), train, judged, best_epoch=1)
    loss, accuracy, rate, norms = figures[0].axes
    assert [len(line.get_ydata()) for line in accuracy.lines] == [evaluations] * 3 + [2]
    assert rate.get_title("left").startswith("Learning rate (this method measures no")
    names = loss.get_legend_handles_labels()[1]
    batches = ["batches, as trained on"] if steps else []
    assert names == [*batches, "training", "validation", "test"]
    assert [text.get_text() for text in norms.texts] == ([] if steps else ["not recorded"])
    low, high = accuracy.get_ylim()
    assert low < 100 * judged[-1]["test_accuracy"] < high


def test_a_curve_stops_where_numbers_do(tmp_path, monkeypatch):
    figures = _kept(monkeypatch)
    train = [_means(i) | ({"loss": None} if i > 20 else {}) for i in range(1, 31)]
    curves.draw(tmp_path / "p.png", ("Title", "below"), train, [_evaluation(30)])
    batches = figures[0].axes[0].lines[0]
    assert np.asarray(batches.get_xdata()).tolist() == [i / 10 for i in range(1, 21)]


def test_a_steep_loss_is_drawn_in_logarithms(tmp_path, monkeypatch):
    figures = _kept(monkeypatch)
    for first in (2.0, 1e4):
        train = [_means(i) | {"loss": first if i == 1 else 0.5} for i in range(1, 9)]
        curves.draw(tmp_path / "p.png", ("Title", "below"), train, [_evaluation(10)])
    assert [figure.axes[0].get_yscale() for figure in figures] == ["linear", "log"]


def _kept(monkeypatch):
    """The figures that are drawn; they aren't saved, which is slow."""
    figures = []
    monkeypatch.setattr(curves.Figure, "savefig", lambda self, path: figures.append(self))
    return figures


def _means(step):
    return {
        "step": step,
        "epoch": step / 10,
        "loss": 2 / step,
        "perturbed_loss": 2.1 / step,
        "sharpness": 0.1 / step,
        "ascent_norm": 1.0,
        "perturbation_norm": 0.05,
        "cosine": 0.5,
        "gradient_norm": 1 + 0.1 * math.sin(step),
        "learning_rate": 0.1,
        "examples_per_second": 1234.4,
    }


def _evaluation(step, validation: float | None = 0.64):
    return {
        "step": step,
        "epoch": step // 10,
        "train_accuracy": 0.5 + step / 100 if step <= 30 else 0.9,
        "train_loss": 5 / step,
        "validation_accuracy": validation,
        "validation_loss": None if validation is None else 9 / step,
        "test_accuracy": 0.6 + step / 1000,
        "test_loss": 10 / step,
    }


def _result(validation: float | None = 0.64) -> Any:
    last, best = _evaluation(30, validation), _evaluation(20, validation and 0.65)
    held_out = 0 if validation is None else 5000
    return {
        "version": 1,
        "complete": True,
        "command": "python -m experiments.train --config row --out OUT",
        "date": "2026-11-21",
        "name": "row",
        "experiment": asdict(EXPERIMENT),
        "parameters": 11173962,
        "dataset": {
            "title": "CIFAR-10",
            "source": "TFDS cifar10 3.0.2",
            "train": 50000 - held_out,
            "validation": held_out,
            "test": 10000,
        },
        "steps": 30,
        "devices": 1,
        "processes": 1,
        "last": last,
        "best": {**best, "judged_by": "validation accuracy"},
        "sharpness": 0.012345,
        "seconds": 7200.0,
        "examples_per_second": 1234.4,
        "machine": {
            "cores": 2,
            "cpu": "A CPU",
            "system": "Linux",
            "device": "A GPU",
            "backend": "gpu",
        },
        "versions": {"python": "3.11.7", "jax": "0.10.2", "optax": "0.2.8"},
    }


def _save(folder, result):
    (folder / "result.json").write_text(json.dumps(result))
