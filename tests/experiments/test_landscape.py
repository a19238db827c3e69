"""The loss around what runs have found: the numbers, and folders left as they are."""

import dataclasses
import functools
import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from experiments import landscape
from experiments.configs import rows
from experiments.data import catalogue, memory
from experiments.data.examples import Examples
from experiments.flatness.landscapes import measured, pictures, solutions
from experiments.flatness.landscapes.measured import Look
from experiments.flatness.landscapes.solutions import Batches, Solution
from experiments.models.pure import Variables
from experiments.results import plots
from experiments.shell import cli
from experiments.training.harness import folder, job
from experiments.training.harness.checkpoints import Checkpoints
from experiments.training.harness.contents import CONFIG
from experiments.training.harness.loop import Loop, Pace

# All tests of folders read the same two.
pytestmark = pytest.mark.xdist_group("landscape")

SGD = dataclasses.replace(rows.ROWS["digits_sgd"].experiment, batch_size=40)
AGAIN = dataclasses.replace(SGD, seed=1)
SAM = dataclasses.replace(SGD, method="sam", rho=0.2, seed=1)
SMALL = ("--points", "3", "--examples", "20", "--batch-size", "8")


def saved(where, name, experiment, step=3):
    """A folder as a run leaves it, of weights that nobody trained; and these."""
    mine = job.prepare(name, experiment, None, None)
    about = folder.plain(name, experiment)
    where.mkdir(parents=True)
    CONFIG.write(where / "config.json", about)
    with Checkpoints(where / "checkpoints") as checkpoints, jax.set_mesh(mine.mesh):
        state = mine.start()
        checkpoints.save(step, state, {**about, "devices": 8}, None)
    return jax.device_get(state.params)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two folders, and the weights in them."""
    where = tmp_path_factory.mktemp("runs")
    return {
        where / name: saved(where / name, "digits_sgd", experiment)
        for name, experiment in (("first", SGD), ("second", AGAIN))
    }


def call(folders, out, *options):
    argv = [word for where in folders for word in ("--run", str(where))]
    with runs.captured() as said:
        status = cli.run(landscape.main, [*argv, "--out", str(out), *SMALL, *options])
    return runs.Ended(status, *(text.getvalue() for text in said))


def contents(where):
    """Of all files, with their times."""
    files = [path for path in sorted(where.rglob("*")) if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def numpy_losses(params, examples, labels):
    """Of digits by a network of dense layers, in float64."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = {jax.tree_util.keystr(path): np.float64(leaf) for path, leaf in leaves}
    kernels, biases = (
        [leaf for name, leaf in sorted(named.items()) if part in name]
        for part in ("kernel", "bias")
    )
    x = examples
    for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        x = (np.maximum(x, 0) if i else x) @ kernel + bias
    x -= x.max(axis=1, keepdims=True)
    return np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(x)), labels]


# -------------------------------------------------------------------------- from folders


def test_pictures_and_numbers_of_two_runs(two, tmp_path):
    before = {where: contents(where) for where in two}
    found = call(two, tmp_path, "--parts", "slice")
    assert found.status == 0, found.err
    for where in two:
        assert contents(where) == before[where]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"landscape.json", "slice.png"}
    content = json.loads((tmp_path / "landscape.json").read_text())
    assert [run["label"] for run in content["runs"]] == ["SGD, seed 0", "SGD, seed 1"]
    assert str(tmp_path) not in json.dumps(content)
    train = job.prepare("", SGD, None, None).inputs.train
    images, labels = train.fetch(np.arange(20))
    x = (images / 16.0).reshape(20, -1)
    for run, params in zip(content["runs"], two.values(), strict=True):
        loss = numpy_losses(params, x, labels).mean()
        assert run["loss"] == pytest.approx(loss, rel=1e-5)
        # In the middle every line is at the solution.
        for losses in run["slice"]["losses"]:
            assert losses[1] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--points", "2"), "--points must be at least 3; got 2"),
        (("--radius", "0"), "--radius must be above 0 and finite; got 0"),
        (("--radius", "nan"), "--radius must be above 0 and finite; got nan"),
        (("--examples", "0"), "--examples must be at least 1; got 0"),
        (("--batch-size", "0"), "--batch-size must be at least 1; got 0"),
        (("--parts", "slices"), "unknown part 'slices'; did you mean 'slice'?"),
        (("--parts", "plane"), "--parts plane needs three runs; got 2"),
        (("--parts", "sharpness"), "--parts sharpness needs runs that measured it"),
        (("--run", "nowhere"), "--run nowhere: there is no such folder"),
        (("--out", __file__), f"can't write to {__file__}"),
    ],
)
def test_mistakes_cost_one_line(two, tmp_path, options, line):
    found = call(two, tmp_path, *options)
    runs.assert_one_line(found, 2)
    assert line in found.err
    assert not list(tmp_path.iterdir())


