"""The benchmark: structure and counts of operations; times only exist."""

import getpass
import json
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import pytest
from problems import QUICK, slow_but

from experiments import benchmark
from experiments.configs.benchmark import ACCELERATOR, CPU
from experiments.costs.benchmark import measurement, plan, programs, record, report
from experiments.costs.benchmark.contenders import CONTENDERS, DEFAULT_KEEP
from experiments.costs.benchmark.plan import Case
from experiments.costs.benchmark.programs import Model, Program, or_too_large
from experiments.costs.benchmark.steps import Carry, Training
from experiments.costs.benchmark.task import make_task, random_batch
from experiments.costs.timing import interleaved, median_and_quartiles, ratio
from experiments.models import MLP, ResNet, ViT
from experiments.pages import benchmarks
from experiments.shell import cli

TINY = replace(CPU["mlp"], model=partial(MLP, widths=(64,)), shape=(8, 8, 1), batch_size=32)
BATCH_NORM = replace(
    CPU["resnet18"],
    model=partial(ResNet, widths=(4,), blocks=1),
    shape=(6, 6, 3),
    batch_size=8,
)
SMALL = ("--methods", "k_sam", "--keeps", "nothing", "all", "--rounds", 2)

# Tests that read the results of one run belong into one process.
one_process = pytest.mark.xdist_group("benchmark")


