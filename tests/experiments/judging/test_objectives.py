"""Losses and predictions against calculations in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.judging.objectives import CLASSES, NONE, NUMBER, most_likely, objective

LOGITS = np.array([[2.0, -1.0, 0.5], [-3.0, 0.25, 4.0], [1.5, 1.0, -2.5]], np.float32)
LABELS = np.array([0, 1, 2], np.int32)
NAN, INF = math.nan, math.inf


def log_probabilities():
    return LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum(-1, keepdims=True))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.75])
def test_a_share_of_the_label_is_spread_over_all_classes(share):
    # Szegedy et al., section 7: (1 - share) on the label, share / classes on each.
    target = np.full((3, 3), share / 3)
    target[np.arange(3), LABELS] += 1 - share
    expected = -(target * log_probabilities()).sum(-1)
    losses = objective(3, share).losses(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_smoothed_losses_keep_the_gradient_of_a_sure_prediction():
    # Of a softmax: probabilities less the target, which is not 0 where the label is sure.
    sure = jnp.array([30.0, 0.0, 0.0])
    found = jax.grad(objective(3, 0.3).losses)(sure, jnp.int32(0))
    np.testing.assert_allclose(found, [0.2, -0.1, -0.1], atol=1e-6)


def test_losses_of_one_example_as_of_many():
    losses = objective(3, 0.1).losses
    every = losses(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    singly = jax.vmap(losses)(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_array_equal(every, singly)


def test_of_one_class_it_is_a_number():
    outputs, labels = jnp.array([[1.5], [-2.0]]), jnp.array([1.0, 0.25])
    found = objective(1)
    assert found is NUMBER
    assert found.losses(outputs, labels).tolist() == [0.25, 5.0625]
    assert found.predictions(outputs).tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([1.0, 3.0, 2.0], 1),
        ([-5.0, -7.0, -6.0], 0),
        ([NAN, 3.0, 2.0], NONE),
        ([1.0, INF, 2.0], NONE),
        ([1.0, 3.0, -INF], NONE),
        ([3e38, -3e38, 0.0], 0),
    ],
)
def test_what_is_not_finite_predicts_nothing(logits, expected):
    # No label is -1, so that it is always wrong.
    rows = jnp.array([logits, [0.0, 0.0, 9.0]])
    assert most_likely(rows).tolist() == [expected, 2]
    assert CLASSES.predictions(rows).tolist() == [expected, 2]
    assert NONE == -1