def test_no_run_costs_one_line(tmp_path):
    found = call([], tmp_path)
    runs.assert_one_line(found, 2)
    assert "--run DIR is missing" in found.err


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"train_examples": 300}, "the same data: {} has --train-examples 384, and {} 300"),
        ({"model": "cnn"}, "the same model: {} has --model mlp, and {} cnn"),
        ({"surprise": 3}, "has settings that this version doesn't know (Experiment"),
    ],
)
def test_runs_that_differ_are_refused(two, tmp_path, changed, words):
    first = next(iter(two))
    other = shutil.copytree(first, tmp_path / "other")
    about = json.loads((other / "config.json").read_text())
    about["experiment"] |= changed
    (other / "config.json").write_text(json.dumps(about))
    found = call([first, other], tmp_path / "out")
    runs.assert_one_line(found, 2)
    assert words.format(first, other) in found.err


@pytest.mark.parametrize(
    ("missing", "words"),
    [("config.json", "has no config.json"), ("checkpoints", "has no checkpoint")],
)
def test_a_folder_without_a_part_is_left_as_it_is(two, tmp_path, missing, words):
    other = shutil.copytree(next(iter(two)), tmp_path / "other")
    path = other / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = call([other], tmp_path / "out")
    runs.assert_one_line(found, 2)
    assert words in found.err
    assert not path.exists()


def test_labels_tell_runs_apart(tmp_path):
    again = dataclasses.replace(SAM, seed=2)
    farther = dataclasses.replace(SAM, rho=0.5)
    folders = [tmp_path / name for name in "abcd"]
    assert solutions.labels(folders, [SGD, SAM, again, farther]) == [
        "SGD",
        "SAM, seed 1, b",
        "SAM, seed 2",
        "SAM, seed 1, d",
    ]
    assert solutions.labels([tmp_path / "a", tmp_path / "b" / "a"], [SGD, SGD]) == [
        "SGD, seed 0, a, run 1",
        "SGD, seed 0, a, run 2",
    ]


def test_a_run_given_twice_is_refused(two, tmp_path):
    first, second = two
    found = call([first, second, first / ".." / "first"], tmp_path)
    runs.assert_one_line(found, 2)
    assert "--run must name different folders" in found.err


# --------------------------------------------------------------------- from a made-up loss


CENTRES = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 4.0]], np.float32)


def made_up(kernel, mean, var, losses):
    """A solution with a kernel (2, 1) and statistics (1,), without a run."""
    rest = {"mean": np.array([mean], np.float32), "var": np.array([var], np.float32)}
    params = {"kernel": np.array(kernel, np.float32)[:, None]}
    mine: Any = SimpleNamespace(programs=SimpleNamespace(losses=losses))
    return Solution(f"at {kernel}", Path("run"), mine, 7, Variables(params, rest))


def look(count, size, points=3, radius=1.0):
    """At examples 0, 1, 2, ..."""
    numbers = np.arange(count)
    images = np.zeros((count, 1, 1, 1), np.uint8)
    whole = catalogue.load("digits")
    dataset = memory.resident(whole, Examples(images, numbers.astype(np.int32)))
    return Look(points, radius, Batches(dataset, size))


def sum_of_all(variables, rows):
    """Linear in weights and statistics, and in the example."""
    params, rest = variables
    x, y = params["kernel"][:, 0]
    return x + 2 * y + 3 * rest["mean"] + 4 * rest["var"] + rows.labels


def quiet(done, total):
    assert done <= total