def run(*options):
    return cli.run(benchmark.main, [str(option) for option in options])


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    """Two models that take seconds, and few sizes."""
    with pytest.MonkeyPatch.context() as patch:
        models = CPU | {"mlp": TINY, "resnet18": BATCH_NORM}
        patch.setattr(benchmark, "workloads", lambda backend: models)
        patch.setattr(programs, "COMPILER_OPTIONS", QUICK)
        patch.setattr(plan, "SHARES", (0.25, 0.5))
        patch.setattr(plan, "SUB_BATCHES", (2,))
        patch.setattr(plan, "BATCH_FACTORS", (2.0,))
        patch.setattr(plan, "MEMORY_FACTORS", (1, 2))
        yield


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    assert run("--models", "mlp", *SMALL, "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def content(outcome):
    text = (outcome / "benchmark" / "mlp.json").read_text()
    return json.loads(text, parse_constant=pytest.fail)


@one_process
def test_files_are_written(outcome):
    folder = outcome / "benchmark"
    pictures = {"ratio_against_k.png", "memory.png"}
    assert {path.name for path in folder.iterdir()} == {"mlp.json", *pictures}
    for name in pictures:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


@one_process
def test_groups_and_cases(content):
    cases = {
        (group["name"], group["batch"]): [
            (case["method"], case["share"], case["keep"], case["batch"])
            for case in group["cases"]
        ]
        for group in content["groups"]
    }
    sgd, doubled = ("sgd", None, None, 32), ("sgd", None, None, 64)
    k_sam = ("k_sam", 0.25, DEFAULT_KEEP, 32)
    others = {("k_sam", 0.25, "nothing", 32), ("k_sam", 0.25, "all", 32)}
    half = ("k_sam", 0.5, DEFAULT_KEEP, 32)
    sub_batch = ("sgd", None, None, 16)
    assert set(cases["methods", 32]) == {sgd, k_sam, *others, half, sub_batch}
    k_sam_doubled = (*k_sam[:3], 64)
    assert cases["batch", 64] == [doubled, k_sam_doubled]
    assert cases["memory", None] == [sgd, k_sam, doubled, k_sam_doubled]


def cases_of(content, *, timed=True):
    """All cases of groups that are timed, or of the one that only counts memory."""
    groups = [g for g in content["groups"] if (g["name"] != "memory") == timed]
    return [case for group in groups for case in group["cases"]]


@one_process
def test_every_case_has_counts_and_times_of_compilation(content):
    for case in (*cases_of(content), *cases_of(content, timed=False)):
        assert case["operations"] > 0
        assert case["temporary_bytes"] > 0
        assert case["lower_seconds"] > 0
        assert case["compile_seconds"] > 0


@one_process
def test_times_have_quartiles_but_where_memory_is_counted_alone(content):
    for case in cases_of(content, timed=False):
        assert case["seconds"] is case["time_vs_sgd"] is None
    for case in cases_of(content):
        assert case["seconds"]["n"] == case["time_vs_sgd"]["n"] == 2
        low, high = "lower_quartile", "upper_quartile"
        assert 0 < case["seconds"][low] <= case["seconds"]["median"]
        assert case["seconds"]["median"] <= case["seconds"][high]
        if case["method"] == "sgd":
            assert case["time_vs_sgd"]["median"] == case["operations_vs_sgd"] == 1.0


@one_process
def test_sharing_a_forward_pass_takes_fewer_operations(content):
    methods = content["groups"][0]
    assert methods["best_sub_batch"]["batch"] in (16, 32)
    ratios = {
        case["keep"]: (case["predicted_vs_sgd"], case["operations_vs_sgd"])
        for case in methods["cases"]
        if case["method"] == "k_sam" and case["share"] == 0.25
    }
    assert ratios["all"][0] == pytest.approx(2.25 / 3)
    assert ratios["nothing"][0] == pytest.approx(2.5 / 3)
    assert ratios["all"][1] < ratios["nothing"][1]


@one_process
def test_the_page_shows_the_figures_of_the_results(content):
    (methods,) = (group for group in content["groups"] if group["name"] == "methods")
    (case,) = report.default_cases(methods)[1:]
    time = case["time_vs_sgd"]
    assert time is not None
    figures = f"{time['median']:.2f} ({case['operations_vs_sgd']:.2f})"
    headers, rows = benchmarks.overview([content, content])
    assert content["workload"]["title"] == "MLP 784-512-512-10"
    assert headers == ("time / SGD (operations / SGD)", "MLP", "MLP")
    assert rows == [("SGD", *["1.00 (1.00)"] * 2), ("K-SAM, k = 1/4", *[figures] * 2)]
    text = benchmarks.details(content)
    assert "batch 32, float32\n\nMethods:\n\n| method | share | ms | time / SGD |" in text
    assert "| predicted | oper. / SGD |" in text
    assert "What to keep of the forward pass:" in text
    assert content["command"] in benchmarks.how(content)


@one_process
def test_how_it_was_made_is_in_the_results(content):
    assert content["command"] == (
        "python -m experiments.benchmark --models mlp --methods k_sam --keeps nothing all "
        "--rounds 2 --out DIR"
    )
    assert content["settings"]["dtype"] == "float32"
    assert content["workload"]["batch_size"] == 32
    assert content["machine"]["backend"] == "cpu"
    assert {"jax", "ksam_jax"} <= content["versions"].keys()
    assert content["parameters"] == 64 * 64 + 64 + 640 + 10
    text = json.dumps(content)
    for private in (socket.gethostname(), getpass.getuser(), str(Path.home())):
        assert f'"{private}' not in text
    assert '"/' not in text


AGAIN = ("--models", "mlp", *SMALL)


@pytest.fixture
def refusing(monkeypatch):
    """Measuring is a mistake."""

    def measure(*args):
        raise cli.UsageError("measured again")

    monkeypatch.setattr(benchmark, "Model", lambda workload, task: None)
    monkeypatch.setattr(benchmark, "measure", measure)


@one_process
def test_a_second_run_measures_nothing(outcome, refusing, capsys):
    assert run(*AGAIN, "--out", outcome) == 0
    assert "MLP 784-512-512-10: measured on 2" in capsys.readouterr().out


@one_process
@pytest.mark.parametrize(
    "other",
    [
        ("--restart",),
        ("--no-sweep",),
        ("--rounds", 3),
        ("--dtype", "bfloat16"),
        ("--batch-size", 16),
    ],
    ids=lambda words: words[0],
)
def test_other_settings_are_measured(outcome, refusing, capsys, other):
    assert run(*AGAIN, "--out", outcome, *other) == 2
    assert "measured again" in capsys.readouterr().err


@one_process
def test_with_another_jax_it_is_measured(outcome, refusing, monkeypatch, capsys):
    versions = record.files.versions() | {"jax": "0.99"}
    monkeypatch.setattr(record.files, "versions", lambda: versions)
    assert run(*AGAIN, "--out", outcome) == 2
    assert "measured again" in capsys.readouterr().err


class Named:
    """A model that nothing is compiled of."""

    parameters = 7

    def __init__(self, workload, task):
        self.name = workload.name


@one_process
def test_a_stopped_run_keeps_the_models_that_are_done(
    tmp_path, content, monkeypatch, capsys
):
    done: list[str] = []

    def measure(model, groups, rounds, say):
        if done:
            raise KeyboardInterrupt
        done.append(model.name)
        return content["groups"]

    monkeypatch.setattr(benchmark, "Model", Named)
    monkeypatch.setattr(benchmark, "measure", measure)
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "mlp.json").write_text("{half of")
    assert run(*SMALL, "--out", tmp_path) == 130
    assert [path.name for path in (tmp_path / "benchmark").iterdir()] == ["mlp.json"]
    assert run(*SMALL, "--models", "mlp", "--out", tmp_path) == 0
    assert done == ["mlp"]
    assert "K-SAM" in capsys.readouterr().out


