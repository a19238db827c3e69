"""Three gradients of the highest losses behind BatchNorm, on a tiny model."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import batchnorm
from experiments.batchnorm import Setup
from experiments.data import catalogue
from experiments.data.examples import Dataset, Examples
from experiments.models import ResNet
from experiments.pages import batchnorm as page
from experiments.shell import cli
from experiments.training import batchnorm as gradients

SHAPE, CLASSES = (8, 8, 3), 4
DEFINITIONS = ("published", "through", "constants")
TINY = Setup(widths=(4,), images=13, batch=6, chosen=2, steps=(0, 3))

# All tests but two read one compiled program's values, so they belong into one process.
pytestmark = [pytest.mark.xdist_group("batchnorm_gradients"), pytest.mark.slow]


def random_examples(n):
    rng = np.random.default_rng(n)
    images = rng.integers(256, size=(n, *SHAPE)).astype(np.float32)
    return Examples(images, rng.integers(CLASSES, size=n).astype(np.int32))


@pytest.fixture(scope="module")
def outcome():
    """Weights, and the losses and gradients there of 5 among 11 examples and of all."""
    model = gradients.losses(partial(ResNet, SHAPE, CLASSES, widths=(4,), blocks=1))
    images, labels = random_examples(11)
    batch = Examples(jnp.asarray((images - 127.5) / 64), jnp.asarray(labels))

    @jax.jit
    def compute(key):
        params = model.init(key)
        some, everyone = (gradients.gradients(model, params, batch, n) for n in (5, 11))
        highest = jnp.sort(model.own(params, batch)[0])[-5:].mean()
        return some, everyone, gradients.figures(params, some), highest

    return compute(jax.random.key(3))


def test_the_whole_batch_s_statistics_give_the_losses_that_chose(outcome):
    some, _, _, highest = outcome
    losses = {name: float(loss) for name, (loss, _) in some.items()}
    assert losses["through"] == pytest.approx(float(highest), rel=1e-6)
    assert losses["constants"] == pytest.approx(float(highest), rel=1e-5)
    assert abs(losses["published"] - highest) > 0.01


def test_only_constants_turn_a_kernel_s_gradient_towards_the_kernel(outcome):
    _, _, shown, _ = outcome
    assert shown["kernel_cosine_published"] < 1e-3
    assert shown["kernel_cosine_through"] < 1e-3
    assert 0.02 < shown["kernel_cosine_constants"] <= 1


def test_cosines_and_norms_follow_from_the_gradients(outcome):
    some, _, shown, _ = outcome
    flat = {
        name: np.concatenate(
            [np.ravel(g).astype(np.float64) for g in jax.tree.leaves(tree)]
        )
        for name, (_, tree) in some.items()
    }
    norms = {name: np.linalg.norm(flat[name]) for name in DEFINITIONS}
    for name in ("through", "constants"):
        cosine = flat["published"] @ flat[name] / norms["published"] / norms[name]
        assert shown[f"cosine_{name}"] == pytest.approx(cosine, abs=1e-5)
        assert -1 <= cosine < 0.99
    ratio = norms["constants"] / norms["published"]
    assert shown["norm_ratio_constants"] == pytest.approx(ratio, rel=1e-4)


def test_with_all_examples_chosen_only_constants_differ(outcome):
    _, everyone, _, _ = outcome
    published, through, constants = (
        [np.asarray(leaf) for leaf in jax.tree.leaves(everyone[name][1])]
        for name in DEFINITIONS
    )
    # Not to the last bit: the chosen are sorted by their losses.
    for a, b in zip(published, through, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert not np.allclose(published[0], constants[0], rtol=1e-2)


def test_the_result_has_mean_and_spread_over_seeds(monkeypatch, tmp_path):
    examples = random_examples(20)
    dataset = Dataset(
        title="noise",
        source="a generator",
        shape=SHAPE,
        classes=CLASSES,
        size=20,
        fetch=lambda rows: Examples(examples.inputs[rows], examples.labels[rows]),
    )
    monkeypatch.setattr(catalogue, "load", lambda name, folder: dataset)
    monkeypatch.setattr(batchnorm, "SETUP", TINY)
    options = ["--data-dir", str(tmp_path), "--seeds", "2", "--out", str(tmp_path)]
    assert cli.run(batchnorm.main, options) == 0
    text = (tmp_path / "batchnorm" / "results.json").read_text()
    content = json.loads(text, parse_constant=pytest.fail)
    assert str(tmp_path) not in text
    assert content["command"] == f"{batchnorm.PROG} --data-dir DIR --seeds 2"
    assert (content["batch"], content["chosen"], content["seeds"]) == (6, 2, 2)
    first = content["rows"][0]["cosine_through"]
    shown = page.block(content, "")
    assert f"| 0 | {first['mean']:.2f} ± {first['std']:.2f} |" in shown
    assert [row.pop("steps") for row in content["rows"]] == [0, 3]
    for row in content["rows"]:
        for name, value in row.items():
            assert value["std"] > 0
            assert "cosine" not in name or -1 <= value["mean"] <= 1
        assert row["kernel_cosine_published"]["mean"] < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "dataset 'cifar10' is not prepared in"),
        (("--seeds", "1"), "--seeds must be at least 2; got 1"),
    ],
)
def test_mistakes_cost_one_line(options, message, tmp_path, capsys):
    options = ["--data-dir", str(tmp_path), *options]
    assert cli.run(batchnorm.main, options) == 2
    assert message in capsys.readouterr().err
