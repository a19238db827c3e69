"""The input pipeline beside the step: what is measured, and what isn't there."""

import json

import pytest

from experiments import throughput
from experiments.results import speeds
from experiments.shell import cli

pytestmark = pytest.mark.xdist_group("train")


def test_both_are_measured_and_compared(tmp_path, capsys):
    argv = ["--configs", "digits_sgd", "--rounds", "3", "--out", str(tmp_path)]
    assert cli.run(throughput.main, argv) == 0
    content = json.loads((tmp_path / "throughput.json").read_text())
    found = content["configs"]["digits_sgd"]
    assert found["pipeline"] > 0
    assert found["step"] > 0
    # Medians of ratios and ratios of medians aren't the same, but not far from it.
    ratio = found["pipeline"] / found["step"]
    assert found["times"]["median"] == pytest.approx(ratio, rel=2)
    assert content["command"] == (
        "python -m experiments.throughput --configs digits_sgd --rounds 3 --out DIR"
    )
    (row,) = speeds.table(content)
    assert row[0] in capsys.readouterr().out
    assert f"{found['step']:,.0f}" in row


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--configs", "mnist_1000_sgd", "--data-dir", "/nowhere"), "tfds build mnist"),
        (("--configs",), "nothing to measure"),
        (("--configs", "digits"), "unknown config 'digits'"),
        (("--rounds", "0"), "--rounds must be at least 1; got 0"),
    ],
)
def test_mistakes_cost_one_line(options, said, tmp_path, capsys):
    assert cli.run(throughput.main, [*options, "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "throughput.json").exists()


def test_defaults_whose_data_are_not_there_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(throughput, "CONFIGS", ("mnist_1000_sgd", "digits_sgd"))
    config = throughput.Config(
        configs=throughput.CONFIGS, data_dir=tmp_path, rounds=1, out=tmp_path
    )
    monkeypatch.setattr(cli, "parse", lambda *given: config)
    assert throughput.main([]) == 0
    assert "left out mnist_1000_sgd: dataset 'mnist' is not prepared" in (
        capsys.readouterr().out
    )
    content = json.loads((tmp_path / "throughput.json").read_text())
    assert list(content["configs"]) == ["digits_sgd"]
