"""How steps grow, at sizes of a toy: killed, continued, and shown."""

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest

from experiments import growth
from experiments.configs.growth import FAMILIES, MILLION
from experiments.costs.benchmark.task import make_task
from experiments.costs.growth import breakeven, measuring, plots
from experiments.costs.growth.plan import Case, plan
from experiments.pages import growth as page
from experiments.processes import budget
from experiments.shell import cli

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference" / "growth" / "growth.json"
TOY = (
    *("--models", "mlp", "--parameters", "0.01", "--batches", "8"),
    *("--devices", "1", "2", "--spread-batch", "8"),
    *("--rounds", "3", "--timing-seconds", "0.1"),
)
pytestmark = pytest.mark.xdist_group("growth")


@pytest.fixture
def committed() -> Any:
    return json.loads(REFERENCE.read_text())


# --------------------------------------------------------------- what is measured


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("millions", [1, 10, 100])
def test_a_model_has_about_the_parameters_that_were_asked_for(name, millions):
    workload = FAMILIES[name].workload(millions, 16)
    params, _ = jax.eval_shape(make_task(workload.build("float32")).init, jax.random.key(0))
    found = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found == pytest.approx(millions * MILLION, rel=0.05)
    assert workload.batch_size == 16


def test_the_plan_varies_one_number_at_a_time_and_names_each_case_once():
    cases = plan(["mlp"], [1, 10], [32, 128], [1, 2], 128)
    own = FAMILIES["mlp"].like.batch_size
    assert sorted(cases) == sorted(
        {
            *(Case("mlp", millions, own, 1) for millions in (1, 10)),
            *(Case("mlp", 1, batch, 1) for batch in (32, 128)),
            *(Case("mlp", 1, 128, devices) for devices in (1, 2)),
        }
    )
    # What may not fit comes last.
    assert cases[-1] == Case("mlp", 10, own, 1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--models", "mpl"), "mlp"),
        (("--models",), "--models needs at least one"),
        (("--parameters", "0"), "--parameters must be above 0; got 0"),
        (("--batches", "2"), "--batches must be at least 4; got 2"),
        (("--devices", "3"), "--spread-batch must be a multiple of four .* got 128 on 3"),
        (("--rounds", "0"), "--rounds must be at least 1"),
        (("--minutes", "-1"), "--minutes must be above 0"),
        (("--timing-seconds", "0"), "--timing-seconds must be above 0"),
    ],
)
def test_bad_options_are_told_in_one_line(options, match, tmp_path):
    with pytest.raises(cli.UsageError, match=match):
        growth.main([*options, "--out", str(tmp_path)])


# ------------------------------------------------------------- killed, and going on


def started(folder: Path, *more: str) -> Any:
    words = (*TOY, "--out", str(folder), *more)
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.growth", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )


@pytest.mark.slow
def test_it_is_killed_and_goes_on(tmp_path):
    file = tmp_path / "growth" / "growth.json"
    program, until = started(tmp_path), time.monotonic() + 300
    while not found_in(file) and program.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    program.kill()
    program.communicate()
    first = found_in(file)
    assert len(first) in (1, 2)

    again = started(tmp_path)
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0, said
    content = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert content["complete"]
    assert len(content["cases"]) == 3
    # What was there wasn't measured anew.
    assert all(case in content["cases"] for case in first)
    assert [c["devices"] for c in content["cases"]] == [2, 1, 1]
    for case in content["cases"]:
        for step in case["steps"].values():
            assert step["operations"] > 0
            assert step["bytes_moved"] > 0
            assert step["seconds"]["median"] > 0
        assert case["steps"]["sgd"]["time_vs_sgd"]["median"] == 1
    assert "MLP" in page.block(content, "folder")
    assert (tmp_path / "growth" / "growth.png").stat().st_size > 10_000


def found_in(file: Path) -> list[Any]:
    return json.loads(file.read_text())["cases"] if file.exists() else []


def test_another_call_starts_anew_and_what_has_no_time_is_left(
    tmp_path, monkeypatch, capsys, committed
):
    file, told = tmp_path / "growth" / "growth.json", []

    def within(seconds, work, *args):
        told.append(work.__name__)
        return budget.CUT if work is measuring.measure_all else int(work(*args)) or "done"

    monkeypatch.setattr(budget, "within", within)
    argv = [*TOY, "--out", str(tmp_path), "--minutes", "1"]
    assert growth.main(argv) == 1
    # A process for the machine, one for two devices and one for one.
    assert told == ["begin", "measure_all", "measure_all"]
    assert "not done yet: 3 of 3; the same command goes on" in capsys.readouterr().out

    content = json.loads(file.read_text())
    assert not content["complete"]
    one = copy.deepcopy(committed["cases"][0]) | {
        "millions": 0.01,
        "batch": 128,
        "devices": 1,
    }
    content["cases"] = [one]
    file.write_text(json.dumps(content))
    assert growth.main(argv) == 1
    assert json.loads(file.read_text())["cases"] == [one]
    # With other rounds it is another measurement.
    assert growth.main([*argv, "--rounds", "4"]) == 1
    assert json.loads(file.read_text())["cases"] == []


# ------------------------------------------------------------------ the break-even


def test_the_crossing_is_on_a_line_between_two_neighbours():
    # Half the way from 1.2 to 0.8: the geometric mean of the two.
    assert breakeven.crossing([32, 128], [1.2, 0.8]) == pytest.approx(64)
    assert breakeven.crossing([1, 2, 4], [1.1, 0.9, 0.8]) == pytest.approx(2**0.5)
    assert breakeven.crossing([1, 2], [1.1, 1.0]) is None
    assert breakeven.crossing([1, 2], [0.9, 0.8]) is None


def test_what_grows_with_the_batch_is_told_from_what_does_not(committed):
    first, second = (copy.deepcopy(committed["cases"][0]) for _ in range(2))
    for case, batch in ((first, 10), (second, 30)):
        case |= {"batch": batch, "parameters": 1000, "devices": 1}
        case["steps"]["sgd"]["bytes_moved"] = 40 * 1000 + 7 * batch
    sweep = breakeven.Sweep("batch", "batch", [first, second])
    found = breakeven.fixed_and_per_example(sweep, "sgd", "bytes_moved")
    assert found == pytest.approx((40, 7))


# ------------------------------------------------------------- what was committed


def test_the_page_shows_every_case(committed):
    assert committed["complete"]
    grown = [rows for title, _, rows in page.tables(committed) if "Against" in title]
    assert sum(map(len, grown)) >= len(committed["cases"])
    for _, headers, rows in page.tables(committed):
        assert all(len(row) == len(headers) for row in rows)
    text = page.block(committed, "folder")
    assert "![Time of a step" in text
    assert committed["command"] in text


def test_operations_fall_with_k_sam_and_bytes_rise(committed):
    for case in committed["cases"]:
        if case["devices"] == 1 and case["batch"] >= 128:
            sgd, ours = case["steps"]["sgd"], case["steps"]["k_sam"]
            assert ours["operations"] < sgd["operations"]
            assert ours["bytes_moved"] > sgd["bytes_moved"]


def test_a_part_of_the_cases_is_drawn_too(committed, tmp_path):
    few = committed | {"cases": committed["cases"][-1:]}
    plots.draw(few, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000
