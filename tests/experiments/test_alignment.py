"""What k the gradients recommend before training: the command, and its table."""

import json
from typing import Any

import pytest

from experiments import alignment
from experiments.configs import rows
from experiments.flatness import alignments
from experiments.shell import cli
from experiments.training.harness import job


def test_the_table_has_two_rows_for_a_config():
    entry = {
        "title": "a model, some data",
        "batch_size": 4,
        "batches": 3,
        "highest": [0.123, 0.5, 1.0],
        "random": [0.2, 0.4, 1.0],
        "recommended": 0.25,
    }
    content: Any = {"configs": {"one": entry}}
    first, second = alignments.table_rows(content)
    assert first == (
        "a model, some data", "3 of 4", "highest loss", "0.12", "0.50", "1.00", "1/4",
    )  # fmt: skip
    assert second == ("", "", "random", "0.20", "0.40", "1.00", "")


@pytest.mark.slow
def test_the_command_measures_whole_batches(tmp_path):
    options = ["--configs", "digits_k_sam", "--batches", "9", "--out", str(tmp_path)]
    assert cli.run(alignment.main, options) == 0
    content = json.loads((tmp_path / "alignment" / "results.json").read_text())
    entry = content["configs"]["digits_k_sam"]
    train = job.prepare("digits_k_sam", rows.row("digits_k_sam").experiment, None, None)
    assert entry["batches"] == train.inputs.train.size // entry["batch_size"]
    assert entry["highest"][-1] == pytest.approx(1, abs=1e-5)
    assert all(-1 <= cosine <= 1 for cosine in entry["highest"][:-1] + entry["random"][:-1])


def test_mistakes_cost_one_line(tmp_path, capsys):
    for options, words in (
        (["--batches", "0"], "--batches must be at least 1"),
        (["--configs", "digits_ksam"], "did you mean"),
    ):
        assert cli.run(alignment.main, [*options, "--out", str(tmp_path)]) == 2
        assert words in capsys.readouterr().err
