"""All that is wanted of an accelerator, at sizes of a toy: cut, killed, and continued."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
from problems import slow_but

from experiments import accelerator
from experiments.configs.accelerator import FULL, TOY
from experiments.costs.accelerator import keep, memory, pieces
from experiments.costs.accelerator.contents import DEVICE
from experiments.costs.benchmark import largest
from experiments.costs.benchmark.contenders import CONTENDERS, USUAL
from experiments.costs.benchmark.steps import Carry
from experiments.costs.benchmark.task import make_task, random_batch
from experiments.pages import accelerator as page
from experiments.pages.block import Block, Source
from experiments.processes import budget
from experiments.shell import cli
from experiments.shell.formats import Format, Versioned
from experiments.training import fitting

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("accelerator")

# One model, two methods, two epochs.
LEAST = replace(TOY, workloads=(TOY.workloads[1],), methods=("sgd", "k_sam"))
FIRST = "accelerator/benchmark/mlp-main.json"
RESULT = "accelerator/accelerator.json"
PROGRAM = """
import sys
from dataclasses import replace
from jax._src import xla_bridge
from experiments import accelerator
from experiments.configs.accelerator import TOY
from experiments.shell import cli

accelerator.TOY = replace(TOY, workloads=(TOY.workloads[1],), methods=("sgd", "k_sam"))
status = cli.run(accelerator.main, sys.argv[1:])
# A process that had the accelerator's memory would leave none to the others.
assert not xla_bridge.backends_are_initialized()
sys.exit(status)
"""


def started(folder, *options):
    words = (*options, "--toy", "--epochs", "2", "--limit-mib", "1", "--out", str(folder))
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )


def ended(program):
    said, _ = program.communicate(timeout=600)
    return program.returncode, said


def gone(number):
    """Whether a process isn't there any more."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "Z"


def children(number):
    found = Path(f"/proc/{number}/task/{number}/children").read_text()
    return [int(word) for word in found.split()]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a program that was killed after its first file, and its children."""
    folder = tmp_path_factory.mktemp("killed")
    first = folder / FIRST
    program = started(folder)
    wait(300, lambda: first.exists() or program.poll() is not None)
    assert first.exists()
    working = children(program.pid)
    program.kill()
    program.communicate()
    assert not (folder / RESULT).exists()
    return folder, working


def wait(seconds, happened):
    until = time.monotonic() + seconds
    while not happened() and time.monotonic() < until:
        time.sleep(0.1)


@pytest.fixture(scope="module")
def whole(killed):
    """The same command again, to its end: folder, the first file's age, what it said."""
    folder, working = killed
    wait(2 * budget.GRACE, lambda: all(map(gone, working)))
    before = (folder / FIRST).stat().st_mtime_ns
    status, said = ended(started(folder))
    assert status == 0, said
    return folder, before, said


@pytest.mark.slow
def test_killed_it_leaves_no_process(killed):
    _, working = killed
    wait(2 * budget.GRACE, lambda: all(map(gone, working)))
    assert all(map(gone, working))


@pytest.mark.slow
def test_it_goes_on_where_it_was_killed(whole):
    folder, before, said = whole
    assert (folder / FIRST).stat().st_mtime_ns == before
    assert "MLP 16-16-10, main: is there" in said
    check(json.loads((folder / RESULT).read_text(), parse_constant=pytest.fail))


@pytest.mark.slow
def test_when_everything_is_there_nothing_is_done_again(whole):
    folder, *_ = whole
    content = json.loads((folder / RESULT).read_text())
    status, said = ended(started(folder))
    assert status == 0
    assert "measured in" not in said
    assert json.loads((folder / RESULT).read_text()) == content


def check(content):
    assert content["complete"]
    assert content["machine"]["backend"] == "cpu"
    (model,) = content["benchmark"]
    cases = {(case["method"], case["keep"]) for case in model["groups"][0]["cases"]}
    assert cases == {("sgd", None), *(("k_sam", value) for value in pieces.KEEPS)}
    assert content["keep"]["keeps"].keys() == set(pieces.KEEPS)
    assert content["keep"]["recommended"] in pieces.KEEPS
    assert list(content["largest"]["largest_batch"]) == list(largest.TRIED)
    assert min(content["largest"]["largest_batch"].values()) > 0
    runs = content["training"]["runs"].values()
    assert [run["label"] for run in runs] == ["SGD", "K-SAM, k = 1/4"]
    assert all(run["seconds_per_epoch"] > 0 for run in runs)
    assert all(0.3 < run["accuracy"] <= 1 for run in runs)
    text = page.block(content, "")
    assert "| digits, 2 epochs | s per epoch | accuracy |" in text
    assert "MLP 16-16-10, 1 MiB | largest batch |" in text
    assert "The default of keep " in text


