"""What several devices send and keep: the formulas, the counts, the page."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import scaling
from experiments.costs.devices import formulas, pod, spread
from experiments.costs.devices.formulas import Cluster, Model, Traffic, Work
from experiments.methods import cost
from experiments.pages import devices
from experiments.shell import cli

REFERENCE = Path("results/reference/scaling/scaling.json")
CLUSTER = Cluster("two chips", 100.0, 0.5, 10.0, 0.25, is_torus=False)
MODEL = Model("small", parameters=20, forward=10.0)


@pytest.fixture(scope="module")
def committed() -> Any:
    return json.loads(REFERENCE.read_text())


def row(committed: Any, method: str, way: str) -> Any:
    found = committed["counted"]["rows"]
    (only,) = [r for r in found if (r["method"], r["way"]) == (method, way)]
    return only


# ------------------------------------------------------------------- the formulas


def test_an_all_reduce_sends_nearly_twice_its_size_around_a_ring():
    # Four devices: 2 * 80 * 3 / 4 bytes at 10 bytes a second, and 6 hops of a quarter.
    assert formulas.all_reduce_seconds(CLUSTER, 80, 4) == pytest.approx(12 + 1.5)
    assert formulas.all_reduce_seconds(CLUSTER, 80, 1) == 0


def test_a_torus_has_fewer_hops():
    torus = Cluster("torus", 100.0, 0.5, 10.0, 0.25, is_torus=True)
    # Sixteen devices, four by four: there and back in both directions, three hops each.
    assert formulas.all_reduce_seconds(torus, 80, 16) == pytest.approx(15 + 12 * 0.25)


def test_a_step_computes_and_waits():
    # 8 examples on 4 devices at 50 operations per second: 0.4 s per forward pass.
    work, both = Work(3, 3, 2, 2), Traffic(1, False, 3)
    step, waits = formulas.step_seconds(work, both, MODEL, CLUSTER, 4, 8, 0.0)
    assert waits == pytest.approx(2 * 13.5)
    assert step == pytest.approx(6 * 0.4 + 27)


def test_what_hides_under_a_backward_pass_is_not_waited_for():
    work, both = Work(3, 3, 2, 1), Traffic(1, False, 3)
    _, waits = formulas.step_seconds(work, both, MODEL, CLUSTER, 4, 8, 0.5)
    assert waits == pytest.approx((13.5 - 0.5 * 0.4 * 2) + (13.5 - 0.5 * 0.4 * 1))
    fast = Cluster("fast", 100.0, 0.5, 1e6, 0.0, is_torus=False)
    assert formulas.step_seconds(work, both, MODEL, fast, 4, 8, 0.5)[1] == 0


def test_the_work_of_a_step_is_what_the_passes_cost():
    assert cost.sgd_work(1.0).total == 3
    assert cost.sam_work(1.0).total == 6
    assert cost.k_sam_work(0.25).total == pytest.approx(1 + 5 * 0.25)
    assert cost.k_momentum_sam_work(0.25).total == pytest.approx(1 + 2 * 0.25)


# ------------------------------------------------------------- what was committed


@pytest.mark.parametrize("name", spread.METHODS)
def test_the_formula_of_bytes_is_what_was_counted(committed, name):
    traffic = spread.METHODS[name].traffic
    model = Model("", committed["counted"]["parameters"], 0)
    ((kind, (times, size)),) = row(committed, name, "shard_map")["collectives"].items()
    assert (kind, times) == ("all-reduce", 1 + traffic.climb)
    assert size == formulas.bytes_reduced(traffic, model)


@pytest.mark.parametrize("name", spread.METHODS)
@pytest.mark.parametrize("way", ["shard_map", "jit"])
def test_each_device_was_counted_to_compute_its_part(committed, name, way):
    alone = row(committed, name, "")["operations"]
    share = alone / committed["counted"]["devices"]
    assert row(committed, name, way)["operations"] == pytest.approx(share, rel=0.03)


@pytest.mark.parametrize("name", spread.METHODS)
def test_groups_were_counted_to_gather_losses_at_most(committed, name):
    found = row(committed, name, "jit")["collectives"]
    assert set(found) <= {"all-reduce", "all-gather"}
    gathered = found.get("all-gather", (0, 0))[1]
    traffic, batch = spread.METHODS[name].traffic, committed["counted"]["batch"]
    assert gathered <= formulas.bytes_gathered(traffic, batch)


def test_sharded_weights_were_counted_to_take_less_memory(committed):
    for name in spread.METHODS:
        whole = row(committed, name, "jit")["argument_bytes"]
        assert row(committed, name, "fsdp")["argument_bytes"] < 0.3 * whole


def test_the_page_shows_every_method(committed):
    headers, rows = devices.sent(committed)
    assert [r[0] for r in rows] == [m.label for m in spread.METHODS.values()]
    assert all(len(r) == len(headers) for r in rows)
    headers, rows = devices.kept(committed)
    assert all(len(r) == len(headers) for r in rows)
    assert "K-SAM" in devices.computed(committed, "folder")


def test_the_committed_model_is_what_the_formulas_say(committed):
    found = json.loads(json.dumps(pod.compute({}, 0.0)))
    assert found == committed["computed"]


# ------------------------------------------------------------------------ program


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--model", "vti"], "vit"),
        (["--devices", "1"], "--devices must be at least 2; got 1"),
        (["--devices", "7"], "--devices must divide the batch of 128; got 7"),
        (["--bandwidth", "0"], "--bandwidth must be above 0"),
        (["--overlap", "2"], "--overlap must be from 0 to 1"),
    ],
)
def test_bad_options_are_told_in_one_line(argv, match):
    with pytest.raises(cli.UsageError, match=match):
        scaling.main(argv)


def test_the_picture_is_drawn(tmp_path):
    computed: Any = pod.compute({"bandwidth": 1e9}, 0.5)
    pod.draw(computed, tmp_path / "devices.png")
    assert (tmp_path / "devices.png").stat().st_size > 10_000
