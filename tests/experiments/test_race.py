"""A race on the digits: what it leaves, survives, and says; and its arithmetic by hand."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from PIL import Image
from rich.console import Console

from experiments import race
from experiments.configs.rows import ROWS
from experiments.methods.palette import BLACK
from experiments.processes import sharded
from experiments.racing import entries, laps, operations, page, summary, together
from experiments.racing.laps import UNKNOWN, Lap
from experiments.results import output, plots
from experiments.results.plots import lines
from experiments.shell import cli
from experiments.training.harness import grid

# All tests read what one race has left, so they belong into one process.
pytestmark = pytest.mark.xdist_group("race")

SMALL = (
    *("--methods", "k_sam_following", "half", "half_batch"),
    *("--epochs", 2, "--seeds", 2, "--laps", 3, "--validation-examples", 100),
)


def call(*options):
    return cli.run(race.main, [str(option) for option in options])


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    out = tmp_path_factory.mktemp("race")
    assert call(*SMALL, "--out", out) == 0
    return out / "digits"


def read(path):
    return json.loads(path.read_text(), parse_constant=pytest.fail)


# ------------------------------------------------------------------- what it leaves


def test_it_leaves_a_result_and_a_picture(first):
    content = read(first / "race.json")
    assert content["version"] == 1
    assert content["baseline"] == "sgd"
    assert [list(seed) for seed in content["seeds"]] == 2 * [list(content["settings"])]
    assert (first / "race.png").stat().st_size > 10_000
    assert not (first / output.PARTIAL).exists()


def test_all_train_at_the_baseline_s_settings(first):
    settings = read(first / "race.json")["settings"]
    base = settings["sgd"]["experiment"]
    searched = ROWS["digits_sgd"].experiment
    assert base["learning_rate"] == searched.learning_rate
    assert base["weight_decay"] == searched.weight_decay
    theirs = settings["k_sam_following"]["experiment"]
    assert {k: v for k, v in theirs.items() if base[k] != v} == {
        "method": "k_sam_following"
    }
    cut = settings["half_batch"]["experiment"]
    changed = {k: v for k, v in cut.items() if base[k] != v}
    assert changed == {"epochs": 1, "batch_size": base["batch_size"] / 2}


@pytest.mark.parametrize(("norm", "trained"), [(None, "group"), ("batch", "batch")])
def test_the_norm_is_the_table_s_unless_it_is_said(norm, trained):
    config = race.Config("cifar10_10000_group", ("k_sam_following",), norm=norm)
    _, experiments = race._checked(config)
    assert {one.norm for one in experiments.values()} == {trained}


def test_laps_are_spread_over_each_one_s_own_steps(first):
    (one, _) = read(first / "race.json")["seeds"]
    steps = {name: [lap["step"] for lap in found] for name, found in one.items()}
    whole = steps["sgd"][-1]
    # Half the epochs are half the steps; of half the batch there are as many as before.
    assert steps["half"][-1] == whole // 2
    assert steps["half_batch"][-1] == pytest.approx(whole, abs=2)
    for found in one.values():
        assert len(found) == 3
        seconds = [lap["seconds"] for lap in found]
        assert sorted(seconds) == seconds
        assert all(0 <= lap["score"] <= 1 for lap in found)
    assert {lap["examples"] for lap in one["sgd"]} == {1.0}


def test_each_lap_knows_its_steps(first):
    for seed in read(first / "race.json")["seeds"]:
        for name, found in seed.items():
            ends = [0, *(lap["step"] for lap in found)]
            for lap, before in zip(found, ends, strict=False):
                numbers = [kind["number"] for kind in lap["kinds"]]
                assert sum(numbers) == lap["step"] - before
                carried = sum(kind["examples"] * kind["number"] for kind in lap["kinds"])
                assert lap["examples"] == pytest.approx(carried / sum(numbers))
                assert {kind["climbs"] for kind in lap["kinds"]} == {False}, name
                shares = {kind["examples"] for kind in lap["kinds"]}
                assert shares <= ({0.25, 0.5, 1.0} if "k_sam" in name else {1.0})


def test_operations_are_of_the_steps_that_there_were(first):
    """All of the method took a quarter, without a climb; XLA counts what a device has."""
    content = read(first / "race.json")
    counted = content["operations"]
    assert counted["half"] == counted["sgd"]
    assert counted["half_batch"] < counted["sgd"]
    laps = [lap for seed in content["seeds"] for lap in seed["k_sam_following"]]
    assert {kind["examples"] for lap in laps for kind in lap["kinds"]} == {0.25}
    assert counted["k_sam_following"] < counted["sgd"]


def test_a_climb_shows_in_the_radius_or_else_in_the_losses():
    """Share, radius and rise of each step: known or not, with a climb or without."""
    notes = [
        (0.25, 0.05, 0.3),
        (0.25, 0.05, 0.0),
        (0.25, 0.0, 0.0),
        (0.25, UNKNOWN, -0.1),
        (0.25, UNKNOWN, UNKNOWN),
        (0.25, UNKNOWN, 0.0),
        (UNKNOWN, UNKNOWN, UNKNOWN),
    ]
    kinds = laps._kinds([tuple(map(jnp.float32, note)) for note in notes])
    assert {tuple(kind) for kind in kinds} == {
        (0.25, True, 4),
        (0.25, False, 2),
        (1.0, False, 1),
    }


@pytest.mark.parametrize(
    ("name", "kinds", "least", "most"),
    [
        ("k_sam_following", [(0.25, False, 1)], 0.55, 0.6),
        ("k_sam_following", [(0.25, True, 1)], 0.75, 0.85),
        ("k_sam_losses", [(0.25, True, 1)], 0.74, 0.83),
        # A forward pass of all, a backward pass of a quarter: without a climb nearly.
        ("k_momentum_following", [(0.25, True, 1)], 0.55, 0.6),
        ("k_sam_following", [(1.0, False, 1)], 0.99, 1.06),
        ("k_sam_following", [(0.25, False, 3), (1.0, False, 1)], 0.6, 0.71),
        ("sam_last_fifth", [(1.0, False, 4), (1.0, True, 1)], 1.19, 1.25),
        ("sam", [(1.0, True, 5)], 1.99, 2.05),
    ],
)
def test_each_kind_of_step_counts_as_often_as_it_ran(name, kinds, least, most, monkeypatch):
    """On one device with 128 examples: a dense network's forward pass is a third of SGD's
    step, and so is each half of a backward pass, but for what is done for each weight."""
    one = Mesh(np.array(jax.devices()[:1]), (sharded.DATA,))
    monkeypatch.setattr(sharded, "data_mesh", lambda: one)
    config = race.Config(methods=(name,), validation_examples=100)
    base, experiments = race._checked(config)
    jobs = grid.Jobs(None, Console(quiet=True))
    mine = {one: jobs.of(base.name, what) for one, what in experiments.items()}
    plain = Lap(1, 1.0, 0.5, 1.0, (laps.Steps(1.0, climbs=False, number=1),))
    own = Lap(1, 1.0, 0.5, 1.0, tuple(laps.Steps(*kind) for kind in kinds))
    found = operations.mean_operations(mine, {"sgd": [[plain]], name: [[own]]})
    assert least <= found[name] / found["sgd"] <= most


def test_without_the_kinds_of_steps_there_are_no_operations(first):
    content = read(first / "race.json")
    del content["operations"]
    assert page.OPERATIONS not in page.headers(content)
    assert {len(row) for row in page.rows(content)} == {len(page.headers(content))}
    assert "Operations" not in page.note(content)


def test_two_seeds_are_two_trainings(first):
    (one, two) = read(first / "race.json")["seeds"]
    scores = [[lap["score"] for lap in seed["sgd"]] for seed in (one, two)]
    assert scores[0] != scores[1]


def test_a_seed_alone_gives_what_it_gave_beside_others(first, tmp_path):
    """Nothing that runs beside it, and no order of turns, changes a training."""
    content = read(first / "race.json")
    options = [o if o != "half" else "sam" for o in SMALL]
    assert call(*options, "--seeds", 1, "--out", tmp_path) == 0
    (alone,) = read(tmp_path / "digits" / "race.json")["seeds"]
    for name in ("sgd", "k_sam_following"):
        expected = [lap["score"] for lap in content["seeds"][0][name]]
        assert [lap["score"] for lap in alone[name]] == expected


# ------------------------------------------------------------------- being stopped


def partial(first, folder, seeds):
    content = read(first / "race.json")
    about = {name: content[name] for name in ("settings", "laps", "machine", "pixels")}
    folder.mkdir(parents=True)
    stopped = {"version": 1, "about": about, "seeds": content["seeds"][:seeds]}
    (folder / output.PARTIAL).write_text(json.dumps(stopped))


def test_it_goes_on_behind_the_last_seed(first, tmp_path, monkeypatch, capsys):
    partial(first, tmp_path / "digits", 1)
    real, raced = race.race, []
    monkeypatch.setattr(race, "race", lambda jobs, *a: raced.append(1) or real(jobs, *a))
    assert call(*SMALL, "--out", tmp_path) == 0
    assert len(raced) == 1
    assert "1 of 2 seeds were raced before" in capsys.readouterr().out
    now, then = read(tmp_path / "digits" / "race.json"), read(first / "race.json")
    assert now["seeds"][0] == then["seeds"][0]


@pytest.mark.parametrize(
    "left", ["other settings", "other pixels", "half a file", "no object"]
)
def test_what_does_not_fit_is_raced_again(first, tmp_path, left):
    partial(first, tmp_path / "digits", 2)
    path = tmp_path / "digits" / output.PARTIAL
    content = read(path)
    if left == "other settings":
        content["about"]["laps"] = 5
        path.write_text(json.dumps(content))
    elif left == "other pixels":
        assert content["about"].pop("pixels") == "pixel / 16"
        path.write_text(json.dumps(content))
    else:
        path.write_text("[]" if left == "no object" else path.read_text()[:100])
    config = race.Config()
    _, experiments = race._checked(config)
    assert race._kept(path.parent, race._about(config, experiments)) == []


# ------------------------------------------------------------------- the arithmetic


def runs(*scores, seconds=1.0):
    """One seed's laps of a second each."""
    return [Lap(i, seconds * i, score, 1.0) for i, score in enumerate(scores, 1)]


