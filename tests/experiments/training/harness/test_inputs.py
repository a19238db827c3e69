"""Which examples are trained on, and which are looked at."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.configs import rows
from experiments.data import catalogue
from experiments.data.drawn import drawn
from experiments.shell.cli import UsageError
from experiments.training.harness import inputs

SGD = rows.ROWS["digits_sgd"].experiment


@pytest.mark.parametrize(("wanted", "held"), [(384, 516), (100, 0), (None, 97), (1797, 0)])
def test_examples_are_drawn_once(digits, wanted, held):
    numbers = drawn(digits, wanted, held)
    train = 1797 - held if wanted is None else wanted
    assert [len(part) for part in numbers] == [train, held, 1797 - train - held]
    assert sorted(np.concatenate(numbers)) == list(range(1797))
    again = drawn(catalogue.load("digits"), wanted, held)
    jax.tree.map(np.testing.assert_array_equal, numbers, again)
    # Drawn, not the first ones; all of them stay where they are.
    assert (numbers.train.tolist() == list(range(train))) == (train == 1797)


@pytest.mark.parametrize(
    ("wanted", "held"), [(0, 0), (-3, 10), (1797, 1), (1000, 798), (None, 1797), (10, -1)]
)
def test_more_than_there_are_cannot_be_drawn(digits, wanted, held):
    with pytest.raises(UsageError, match=r"at most the 1797 of digits together; got -?\d"):
        drawn(digits, wanted, held)


def test_the_test_examples_of_digits_are_all_that_is_left(digits):
    experiments = [SGD, dataclasses.replace(SGD, seed=9, method="sam", rho=0.1)]
    found = [inputs.load(experiment, None, None) for experiment in experiments]
    assert found[0].judged["test"] is found[1].judged["test"]
    numbers = drawn(digits, 384, 516)
    parts = (found[0].train, found[0].judged["validation"], found[0].judged["test"])
    for part, chosen in zip(parts, numbers, strict=True):
        ours, theirs = part.fetch(np.arange(part.size)), digits.fetch(chosen)
        np.testing.assert_array_equal(ours.inputs, theirs.inputs)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