def test_batches_have_every_example_once():
    batches = look(7, 3).batches
    assert len(batches) == 3
    for _ in range(2):
        assert [rows.labels.tolist() for rows in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [rows.labels.tolist() for rows in batches.whole()] == [[0, 1, 2], [3, 4, 5]]
    assert [rows.labels.tolist() for rows in look(2, 5).batches.whole()] == [[0, 1]]


def test_slices_and_surfaces_move_the_weights_alone():
    solution = made_up([3.0, 4.0], 0.5, 2.0, sum_of_all)
    centre = 3 + 8 + 1.5 + 8 + 3
    close = look(7, 3, points=5, radius=0.5)
    assert measured.loss(solution, close.batches) == pytest.approx(centre)
    found = measured.slices(solution, close, quiet)
    np.testing.assert_allclose(found["at"], [-0.5, -0.25, 0, 0.25, 0.5])
    assert found["losses"].shape == (measured.DIRECTIONS, 5)
    # A direction is as long as the filter, 5, and the loss a linear function.
    rise = found["losses"] - centre
    np.testing.assert_allclose(rise, rise[:, -1:] / 0.5 * found["at"], atol=1e-5)
    assert np.abs(rise[:, -1]).max() <= 0.5 * 5 * np.sqrt(5) + 1e-5
    both = measured.surface(solution, close, quiet)["losses"] - centre
    expected = rise[0][None, :] + rise[1][:, None]
    np.testing.assert_allclose(both, expected, atol=1e-5)


def test_a_plane_has_the_solutions_own_losses_and_statistics(monkeypatch):
    three = [
        made_up(kernel, mean, var, sum_of_all)
        for kernel, mean, var in zip(CENTRES, (0.1, 0.2, 0.7), (1, 2, 3), strict=True)
    ]
    # Of an uneven grid the solutions are points.
    places = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
    monkeypatch.setattr(measured, "_around", lambda *given: (places[:, 0], places[:, 1]))
    found = measured.plane(three, look(7, 3), quiet)
    np.testing.assert_allclose(found["coordinates"], places, atol=1e-6)
    own = [measured.loss(one, look(7, 3).batches) for one in three]
    at = [found["losses"][i, i] for i in range(3)]
    np.testing.assert_allclose(at, own, rtol=1e-5)
    assert found["runs"] == [one.label for one in three]


def test_where_a_variance_would_be_negative_there_is_no_loss():
    variances = (1, 2, 3)
    three = [
        # A loss that hides it.
        made_up(kernel, 0.0, var, lambda v, rows: rows.labels + 0 * v.rest["var"])
        for kernel, var in zip(CENTRES, variances, strict=True)
    ]
    found = measured.plane(three, look(7, 3, points=9), quiet)
    # The plane that goes through 1, 2 and 3 above the solutions.
    slopes = np.linalg.solve(
        np.column_stack([found["coordinates"], np.ones(3)]), np.array(variances, float)
    )
    x, y = np.meshgrid(found["xs"], found["ys"])
    expected = slopes[0] * x + slopes[1] * y + slopes[2] < 0
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(np.isnan(found["losses"]), expected)


def test_a_plane_shows_all_solutions_in_a_slides_proportions():
    for coordinates in (CENTRES, 5 * CENTRES[:, ::-1]):
        xs, ys = measured._around(coordinates, 11)
        width, height = np.ptp(xs), np.ptp(ys)
        assert width / height == pytest.approx(measured.PROPORTION)
        for axis, values in enumerate((xs, ys)):
            low, high = coordinates[:, axis].min(), coordinates[:, axis].max()
            assert values[0] < low
            assert values[-1] > high
            assert values[0] + values[-1] == pytest.approx(low + high)


def test_a_solution_whose_loss_is_not_finite_is_refused():
    solution = made_up([1.0, 1.0], 0.0, 1.0, lambda v, rows: jnp.log(rows.labels - 3.0))
    with pytest.raises(cli.UsageError, match=r"at step 7 is (nan|-inf): .* leave"):
        measured.loss(solution, look(7, 3).batches)


def quadratic(variables, rows):
    """Curvatures 2 and 8 of the weights; the statistics' isn't asked for."""
    x, y = variables.params["kernel"][:, 0]
    bend = 100 * jnp.sum(variables.rest["var"] ** 2)
    return (x**2 + 4 * y**2 + bend) * rows.labels / 3


@pytest.mark.slow
def test_the_spectrum_is_that_of_the_weights():
    found = measured.spectrum(made_up([1.0, 1.0], 0.0, 1.0, quadratic), look(7, 3), quiet)
    nodes, weights = found["nodes"], found["weights"]
    for row, share in zip(nodes, weights, strict=True):
        np.testing.assert_allclose(row[share > 1e-6], [2, 8], rtol=1e-4)


def test_alignment_is_of_whole_batches():
    solution = made_up([1.0, 1.0], 0.0, 1.0, quadratic)
    found = measured.alignment(solution, look(7, 3), quiet)
    # All gradients point the same way, but for the first example's, which is zero.
    assert found["cosines"].shape == (2, 6)
    np.testing.assert_allclose(found["cosines"], 1, rtol=1e-5)
    assert found["recommended"] == found["ks"][0]


# ------------------------------------------------------------------- sharpness in training


@pytest.mark.slow
def test_sharpness_on_the_way_changes_nothing_else(tmp_path):
    """Nor does a stop between two evaluations."""
    every = ("--sharpness-every", "3")
    stopped = runs.run(tmp_path, *every, done=runs.at(11, signal.SIGTERM))
    assert stopped.status == 143
    assert runs.run(tmp_path, *every).status == 0
    runs.assert_same_state(tmp_path, runs.whole())
    _, evaluations = runs.evaluations(tmp_path)
    _, others = runs.evaluations(runs.whole())
    assert [record.pop("sharpness") > 0 for record in evaluations] == [True, True]
    assert evaluations == others
    history = solutions.load([tmp_path], None, None)[0].sharpness()
    result = json.loads((tmp_path / "result.json").read_text())
    assert [epoch for epoch, _ in history] == [3, 6]
    assert history[-1][1] == result["sharpness"]


def test_sharpness_is_measured_at_its_pace_and_at_the_end():
    mine: Any = SimpleNamespace(steps=21, steps_per_epoch=3)
    loop = Loop.__new__(Loop)
    loop._job = mine
    for every, wanted in ((None, []), (2, [6, 12, 18, 21]), (7, [21])):
        loop._pace = Pace(sharpness=every)
        found = [step for step in range(3, 22, 3) if loop._measures_sharpness(step)]
        assert found == wanted


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--sharpness-every", "0"), "--sharpness-every must be at least 1; got 0"),
        (
            ("--evaluate-every", "2", "--sharpness-every", "3"),
            "--sharpness-every must be a multiple of --evaluate-every, 2; got 3",
        ),
    ],
)
def test_a_pace_that_cannot_be(options, line, tmp_path):
    argv = ["--config", "digits_sgd", "--num-processes", "1", "--out", str(tmp_path)]
    found = runs.ended([*argv, *options])
    runs.assert_one_line(found, 2)
    assert line in found.err


