"""The largest batch: doubled until memory runs out."""

import json
import os

import pytest

from experiments import largest_batch
from experiments.shell import cli


def run(*options):
    return cli.run(largest_batch.main, options)


def test_the_batch_is_doubled_until_a_step_fails(monkeypatch, tmp_path):
    most = {label: 100 * 2**i for i, label in enumerate(largest_batch.TRIED)}
    tried = []

    def works(config, label, batch):
        tried.append((label, batch))
        return batch <= most[label]

    monkeypatch.setattr(largest_batch, "_works", works)
    assert run("--smallest", "30", "--limit-mib", "7", "--out", str(tmp_path)) == 0
    content = json.loads((tmp_path / "benchmark" / "largest_batch.json").read_text())
    # 30, 60, 120 and so on: the last one at or below 100, 200, 400, 800, 1600.
    assert list(content["largest_batch"].values()) == [60, 120, 240, 480, 960]
    assert tried[:3] == [("SGD", 30), ("SGD", 60), ("SGD", 120)]
    assert content["command"].endswith("--limit-mib 7 --smallest 30")


def die(config, label, batch):
    os._exit(1)


@pytest.mark.slow
def test_a_process_that_dies_is_out_of_memory(monkeypatch):
    monkeypatch.setattr(largest_batch, "step_works", die)
    assert not largest_batch._works(largest_batch.Config(), "SGD", 4)


def test_a_step_fits_without_a_limit_and_the_keeps_exist(monkeypatch):
    monkeypatch.setattr(largest_batch, "_limit", lambda mib: None)
    config = largest_batch.Config(model="mlp")
    for label in ("SGD", 'K-SAM, k = 1/4, keep="nothing"'):
        assert largest_batch.step_works(config, label, 4)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "lstm", "unknown model 'lstm'"),
        ("--limit-mib", "0", "--limit-mib must be at least 1"),
        ("--smallest", "1", "--smallest must be at least 4"),
    ],
)
def test_mistakes_cost_one_line(option, value, message, capsys):
    assert run(option, value) == 2
    assert message in capsys.readouterr().err
