"""Steps of full size: what was counted is what arithmetic says, and nothing is run."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import full_size
from experiments.configs import rows
from experiments.costs.full_size import FULL_SIZE
from experiments.pages import large
from experiments.pages.block import Block, Source
from experiments.processes import sharded
from experiments.shell import cli
from experiments.training.harness import counting, programs

pytestmark = pytest.mark.xdist_group("full_size")

REFERENCE = Path("results/reference/full_size/full_size.json")
GIB = 2**30


def taps(size, kernel, stride):
    """Along one axis, the multiplications of a convolution, but for those of padding."""
    places = np.arange(0, size, stride)[:, None] + np.arange(kernel) - (kernel - 1) // 2
    return int(((places >= 0) & (places < size)).sum())


def resnet50():
    """Multiplications of a forward pass of one image (He et al., 2016; stride in 3x3)."""
    found, size, before = taps(224, 7, 2) ** 2 * 3 * 64, 56, 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            small = size // stride
            found += size**2 * before * width
            found += taps(size, 3, stride) ** 2 * width**2
            found += small**2 * width * 4 * width
            if not block:
                found += small**2 * before * 4 * width
            size, before = small, 4 * width
    return found + before * 1000


def transformer(length, width):
    """Likewise of 12 blocks: 12 width^2 per token, and the attention's two products."""
    return 12 * (12 * width**2 * length + 2 * length**2 * width)


MULTIPLICATIONS = {
    "imagenet_resnet50": resnet50(),
    "imagenet_vit_s_16": transformer(196, 384) + 196 * 768 * 384 + 384 * 1000,
    "glue_sst2_bert_base": transformer(128, 768) + 768**2,
}
# He et al. and Devlin et al. for 1,000 and 2 classes; ViT: see `experiments.models.ViT`.
PARAMETERS = {
    "imagenet_resnet50": 25_557_032,
    "imagenet_vit_s_16": 22_049_896,
    "glue_sst2_bert_base": 109_482_240 + 2 * 768 + 2,
}
# Forward passes that a step takes; a backward pass is two. With BatchNorm the loss is of a
# whole batch, so that the pass that chooses isn't shared: 1 + 6 k, elsewhere 1 + 5 k.
PASSES = {
    "imagenet_resnet50": {"sgd": 3, "sam": 6, "k_sam_half": 4},
    "imagenet_vit_s_16": {"adamw": 3, "sam": 6, "k_sam_half": 3.5},
    "glue_sst2_bert_base": {"adamw": 3, "sam": 6, "k_sam": 2.25},
}
CASES = [(model, method) for model, each in PASSES.items() for method in each]
# Weights, and what the optimizer keeps for each: momentum, or Adam's two moments.
COPIES = {"sgd": 2, "adamw": 3}
# Bytes of an example: its pixels or tokens, its label, index and epoch.
EXAMPLE = {"imagenet": 224 * 224 * 3 + 12, "glue": 128 * (2 + 1) + 12}


@pytest.fixture(scope="module")
def committed() -> Any:
    return json.loads(REFERENCE.read_text())


def entry(committed, model, method):
    return committed["configs"][f"{model}_{method}"]


# ------------------------------------------------------------- what was committed


def test_the_multiplications_are_the_published_ones():
    # Both papers' figures are rounded: 4.1 and 4.6 billion; BERT's are 11 at 128 tokens.
    assert MULTIPLICATIONS["imagenet_resnet50"] == pytest.approx(4.1e9, rel=0.04)
    assert MULTIPLICATIONS["imagenet_vit_s_16"] == pytest.approx(4.6e9, rel=0.01)
    assert MULTIPLICATIONS["glue_sst2_bert_base"] == pytest.approx(11.2e9, rel=0.01)


def test_every_row_was_counted_with_its_own_batch(committed):
    assert tuple(committed["configs"]) == full_size.CONFIGS
    assert committed["complete"]
    assert committed["command"] == full_size.PROG
    for name, found in committed["configs"].items():
        row = rows.ROWS[name].experiment
        assert found["of"]["devices"] == committed["devices"] == 8
        for field in ("dataset", "model", "method", "optimizer", "batch_size", "rho"):
            assert found["of"]["experiment"][field] == getattr(row, field)
        assert found["batch_per_device"] * 8 == row.batch_size


