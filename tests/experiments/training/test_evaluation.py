"""Measures of trained replicas, on a model whose answers are known."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs.compare import DIGITS
from experiments.data.examples import Examples
from experiments.models import PureModel
from experiments.models.pure import Variables
from experiments.training import evaluation
from experiments.training.evaluation import evaluator

# The parameters are the logits, the same for every image.
MODEL = PureModel(
    init=lambda key: Variables(key, ()),
    stacked=lambda keys: keys,
    logits=lambda params, images, rest: jnp.broadcast_to(params, (images.shape[0], 3)),
    loss_fn=lambda rest: lambda params, batch: batch.labels,
    has_aux=False,
    nothing=(),
)
EXAMPLES = Examples(np.zeros((5, 1), np.float32), np.array([2, 0, 2, 1, 2], np.int32))
REPLICAS = jnp.array([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0], [np.nan, 1.0, 2.0]])


def softmax(logits):
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum()


def mean_loss(logits):
    return -np.log(softmax(logits)[EXAMPLES.labels]).mean()


@pytest.fixture(params=["side by side", "in turn", "in chunks"])
def measures(request, monkeypatch):
    if request.param == "in chunks":
        monkeypatch.setattr(evaluation, "CHUNK", 2)
    return evaluator(MODEL, replace(DIGITS, side_by_side=request.param != "in turn"))


def test_accuracy_counts_hits_and_a_diverged_replica_has_none(measures):
    accuracy = measures.accuracy(REPLICAS, EXAMPLES)
    np.testing.assert_allclose(accuracy, [3 / 5, 1 / 5, 0], rtol=1e-12)


def test_loss_is_the_mean_cross_entropy(measures):
    loss = measures.loss(REPLICAS, EXAMPLES)
    expected = [mean_loss(REPLICAS[0]), mean_loss(REPLICAS[1]), np.nan]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_sharpness_is_the_rise_along_the_gradient(measures):
    sharpness = measures.sharpness(REPLICAS[:2], EXAMPLES)
    for logits, measured in zip(np.asarray(REPLICAS[:2]), sharpness, strict=True):
        frequencies = np.bincount(EXAMPLES.labels, minlength=3) / 5
        gradient = softmax(logits) - frequencies
        uphill = logits + 0.05 * gradient / np.linalg.norm(gradient)
        # A small difference of float32 losses.
        assert measured == pytest.approx(mean_loss(uphill) - mean_loss(logits), abs=1e-6)


def test_sharpness_at_a_minimum_is_zero_not_nan(measures):
    at_minimum = jnp.log(jnp.array([[1.0, 1.0, 1.0]]))
    balanced = Examples(np.zeros((3, 1), np.float32), np.array([0, 1, 2], np.int32))
    assert abs(measures.sharpness(at_minimum, balanced)[0]) < 1e-2
    assert np.isfinite(measures.sharpness(at_minimum, balanced)).all()
