"""Operations are XLA's, so they are exact and can be tested; times only exist."""

import pytest
from hand_chosen import values_of

from experiments.configs.compare import DIGITS
from experiments.costs.cost import Step, measure
from experiments.data.examples import Examples
from experiments.models import pure
from experiments.training.one_step import steps
from experiments.training.splits import training_split

# One fixture for all of them, so one process.
pytestmark = pytest.mark.xdist_group("cost")


@pytest.fixture(scope="module")
def costs(digits):
    build = DIGITS.experiment.build(digits.shape, digits.classes)
    model = pure(build, DIGITS.keep)
    train = training_split(digits, DIGITS, 0).train
    batch = Examples(train.inputs[:128], train.labels[:128])
    # Not all: what is left out is made of the same parts.
    names = ("sgd", "highest_loss", "sam", "k_sam", "esam")
    chosen = {name: values_of(name) for name in names}
    return measure(steps(model, DIGITS, batch, chosen), rounds=3)


def test_operations(costs):
    ratio = {name: cost.operations_ratio for name, cost in costs.items()}
    assert ratio["sgd"] == 1.0
    # The first layer's input needs no gradient, so a backward pass costs less than two
    # forward passes here, and a forward pass more than a third of SGD's step.
    assert 0.55 < ratio["highest_loss"] < 0.65
    assert 0.70 < ratio["k_sam"] < 0.82
    assert 1.60 < ratio["esam"] < 1.80
    assert 1.95 < ratio["sam"] < 2.05


def test_times(costs):
    assert costs["sgd"].time_ratio == (1.0, 1.0, 1.0)
    for cost in costs.values():
        median, low, high = cost.time_ratio
        assert cost.seconds > 0
        assert 0 < low <= median <= high


def test_another_baseline_than_sgd():
    # Their times are said, not taken.
    steps = {
        "adamw": Step(40.0, lambda repeats: 0.002),
        "k_sam": Step(70.0, lambda repeats: 0.003),
    }
    found = measure(steps, rounds=3, baseline="adamw")
    assert (found["k_sam"].operations, found["k_sam"].operations_ratio) == (70, 1.75)
    assert found["k_sam"].time_ratio == pytest.approx((1.5, 1.5, 1.5))
    assert found["adamw"].time_ratio == pytest.approx((1, 1, 1))
