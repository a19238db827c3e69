"""The least programs take the step that the methods take."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest

import ksam_jax
from experiments.configs.benchmark import CPU
from experiments.costs.benchmark import least, steps
from experiments.costs.benchmark.contenders import CONTENDERS
from experiments.costs.benchmark.plan import Case
from experiments.costs.benchmark.programs import Model
from experiments.costs.benchmark.steps import Carry
from experiments.costs.benchmark.task import make_task, random_batch
from experiments.models import CNN, MLP, ResNet

IMAGES = {"shape": (8, 8, 3), "batch_size": 16}
MODELS = {
    "mlp": replace(CPU["mlp"], model=partial(MLP, widths=(12, 7)), **IMAGES),
    "cnn": replace(CPU["cnn"], model=partial(CNN, channels=(8,)), **IMAGES),
    "batch_norm": replace(
        CPU["resnet18"], model=partial(ResNet, widths=(8,), blocks=1), **IMAGES
    ),
}
METHODS = {
    "sam": (ksam_jax.sam(), None),
    "k_sam": (ksam_jax.k_sam(k=0.25), 0.25),
    "k_momentum_sam": (ksam_jax.k_momentum_sam(k=0.25, rho=least.RHO), 0.25),
    "esam": (ksam_jax.esam(beta=1.0, gamma=0.5), 0.5),
}


def trained(task, workload, training, number=3):
    """The carry after so many steps, each on examples in another order."""
    params, rest = task.init(jax.random.key(0))
    carry = Carry(params, rest, training.init(params))
    batch = random_batch(workload, 16)
    step = jax.jit(training.step)
    for i in range(number):
        carry = step(carry, jax.tree.map(lambda x, i=i: jnp.roll(x, i, 0), batch))
    return carry


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_the_least_program_takes_the_methods_step(model, method, monkeypatch):
    monkeypatch.setattr(least, "BETA", 1.0)
    workload = MODELS[model]
    task = make_task(workload.build("float32"))
    assert task.is_mlp == (model == "mlp")
    ours, share = METHODS[method]
    theirs = trained(task, workload, least.LEAST[method](task, share))
    mine = trained(task, workload, steps.sharpness_aware(task, ours, "auto"))
    start = task.init(jax.random.key(0))[0]
    moved = jax.tree.map(jnp.subtract, mine.params, start)
    assert all(float(jnp.max(jnp.abs(x))) > 1e-6 for x in jax.tree.leaves(moved))
    chex.assert_trees_all_close(theirs.params, mine.params, atol=2e-6, rtol=2e-5)
    if method != "k_momentum_sam":  # whose statistics are of the perturbed weights
        chex.assert_trees_all_close(theirs.rest, mine.rest, atol=1e-5, rtol=1e-4)


def test_each_coordinate_is_kept_with_probability_beta():
    kept = least._kept({"a": jnp.ones((300, 301)), "b": jnp.ones(5)}, jax.random.key(1))
    assert kept["b"].shape == (5,)
    assert float(jnp.mean(kept["a"])) == pytest.approx(least.BETA, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_the_least_program_runs_no_pass_too_many(method):
    """By XLA's count, where convolutions are nearly all."""
    workload = replace(MODELS["cnn"], model=partial(CNN, channels=(16, 32, 32)))
    model = Model(workload, make_task(workload.build("float32")))
    counted = {
        name: model.compile(Case(name, CONTENDERS[name].cost.share, None, 128)).operations
        for name in ("sgd", f"least_{method}")
    }
    predicted = CONTENDERS[f"least_{method}"].cost.predicted(
        METHODS[method][1], is_shared=False, has_aux=False
    )
    least_one, sgd = counted[f"least_{method}"], counted["sgd"]
    assert least_one is not None
    assert sgd
    assert least_one / sgd == pytest.approx(predicted, rel=0.06)