class FakeModel(Model):
    """Programs whose operations, bytes and times are given by formulas."""

    def __init__(self):
        self.workload = TINY
        self.task = make_task(TINY.build("float32"))
        self.compiled = []

    def compile(self, case):
        self.compiled.append(case)
        factor = 1.0 if case.method == "sgd" else 0.8
        training = Training(lambda params: params, lambda carry, batch: carry)
        size = int(factor * 100 * case.batch)
        return Program(case, training, None, 0.25, 0.5, factor * case.batch, size)

    def warmed_up(self, program):
        case = program.case
        if case.method == "esam":
            return None
        # SGD's time per example is half as long at 16 examples as at 32.
        seconds = {("sgd", 32): 3.2, ("sgd", 16): 0.8}.get((case.method, case.batch), 2.4)
        return lambda steps: seconds


def test_ratios_are_against_sgd_on_the_batch_and_on_its_best_sub_batch():
    model = FakeModel()
    groups = plan.plan(
        TINY, ("k_sam", "esam"), ("all",), couples_examples=False, sweep=False
    )
    (found,) = measurement.measure(model, groups, rounds=5)
    assert found["best_sub_batch"] == {"batch": 16, "sgd_seconds_per_example": 0.05}
    cases = {(case["method"], case["keep"], case["batch"]): case for case in found["cases"]}
    k_sam = cases["k_sam", "all", 32]
    quartiles = {"median": 0.75, "lower_quartile": 0.75, "upper_quartile": 0.75}
    assert k_sam["time_vs_sgd"] == pytest.approx({"n": 5, **quartiles})
    assert k_sam["time_vs_best_sub_batch"]["median"] == pytest.approx(1.5)
    assert cases["sgd", None, 32]["time_vs_best_sub_batch"]["median"] == pytest.approx(2.0)
    assert k_sam["operations_vs_sgd"] == pytest.approx(0.8)
    assert k_sam["temporary_vs_sgd"] == pytest.approx(0.8)
    # There was too little memory for ESAM.
    assert cases["esam", "all", 32]["seconds"] is None
    assert len(model.compiled) == len(set(model.compiled))


def test_only_a_lack_of_memory_is_a_result():
    def fails(text):
        raise jax.errors.JaxRuntimeError(text)

    assert or_too_large(lambda: 3) == 3
    for said in (
        "RESOURCE_EXHAUSTED: no room",
        "INTERNAL: Out of memory allocating 7 bytes",
    ):
        assert or_too_large(lambda said=said: fails(said)) is None
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        or_too_large(lambda: fails("INTERNAL: broken"))


