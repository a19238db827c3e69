"""Scores against fractions worked out by hand; a warning is an error here."""

import math

import numpy as np
import pytest

from experiments.judging.scores import SCORES, compute
from experiments.shell.cli import UsageError

NAN, INF = math.nan, math.inf


def _one(name, predictions, labels, dtype):
    return compute([name], np.array(predictions, dtype), np.array(labels, dtype))[name]


@pytest.mark.parametrize(
    ("predictions", "labels", "expected"),
    [
        ([0, 1, 0, 1, 1], [0, 1, 1, 0, 1], 3 / 5),
        ([2, 0, 1], [2, 1, 0], 1 / 3),
        ([-1, 0, -1, 2], [0, 0, 1, 2], 2 / 4),  # none is never right
        ([-1, -1], [0, 1], 0),
        ([1], [1], 1),
        ([0], [1], 0),
    ],
)
def test_accuracy(predictions, labels, expected):
    assert _one("accuracy", predictions, labels, np.int32) == expected


# F1 = 2 TP / (2 TP + FP + FN),
# Matthews = (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)), or 0 / 0 -> 0.
@pytest.mark.parametrize(
    ("predictions", "labels", "f1", "matthews"),
    [
        # TP 2, FP 1, FN 1, TN 1
        ([1, 1, 0, 1, 0], [1, 1, 1, 0, 0], 4 / 6, 1 / 6),
        # The same with nothing predicted for the two that were wrong.
        ([1, 1, -1, -1, 0], [1, 1, 1, 0, 0], 4 / 6, 1 / 6),
        # TP 1, FP 0, FN 1, TN 2: sqrt(1 * 2 * 2 * 3)
        ([1, 0, 0, 0], [1, 1, 0, 0], 2 / 3, 2 / math.sqrt(12)),
        # TP 0, FP 1, FN 1, TN 2: sqrt(1 * 1 * 3 * 3)
        ([1, 0, 0, 0], [0, 1, 0, 0], 0, -1 / 3),
        # Labels of one class: TP 1, FN 1; FP 1, TN 1; TN 2.
        ([1, 0], [1, 1], 2 / 3, 0),
        ([1, 0], [0, 0], 0, 0),
        ([0, 0], [0, 0], 0, 0),
        # Predictions of one class: TP 1, FP 2; FN 1, TN 2.
        ([1, 1, 1], [1, 0, 0], 2 / 4, 0),
        ([0, 0, 0], [1, 0, 0], 0, 0),
        # Both of one class, and the right one.
        ([1, 1], [1, 1], 1, 0),
        # All right, all wrong, nothing predicted, and one not predicted.
        ([0, 1, 1], [0, 1, 1], 1, 1),
        ([1, 0, 0], [0, 1, 1], 0, -1),
        ([-1, -1, -1], [0, 1, 1], 0, 0),
        ([-1, 0, 0], [0, 1, 1], 0, -1),
        # A single one.
        ([1], [1], 1, 0),
        ([0], [0], 0, 0),
        ([-1], [1], 0, 0),
    ],
)
def test_f1_and_matthews(predictions, labels, f1, matthews):
    assert _one("f1", predictions, labels, np.int32) == pytest.approx(f1, rel=1e-14)
    found = _one("matthews", predictions, labels, np.int32)
    assert found == pytest.approx(matthews, rel=1e-14)


@pytest.mark.parametrize(
    ("predictions", "labels", "pearson", "spearman"),
    [
        # Less their means (-4, -1, 5) / 3 and (-1, 1, 0): 1 / sqrt(42 / 9 * 2).
        # Ranks less 2, (-1, 0, 1) and (-1, 1, 0): 1 / sqrt(2 * 2).
        ([1, 2, 4], [1, 3, 2], math.sqrt(3 / 28), 1 / 2),
        # The same far from 0, where float32 has few digits left for the differences.
        ([1e6 + 1, 1e6 + 2, 1e6 + 4], [1, 3, 2], math.sqrt(3 / 28), 1 / 2),
        # Ranks less 2.5, (-1, 2, 2, -3) / 2 and (-3, -1, 1, 3) / 2: -6 / sqrt(18 * 20).
        # Less their means, (-15, 25, 25, -35) / 4: -60 / sqrt(2700 * 20).
        ([10, 20, 20, 5], [1, 2, 3, 4], -60 / math.sqrt(54000), -1 / math.sqrt(10)),
        # Ties among the labels: ranks less 2, (-1, 0, 1) and (-1, 1, 1) / 2 less ...:
        # (1, 2.5, 2.5) - 2 = (-2, 1, 1) / 2: 3 / sqrt(2 * 6), as without ranks.
        ([1, 2, 3], [0, 5, 5], 3 / math.sqrt(12), 3 / math.sqrt(12)),
        # In order, but not on a line: (-1, -1, 2) / 3 * 9 and (-1, 0, 1), nearly.
        ([0, 0.5, 9], [0, 1, 2], 9 / math.sqrt(2 * (81.25 - 9.5**2 / 3)), 1),
        ([0.5, 2, 3.5], [1, 2, 3], 1, 1),
        ([3, 2], [-1, 5], -1, -1),
        # Undefined: all the same, a single one, or not finite.
        ([2.5, 2.5, 2.5], [1, 2, 3], 0, 0),
        ([1, 2, 3], [5, 5, 5], 0, 0),
        ([0.1, 0.1], [0.1, 0.1], 0, 0),
        ([1.5], [1.5], 0, 0),
        ([1, NAN, 3], [1, 2, 3], 0, 0),
        ([1, 2, INF], [1, 2, 3], 0, 0),
        ([-INF, 2, INF], [1, 2, 3], 0, 0),
        ([NAN, NAN], [1, 2], 0, 0),
        # The largest that float32 has.
        ([-3e38, 3e38], [0, 5], 1, 1),
    ],
)
def test_correlations(predictions, labels, pearson, spearman):
    found = _one("pearson", predictions, labels, np.float32)
    assert found == pytest.approx(pearson, rel=1e-12)
    found = _one("spearman", predictions, labels, np.float32)
    assert found == pytest.approx(spearman, rel=1e-12)


def test_scores_are_python_numbers_in_the_order_asked_for():
    found = compute(["f1", "accuracy"], np.array([1, 0]), np.array([1, 1]))
    assert list(found) == ["f1", "accuracy"]
    numbers = compute(["spearman", "pearson"], np.array([1.0, 0]), np.array([1.0, 2]))
    matthews = compute(["matthews"], np.array([1, 0]), np.array([1, 0]))
    values = [*found.values(), *numbers.values(), *matthews.values()]
    assert [type(value) for value in values] == [float] * len(SCORES)


@pytest.mark.parametrize(
    ("predictions", "labels"), [([], []), ([1], []), ([1], [1, 0]), ([[1, 0]], [1, 0])]
)
def test_nothing_to_judge(predictions, labels):
    with pytest.raises(ValueError, match="N at least 1; got"):
        compute(["accuracy"], np.array(predictions, int), np.array(labels, int))


def test_a_score_that_is_not_there():
    with pytest.raises(UsageError, match=r"unknown metric 'acuracy'.*mean 'accuracy'"):
        compute(["acuracy"], np.array([1]), np.array([1]))