def test_there_is_the_first_lap_as_good_as_the_baseline_at_its_end():
    found = summary.summarise(
        {
            "sgd": [runs(0.5, 0.9, 0.8), runs(0.1, 0.2, 0.7)],
            "quick": [runs(0.8, 0.1, 0.6, seconds=0.5), runs(0.1, 0.7, 0.9, seconds=0.5)],
            "late": [runs(0.1, 0.1, 0.7), runs(0.1, 0.1, None)],
        },
        "sgd",
    )
    assert found["sgd"].reached == pytest.approx([2 / 3, 1.0])
    assert found["quick"].reached == pytest.approx([0.5 / 3, 1 / 3])
    assert found["quick"].time == pytest.approx([0.5, 0.5])
    assert found["quick"].median_reached == pytest.approx(0.25)
    difference = found["quick"].difference
    assert difference is not None
    assert (difference.mean, difference.n) == (pytest.approx(0.0), 2)
    assert found["late"].reached == [None, None]
    assert found["late"].median_reached is None
    assert found["late"].difference is None
    assert found["late"].scores == [0.7, None]


def test_the_median_counts_never_as_later_than_anything():
    base, there, never = runs(0.5, 0.5), runs(0.5, 0.1), runs(0.1, 0.1)
    races = {"sgd": 3 * [base], "most": [there, there, never], "one": [there, never, never]}
    found = summary.summarise(races, "sgd")
    assert found["most"].median_reached == 0.5
    assert found["one"].median_reached is None