class Clock:
    """Time that pieces of work take as a whole, and how they end in turn."""

    def __init__(self, folder, ends):
        self.folder, self.ends, self.now, self.told = folder, ends, 0.0, []

    def within(self, seconds, work, *args):
        if work is accelerator.look:
            machine = dict.fromkeys(("cpu", "system", "device"), "one")
            machine |= {"cores": 2, "backend": "cpu"}
            found = {"version": DEVICE.version, "machine": machine, "versions": {}}
            (self.folder / "accelerator" / "machine.json").write_text(json.dumps(found))
            return budget.DONE if args[1] else budget.FAILED
        self.told.append((work.__name__, seconds))
        self.now += seconds
        return self.ends.pop(0)


@pytest.fixture
def clock(tmp_path, monkeypatch):
    found = Clock(tmp_path, [budget.CUT, budget.DONE, budget.CUT, budget.DONE])
    monkeypatch.setattr(budget.time, "monotonic", lambda: found.now)
    monkeypatch.setattr(budget, "within", found.within)
    return found


def test_what_has_no_time_is_said(tmp_path, clock, capsys):
    options = ["--minutes", "10", "--out", str(tmp_path), "--toy"]
    assert cli.run(accelerator.main, options) == 1
    # 15 seconds before half of the time, 0.65 of it, and the end; then there is none left.
    assert clock.told == [("measure_all", 285), ("find_all", 90), ("train_all", 210)]
    said = capsys.readouterr().out
    assert "not done yet: benchmark, training; the same command goes on" in said
    content = json.loads((tmp_path / RESULT).read_text())
    assert not content["complete"]
    assert content["benchmark"] == []
    assert content["keep"] is content["largest"] is content["training"] is None


def test_without_a_device_there_is_nothing_to_measure_on(tmp_path, clock, capsys):
    options = ["--minutes", "10", "--out", str(tmp_path), "--stages", "largest"]
    assert cli.run(accelerator.main, options) == 2
    assert "an accelerator must be what JAX computes on" in capsys.readouterr().err
    assert clock.told == []


def sleeps(seconds):
    time.sleep(seconds)
    return 0


def fails():
    return 3


def is_deaf(seconds):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return sleeps(seconds)


def test_work_is_done_or_cut_or_fails(monkeypatch):
    assert budget.within(60, sleeps, 0) == budget.DONE
    assert budget.within(60, fails) == budget.FAILED
    start = time.monotonic()
    assert budget.within(0.1, sleeps, 600) == budget.CUT
    monkeypatch.setattr(budget, "GRACE", 0.5)
    assert budget.within(5, is_deaf, 600) == budget.CUT
    assert time.monotonic() - start < 60


def test_how_much_time_is_left(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: clock[0])
    mine = budget.Budget(60)
    clock[0] += 24
    assert mine.until(0.5) == pytest.approx(6)
    assert mine.until(0.2) == 0


def content(title, **keeps) -> Any:
    """A model's, with (time, memory) by keep."""
    cases = [
        {
            "method": "k_sam",
            "keep": name,
            "time_vs_sgd": None if time is None else {"median": time},
            "temporary_vs_sgd": memory,
        }
        for name, (time, memory) in keeps.items()
    ]
    return {"workload": {"title": title}, "groups": [{"cases": cases}]}


def test_the_fastest_keep_is_recommended_or_the_smallest_of_equals():
    one = content("a", auto=(0.8, 0.4), nothing=(0.5, 0.2), all=(0.4, 0.9))
    two = content("b", auto=(0.2, 0.4), nothing=(0.32, 0.3), all=(0.41, 0.5), n=(0.1, 1))
    found = keep.decide([one, two, content("c", auto=(0.1, 0.1))])
    assert found is not None
    # Of `n` only one model knows anything, and the third knows nothing but `auto`.
    assert found["models"] == ["a", "b"]
    assert found["keeps"] == {
        "auto": pytest.approx({"time": 0.4, "memory": 0.4}),
        "nothing": pytest.approx({"time": 0.4, "memory": 0.06**0.5}),
        "all": pytest.approx({"time": 0.164**0.5, "memory": 0.45**0.5}),
    }
    # 0.4, 0.4 and 0.405 are equal.
    assert found["recommended"] == "nothing"
    said = page.recommendation(found)
    assert said.startswith('The default of keep should be "nothing" here, not "auto": of ')
    stays = page.recommendation({**found, "recommended": "auto"})
    assert stays.startswith('The default of keep stays "auto": ')


def test_a_keep_that_no_model_has_time_for_is_not_recommended():
    slow = content("a", auto=(0.5, 0.1), nothing=(0.4, 0.9), all=(None, 0.1))
    found = keep.decide([slow])
    assert found is not None
    assert (found["recommended"], list(found["keeps"])) == ("nothing", ["auto", "nothing"])
    assert keep.decide([]) is None
    assert page.recommendation(None) == ""