def test_another_program_goes_first_in_each_round():
    order = []

    def burst(name):
        def run(steps):
            order.append((name, steps))
            return float(len(order))

        return run

    repeats = {"a": 2, "b": 1, "c": 1}
    times = interleaved({name: burst(name) for name in "abc"}, repeats, rounds=4)
    assert [name for name, _ in order] == list("abcbcacababc")
    assert times["a"] == [1, 6, 8, 10]
    assert {steps for name, steps in order if name == "a"} == {2}


def test_quartiles():
    assert median_and_quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert ratio([2.0, 9.0, 4.0], [2.0, 3.0, 2.0]) == (2.0, 1.5, 2.5)


# Forward passes' worth of arithmetic by hand, at k = 1/4 (gamma = 1/2): forward 1,
# backward 2; then with a shared forward pass; then with statistics to be returned.
COSTS = {
    "sgd": (3, 3, 3),
    "optax_sam": (6, 6, 6),
    "sam": (6, 6, 6),
    "asam": (6, 6, 6),
    "f_sam": (6, 6, 6),
    "random_sam": (3.75, 3.75, 4.75),
    "esam": (5.5, 5.0, 5.5),
    "momentum_sam": (3, 3, 4),
    "k_sam": (2.5, 2.25, 2.5),
    "k_momentum_sam": (1.75, 1.5, 2.75),
    "k_momentum_perturbed_aux": (1.75, 1.5, 1.75),
    "k_sam_remembered": (1.5, 1.5, 2.5),
    "k_momentum_remembered": (0.75, 0.75, 1.75),
    "least_sam": (6, 6, 6),
    "least_k_sam": (2.5, 2.5, 2.5),
    "least_k_momentum_sam": (1.75, 1.75, 1.75),
    "least_esam": (5.5, 5.5, 5.5),
}


def test_results_depend_on_the_library_and_the_rows():
    found = {"/".join(path.parts[-3:]) for path in record.sources()}
    assert found >= {
        "ksam_jax/step/_update.py",
        "ksam_jax/parts/_coverage.py",
        "experiments/methods/combinations.py",
        "experiments/models/vit.py",
        "costs/benchmark/steps.py",
    }


def test_predictions():
    found = {
        name: tuple(
            3 * cost.predicted(cost.share, is_shared=shared, has_aux=aux)
            for shared, aux in ((False, False), (True, False), (False, True))
        )
        for name, contender in CONTENDERS.items()
        for cost in [contender.cost]
    }
    assert found == {name: pytest.approx(costs) for name, costs in COSTS.items()}


@pytest.mark.parametrize("method", slow_but(("sgd", "k_sam", "esam"), CONTENDERS))
def test_every_method_trains_a_model_with_statistics(method):
    """Traced, not compiled: the carry has the same structure after a step."""
    task = make_task(BATCH_NORM.build("float32"))
    assert task.has_aux
    contender = CONTENDERS[method]
    training = contender.training(task, contender.cost.share, "nothing", 64)
    params, rest = jax.eval_shape(task.init, jax.random.key(0))
    carry = Carry(params, rest, jax.eval_shape(training.init, params))
    after = jax.eval_shape(training.step, carry, random_batch(BATCH_NORM, 8))
    assert after == carry