def test_where_the_baseline_breaks_down_nobody_is_compared():
    found = summary.summarise({"sgd": [runs(0.5, None)], "sam": [runs(0.5, 0.6)]}, "sgd")
    assert found["sam"].reached == [None]
    assert found["sam"].difference is None


def test_examples_are_the_mean_over_the_steps_of_uneven_laps():
    uneven = [Lap(1, 1.0, 0.5, 1.0), Lap(4, 2.0, 0.5, 0.2)]
    found = summary.summarise({"sgd": [uneven]}, "sgd")
    assert found["sgd"].examples == pytest.approx((1.0 + 3 * 0.2) / 4)


def test_nobody_always_runs_behind_the_same():
    names = ["a", "b", "c"]
    orders = [laps._turned(names, number) for number in range(6)]
    assert all(sorted(order) == names for order in orders)
    for name in names:
        places = [order.index(name) for order in orders]
        assert sorted(places) == [0, 0, 1, 1, 2, 2]
    before = {order[order.index("a") - 1] for order in orders if order.index("a")}
    assert before == {"b", "c"}


# ------------------------------------------------------------------- what it says


def test_the_table_has_a_row_for_each(first):
    rows = page.rows(read(first / "race.json"))
    assert [row[0] for row in rows] == [
        "SGD",
        "K-SAM, k follows training",
        "SGD, 1/2 of the epochs",
        "SGD, 1/2 of the batch and epochs",
    ]
    assert all(len(row) == len(page.HEADERS) for row in rows)
    assert "Operations: XLA's count" in page.note(read(first / "race.json"))
    assert rows[0][3] == "1.00"
    assert rows[0][5] == "1.00"
    assert rows[0][7].startswith("+0.00")


def test_what_broke_down_is_said():
    one = summary.summarise({"sgd": [runs(0.5, None)]}, "sgd")["sgd"]
    row = page._row("SGD", one, 1.0)
    assert row[1:3] == ("-", "1 of 1")
    assert row[6:] == ("broke down", "-")


def test_the_note_tells_how_and_on_what(first):
    content = read(first / "race.json")
    note = page.note(content)
    assert "2 seeds" in note
    assert content["command"] in note
    assert content["machine"]["cpu"] in note
    assert str(first) not in json.dumps(content)