@pytest.mark.parametrize(("model", "method"), CASES)
def test_operations_were_those_of_arithmetic(committed, model, method):
    found = entry(committed, model, method)
    forward = 2 * MULTIPLICATIONS[model]
    # What isn't a product of matrices comes on top; of dropout that is the most.
    assert 1 < found["forward_operations"] / forward < 1.05
    whole = forward * found["batch_per_device"] * PASSES[model][method]
    assert found["operations"] == pytest.approx(whole, rel=0.08)


@pytest.mark.parametrize(("model", "method"), CASES)
def test_state_and_batch_were_of_their_sizes(committed, model, method):
    found = entry(committed, model, method)
    assert found["parameters"] == PARAMETERS[model]
    optimizer = found["of"]["experiment"]["optimizer"]
    weights = 4 * COPIES[optimizer] * PARAMETERS[model]
    # BatchNorm's statistics are a thousandth of it.
    assert weights <= found["state_bytes"] < 1.002 * weights
    example = EXAMPLE[model.partition("_")[0]]
    assert found["batch_bytes"] == example * found["batch_per_device"]
    given = found["state_bytes"] + found["batch_bytes"]
    assert found["argument_bytes"] == pytest.approx(given, rel=1e-4)
    # The next state takes this one's memory.
    assert found["alias_bytes"] == pytest.approx(found["state_bytes"], rel=1e-4)


@pytest.mark.parametrize("model", PASSES)
def test_k_sam_was_counted_cheaper_than_sam(committed, model):
    *_, sam, k_sam = (entry(committed, model, method) for method in PASSES[model])
    expected = PASSES[model][list(PASSES[model])[-1]] / 6
    assert k_sam["operations"] / sam["operations"] == pytest.approx(expected, rel=0.05)
    assert k_sam["temporary_bytes"] < sam["temporary_bytes"]


# ------------------------------------------------------------------ steps of full size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method"),
    [("imagenet_resnet50", "k_sam_half"), ("glue_sst2_bert_base", "k_sam")],
)
def test_a_step_of_full_size_is_traced_in_shapes(model, method):
    experiment = rows.ROWS[f"{model}_{method}"].experiment
    kind, mesh = counting.KINDS[experiment.dataset], sharded.data_mesh(8)
    made = programs.programs(experiment, mesh, kind)
    state = made.abstract_state(mesh)
    batch = counting.abstract_rows(experiment, kind, mesh)
    assert made.parameters == PARAMETERS[model]
    lowered = counting.lower(made, state, batch)
    after, note = lowered.out_info
    assert jax.tree.map(_kind, after) == jax.tree.map(_kind, state)
    assert {_kind(leaf) for leaf in note} == {((), "float32")}
    whole = 2 * MULTIPLICATIONS[model] * PASSES[model][method] * experiment.batch_size / 8
    assert lowered.cost_analysis()["flops"] == pytest.approx(whole, rel=0.08)


def _kind(leaf):
    return leaf.shape, str(leaf.dtype)


# ------------------------------------------------------------------------------ program


def run(folder, *options):
    return cli.run(full_size.main, [*options, "--devices", "8", "--out", str(folder)])


def saved(folder):
    return json.loads((folder / "full_size.json").read_text())


def test_a_small_row_is_compiled_and_counted(tmp_path, capsys):
    assert run(tmp_path, "--configs", "digits_sgd") == 0
    content = saved(tmp_path)
    assert content["command"] == f"{full_size.PROG} --configs digits_sgd"
    found = content["configs"]["digits_sgd"]
    # 64-256-256-10, a batch of 128 over 8 devices; the first layer has no gradient of its
    # inputs.
    first, others = 64 * 256, 256 * 256 + 256 * 10
    assert found["parameters"] == first + others + 256 + 256 + 10
    products = 2 * 16 * (2 * first + 3 * others)
    # At 16 examples the optimizer isn't little: some operations for each parameter.
    optimizer = found["operations"] - products
    assert 4 * found["parameters"] < optimizer < 12 * found["parameters"]
    assert found["batch_bytes"] == 16 * (64 + 12)
    assert 8 * found["parameters"] <= found["state_bytes"] < 8 * found["parameters"] + 99
    assert "[1/1] digits_sgd: traced in" in capsys.readouterr().out


