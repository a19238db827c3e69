"""The registry: rows that fit their ranges and can be told apart."""

import pytest

from experiments.configs.options import BEFORE_SGD
from experiments.configs.spaces import Interval, space
from experiments.methods import METHODS


def test_every_method_is_searched_for_what_it_takes():
    # All that can stand before SGD, which is what searches train with.
    assert set(METHODS) - set(BEFORE_SGD) == {"adamw"}
    for name, method in BEFORE_SGD.items():
        assert set(method.hyperparameters) == set(space(name, Interval(0.01, 1.0)))


def test_points_can_be_told_apart():
    looks = [(method.colour, method.marker) for method in METHODS.values()]
    assert len(set(looks)) == len(looks)
    labels = [method.label for method in METHODS.values()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("interval", "middle"),
    [(Interval(0.01, 1.0), 0.1), (Interval(0.5, 1.0, log=False), 0.75)],
)
def test_intervals(interval, middle):
    assert interval.at(0) == interval.low
    assert interval.at(0.5) == middle
    assert interval.at(1) == interval.high