@pytest.mark.parametrize("where", ["/data/tfds", "../elsewhere", "a/../../b"])
def test_a_command_names_no_folder_outside(where):
    config = race.Config(table="mnist_1000", data_dir=Path(where))
    expected = f"{race.PROG} --table mnist_1000 --data-dir DIR"
    assert cli.command(race.PROG, config) == expected
    inside = race.Config(data_dir=Path("data"))
    assert cli.command(race.PROG, inside) == f"{race.PROG} --data-dir data"


def test_the_picture_shows_who_is_there_before_the_baseline(tmp_path):
    slow = lines.Curve("SGD", "#000000", "s", np.array([0.5, 1.0]), np.array([40.0, 90.0]))
    fast = lines.Curve(
        "K-SAM", "#D55E00", "o", np.array([0.2, 0.6]), np.array([80.0, 91.0])
    )
    where = tmp_path / "race.png"
    plots.race([slow, fast], where, title="A race", note="n = 1", y="accuracy, %")
    assert where.stat().st_size > 10_000


def raced(title, **scores) -> Any:
    """A race of one lap per score: the baseline's take 2 s each, those of others 1 s."""
    seeds = [
        {
            name: [
                {
                    **{"step": 1 + lap, "seconds": (1 + lap) * (2 if name == "sgd" else 1)},
                    **{"score": score + seed / 100, "examples": 0.5},
                }
                for lap, score in enumerate(line)
            ]
            for name, line in scores.items()
        }
        for seed in range(2)
    ]
    machine = {"cores": 2, "cpu": "a CPU"}
    about = {"title": title, "table": title.lower(), "baseline": "sgd"}
    return {**about, "settings": dict.fromkeys(scores), "seeds": seeds, "machine": machine}


ALL = [
    raced(
        title, sgd=[0.5, 0.9], k_sam_following=[0.6, 0.95], k_momentum_following=[0.4, 0.8]
    )
    for title in ("A (10 examples), B", "C, D", "E", "F")
]


def test_together_they_are_a_table_of_the_default_beside_the_baseline():
    said = together.markdown(*ALL, folder="results/race/a")
    assert said.startswith("![Validation accuracy against time](results/race/races.png)\n")
    # Seeds at 0.90 and 0.91, and at 0.95 and 0.96; half of the time.
    assert "| A (10 examples), B | 90.50 | 95.50 | +5.00 ± 0.00 | 0.50 | 0.50 |" in said
    assert "(A, 10: 2 seeds; C: 2 seeds; E: 2 seeds; F: 2 seeds)" in said
    assert "`--table e`" in said


def test_the_picture_of_all_says_of_what_it_is_made(tmp_path):
    together.draw(*ALL, path=tmp_path / "a.png", source="these")
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["Source"] == "these"
        # On a first page: panels two by two, no taller than a screen.
        assert 0.75 * image.width < image.height < image.width


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--table", "digit"), "unknown table 'digit'; did you mean 'digits'?"),
        (("--methods", "ksam"), "unknown method 'ksam'; did you mean 'k_sam'?"),
        (("--laps", 0), "--laps must be at least 1; got 0"),
        (("--seeds", 0), "--seeds must be at least 1; got 0"),
        (("--epochs", 1), "half takes 0.5 of 1 epochs, which must be a whole number"),
        (("--rho", -1), "rho must be"),
        (("--methods", "sam:haf"), "unknown cut 'haf'; did you mean 'half'?"),
        (("--methods", "half:half"), "unknown method 'half'"),
        (("--methods", "sma:half"), "unknown method 'sma'; did you mean 'sam'?"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(options, words, capsys, tmp_path):
    assert call(*options, "--out", tmp_path) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_cut_costs_less_and_says_what_it_is():
    base = ROWS["mnist_1000_sgd"].experiment
    for name, cut in entries.CUTS.items():
        made = entries.entry(name, base, None)
        seen = made.epochs / base.epochs
        assert seen == cut.share < 1
        assert cut.label in entries.label(name, "sgd")
        assert entries.mark(name, "sgd")[0] == BLACK
        its = entries.entry(f"k_sam_following:{name}", base, 0.1)
        assert (its.method, its.rho) == ("k_sam_following", 0.1)
        assert (its.epochs, its.batch_size) == (made.epochs, made.batch_size)
        shown = entries.label(f"k_sam_following:{name}", "sgd")
        assert shown == f"K-SAM, k follows training, {cut.label}"
        colour, marker = entries.mark(f"k_sam_following:{name}", "sgd")
        assert colour == entries.mark("k_sam_following", "sgd")[0]
        assert marker == entries.mark(name, "sgd")[1]