@pytest.mark.parametrize(("most", "start"), [(37, 8), (5, 64), (64, 64), (1, 4), (0, 4)])
def test_the_largest_batch_from_any_start(most, start):
    tried = []

    def works(batch):
        tried.append(batch)
        return batch <= most

    found = largest.largest(works, start)
    assert found == (0 if most == 0 else max(2**n for n in range(7) if 2**n <= most))
    assert len(tried) == len(set(tried))


def test_where_the_search_begins():
    assert largest.guess(8, 100, 99) == 8
    assert largest.guess(8, 100, 100) == 8
    assert largest.guess(8, 100, 399) == 16
    assert largest.guess(8, 100, 400) == 32


def test_the_largest_batch_is_as_memory_has_it(tmp_path):
    """Of a perceptron a step of which needs a known number of bytes per example."""
    path = tmp_path / "largest.json"
    said = []
    one = replace(LEAST, methods=None)
    path.write_text("{half of")
    labels = {"SGD": largest.TRIED["SGD"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(largest, "TRIED", labels)
        patch.setattr(largest, "two_steps", lambda burst: burst(1))
        assert memory.find_all(one, 1, path, said.append) == 0
        (batch,) = json.loads(path.read_text())["largest_batch"].values()
        # 16 float32 of input, 16 and 10 of two layers, and as many again backward at most.
        assert 2**20 / 4 / (2 * 42) / 2 < batch < 2**20 / 4 / 16
        # Once found it isn't looked for again, and with another limit it is.
        patch.setattr(memory, "_of", lambda *args: 7)
        memory.find_all(one, 1, path, said.append)
        memory.find_all(one, 2, path, said.append)
    assert said == [f"SGD: batch {batch:,}", f"SGD: batch {batch:,}", "SGD: batch 7"]


def test_as_many_epochs_as_fit():
    taken = {"sgd": 4.0, "k_sam": 4.0}
    start = 2 * fitting.START_SECONDS
    assert fitting.fitting(taken, start + 99, 50) == 9
    assert fitting.fitting(taken, start + 100, 50) == 10
    assert fitting.fitting(taken, start + 10_000, 50) == 50
    assert fitting.fitting(taken, 1, 50) == 1


def test_the_full_sizes_are_those_that_are_asked_for():
    sizes = {w.name: (w.shape, w.batch_size) for w in FULL.workloads}
    assert sizes == {
        "resnet18": ((32, 32, 3), 512),
        "vit": ((224, 224, 3), 256),
        "bert": ((128,), 128),
        "mlp": ((28, 28, 1), 4096),
    }
    assert FULL.dtype == "bfloat16"
    assert FULL.largest in sizes
    experiments = [row.experiment for row in FULL.rows.values()]
    assert [e.method for e in experiments] == ["sgd", "k_sam"]
    assert {(e.dataset, e.model) for e in experiments} == {("cifar10", "resnet18")}
    measured = {name for piece in pieces.pieces(FULL) for name in piece.methods}
    assert measured == set(USUAL)


@pytest.mark.parametrize("sizes", slow_but((TOY,), (TOY, FULL)), ids=lambda s: s.largest)
def test_every_model_takes_a_step_of_k_sam(sizes):
    """Traced, not compiled: the carry has the same structure after a step."""
    for workload in sizes.workloads:
        task = make_task(workload.build(sizes.dtype))
        assert task.has_aux == (workload.name == "resnet18")
        training = CONTENDERS["k_sam"].training(task, 0.25, "auto", 64)
        params, rest = jax.eval_shape(task.init, jax.random.key(0))
        carry = Carry(params, rest, jax.eval_shape(training.init, params))
        batch = random_batch(workload, 8)
        assert jax.eval_shape(training.step, carry, batch) == carry
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}


def test_a_block_whose_results_are_not_there_yet(tmp_path):
    source = Source(Format("results", Versioned, 1, "none"), tmp_path / "results.json")
    block = Block(
        tmp_path / "page.md", "it", (source,), lambda c, folder: "figures", "none"
    )
    assert block.text() == "none"
    source.format.write(source.path, {"complete": True})
    assert block.text() == "figures"
    source.format.write(source.path, {"complete": False})
    with pytest.raises(cli.UsageError, match="wasn't finished"):
        block.text()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--minutes", "0"], "--minutes must be above 0; got 0"),
        (["--stages"], "--stages needs at least one of benchmark, largest, training"),
        (["--stages", "train"], "unknown stage 'train'; did you mean 'training'?"),
        (["--limit-mib", "0"], "--limit-mib must be at least 1; got 0"),
        (["--epochs", "0"], "--epochs must be at least 1; got 0"),
        (["--data-dir", "/nowhere"], "dataset 'cifar10' is not prepared in /nowhere"),
    ],
)
def test_mistakes_cost_one_line(options, line, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.run(accelerator.main, options) == 2
    said = capsys.readouterr()
    assert line in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