def test_statistics_at_the_perturbed_weights_take_no_pass_of_their_own():
    """By XLA's count, on a network with BatchNorm in which convolutions are nearly all."""
    workload = replace(
        BATCH_NORM, model=partial(ResNet, widths=(16,), blocks=1), batch_size=32
    )
    model = Model(workload, make_task(workload.build("float32")))
    counted = {
        name: model.compile(Case(name, share, None, 32)).operations
        for name, share in (
            ("sgd", None),
            ("k_momentum_sam", 0.25),
            ("k_momentum_perturbed_aux", 0.25),
        )
    }
    sgd = counted.pop("sgd")
    assert sgd is not None
    clean, perturbed = (found / sgd for found in counted.values() if found is not None)
    # By counting passes (1 + 1 + 3/4) / 3 and (1 + 3/4) / 3; the first layer's backward
    # pass is shorter.
    assert 0.88 < clean < 0.97
    assert 0.56 < perturbed < 0.63


def test_a_step_moves_weights_and_statistics():
    model = Model(BATCH_NORM, make_task(BATCH_NORM.build("float32")))
    program = model.compile(Case("k_sam", 0.25, None, 8))
    assert program.compiled is not None
    before = Carry(model.params, model.rest, program.training.init(model.params))
    batch = random_batch(BATCH_NORM, 8)
    copy = jax.tree.map(lambda leaf: leaf.copy(), before)
    after = program.compiled(copy, batch)
    for part in ("params", "rest"):
        pairs = zip(
            jax.tree.leaves(getattr(after, part)),
            jax.tree.leaves(getattr(before, part)),
            strict=True,
        )
        assert any((a != b).any() for a, b in pairs)


@pytest.mark.parametrize("models", slow_but((CPU,), (CPU, ACCELERATOR)))
def test_the_models_have_their_names_and_accept_their_examples(models):
    for name, workload in models.items():
        assert workload.name == name
        task = make_task(workload.build("bfloat16"))
        params, rest = jax.eval_shape(task.init, jax.random.key(0))
        found = jax.eval_shape(
            lambda params, rest, batch: task.loss_fn(rest, "nothing")(params, batch),
            *(params, rest, random_batch(workload, 2)),
        )
        losses = found[0] if task.has_aux else found
        assert (losses.shape, losses.dtype) == ((2,), "float32")
        assert task.has_aux == (name == "resnet18")


@pytest.mark.parametrize("keep", ["nothing", "matmuls", "24", "all"])
def test_a_vit_can_keep_what_is_asked_for(keep):
    model = partial(ViT, patch=2, width=8, depth=1, heads=2)
    workload = replace(CPU["vit"], model=model, shape=(4, 4, 1), batch_size=4)
    task = make_task(workload.build("float32"))
    training = CONTENDERS["k_sam"].training(task, 0.5, keep, 4)
    params, rest = jax.eval_shape(task.init, jax.random.key(0))
    carry = Carry(params, rest, jax.eval_shape(training.init, params))
    jax.eval_shape(training.step, carry, random_batch(workload, 4))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--models", "mpl"], "unknown model 'mpl'; did you mean 'mlp'? Valid: "),
        (["--models"], "--models needs at least one of mlp, "),
        (["--methods", "ksam"], "unknown method 'ksam'; did you mean 'k_sam'? Valid: "),
        (["--methods"], "--methods needs at least one of sgd, "),
        (["--keeps", "al"], "unknown keep 'al'; did you mean 'all'? Valid: "),
        (["--keeps", "0"], "unknown keep '0'"),
        (["--dtype", "float16"], "unknown dtype 'float16'; did you mean 'bfloat16'?"),
        (["--batch-size", "1"], "--batch-size must be at least 2; got 1"),
        (["--rounds", "0"], "--rounds must be at least 1; got 0"),
        (["--rounds", "few"], "invalid literal for int()"),
        (["--modles", "mlp"], "unknown option '--modles'; did you mean '--models'?"),
        (["--out", __file__], "can't write to "),
    ],
)
def test_mistakes_cost_one_line(tmp_path, monkeypatch, capsys, options, line):
    monkeypatch.chdir(tmp_path)
    assert run(*options) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert line in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    said = capsys.readouterr().out
    for name in benchmark.Config.__annotations__:
        assert f"--{name.replace('_', '-')}" in said