# ---------------------------------------------------------------------- from numbers


@pytest.fixture
def drawn(monkeypatch):
    """What the pictures are given, instead of pictures."""
    given = {}
    for name in ("sharpness_over_training", "spectrum", "alignment"):
        record = functools.partial(given.__setitem__, name)
        monkeypatch.setattr(
            plots, name, lambda what, path, note, record=record: record((what, note))
        )
    return given


def content(**parts) -> Any:
    """Of two runs, the first of which has these parts."""
    runs = [{"label": name, "experiment": {"method": name}} for name in ("sam", "sgd")]
    about = {"title": "digits, MLP", "examples": 1234, "has_statistics": False}
    return {**about, "runs": [{**runs[0], **parts}, runs[1]]}


def test_a_history_of_sharpness_is_drawn(drawn, tmp_path):
    history = content(sharpness={"epochs": (1, 2), "values": (0.5, 0.25)})
    assert pictures.draw(history, tmp_path) == [tmp_path / "sharpness.png"]
    (curve,), note = drawn["sharpness_over_training"]
    assert (curve.at.tolist(), curve.values.tolist()) == ([1, 2], [0.5, 0.25])
    assert "at distance 0.05 along its gradient" in note


def test_a_spectrum_is_drawn_with_its_largest_eigenvalue(drawn, tmp_path):
    nodes, weights = np.array([[0.0, 4.0], [0.0, 5.0]]), np.array([[0.9, 0.1]] * 2)
    spectra = content(spectrum={"nodes": nodes, "weights": weights})
    assert pictures.draw(spectra, tmp_path) == [tmp_path / "spectrum.png"]
    (curve,), note = drawn["spectrum"]
    assert curve.label == "sam\nlargest: 5"
    assert np.trapezoid(curve.values, curve.at) == pytest.approx(1, rel=1e-4)
    # Halfway between what one probe has at 5 and the other hasn't.
    there = np.abs(curve.at - 5).argmin()
    assert curve.low[there] == pytest.approx(0, abs=1e-9)
    assert curve.high[there] == pytest.approx(2 * curve.values[there])
    assert "1,234 training examples" in note


def test_alignments_are_drawn(drawn, tmp_path):
    cosines, random = np.ones((4, 2)), np.zeros((4, 2))
    found = {"batch_size": 8, "ks": (0.5, 1.0), "cosines": cosines, "random": random}
    found |= {"recommended": 0.5, "least": 0.9}
    assert pictures.draw(content(alignment=found), tmp_path) == [tmp_path / "alignment.png"]
    (one,), note = drawn["alignment"]
    assert (one.label, one.ks, one.recommended, one.least) == ("sam", (0.5, 1.0), 0.5, 0.9)
    np.testing.assert_array_equal(one.hardest, cosines)
    np.testing.assert_array_equal(one.random, random)
    assert "batches of 8" in note
    assert "median over 4 batches" in note


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert pictures.draw(content(), tmp_path) == []
    assert not list(tmp_path.iterdir())