def fake(calls):
    def count(experiment, mesh, about):
        calls.append(experiment.method)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counted(experiment.method) | {"of": about}

    return count


def counted(method, times=1.0):
    return {
        "method": method.upper(),
        "is_baseline": method == "sgd",
        "dataset": "digits",
        "model": "MLP",
        "batch_per_device": 16,
        "parameters": 1_250_000,
        "forward_operations": 5e11,
        "operations": times * 24e12,
        "temporary_bytes": int(times * 3 * GIB),
        "state_bytes": GIB // 4,
        "batch_bytes": 8,
        "argument_bytes": 16,
        "output_bytes": 16,
        "alias_bytes": 0,
        "seconds": {"trace": 2.0, "compile": 31.4},
    }


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(full_size, "count", fake(calls))
    asked = ("--configs", "digits_sgd", "digits_sam")
    assert run(tmp_path, *asked) == 130
    assert list(saved(tmp_path)["configs"]) == ["digits_sgd"]
    source = Source(FULL_SIZE, tmp_path / "full_size.json")
    block = Block(Path("x"), "x", (source,), large.block)
    with pytest.raises(cli.UsageError, match="wasn't finished"):
        block.text()
    assert run(tmp_path, *asked) == 0
    assert calls == ["sgd", "sam", "sam"]
    assert "[1/2] digits_sgd: was there already" in capsys.readouterr().out
    assert list(saved(tmp_path)["configs"]) == ["digits_sgd", "digits_sam"]
    assert block.text()
    # With other settings it is another step.
    assert run(tmp_path, *asked, "--dtype", "bfloat16") == 0
    assert calls[3:] == ["sgd", "sam"]


@pytest.mark.parametrize("text", ["{", "[]", '{"configs": [1]}', '{"configs": {"a": 1}}'])
def test_a_file_of_something_else_is_replaced(text, tmp_path, monkeypatch):
    (tmp_path / "full_size.json").write_text(text)
    monkeypatch.setattr(full_size, "count", fake([]))
    assert run(tmp_path, "--configs", "digits_sgd") == 0
    assert list(saved(tmp_path)["configs"]) == ["digits_sgd"]


def test_the_table_compares_with_the_baseline():
    of = {"experiment": {"batch_size": 128, "dtype": "float32"}}
    content: Any = {
        "configs": {
            "digits_sgd": counted("sgd") | {"of": of},
            "digits_sam": counted("sam", 2.0) | {"of": of},
        }
    }
    ((title, headers, cells),) = large.tables(content)
    assert title == (
        "digits, MLP, 1.2 million parameters: a batch of 128, 16 per device, float32"
    )
    assert headers[3] == "operations / SGD"
    # 24e12 operations are three forward passes of 16 examples of 5e11.
    assert cells == [
        ("SGD", "24", "3.00", "1.00", "3", "1.00", "0.25"),
        ("SAM", "48", "6.00", "2.00", "6", "2.00", "0.25"),
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--configs",), "nothing to compile"),
        (("--configs", "digits"), "unknown config 'digits'"),
        (("--configs", "mnist_1000_sgd"), "mnist_1000_sgd is of mnist"),
        (("--configs", "digits_sgd", "--devices", "7"), "divide the batch of digits_sgd"),
        (("--devices", "0"), "--devices must be at least 1; got 0"),
        (("--dtype", "float8"), "unknown --dtype 'float8'"),
    ],
)
def test_mistakes_cost_one_line(options, said, tmp_path, capsys):
    assert cli.run(full_size.main, [*options, "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not list(tmp_path.iterdir())
