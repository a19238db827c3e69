"""Normalized pixels and their statistics, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import normalization
from experiments.data.normalization import Normalization
from experiments.shell.cli import UsageError

ODD = Normalization((0.31, 0.53), (0.25, 0.75))
normalized = jax.jit(normalization.normalized, static_argnums=0)


def made_up(n):
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, size=(n, 7, 5, 2), dtype=np.uint8)


def test_normalization_in_numpy():
    images = made_up(n=400)
    got = np.asarray(normalized(ODD, images))
    assert got.dtype == np.float32
    want = (images.astype(np.float64) / 255 - [0.31, 0.53]) / [0.25, 0.75]
    # XLA may fuse a division with a subtraction.
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_statistics_are_those_of_all_pixels():
    # More than one part, and the last one isn't full.
    images = made_up(n=2300)
    found = normalization.statistics(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(found.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, scaled.std((0, 1, 2)), rtol=1e-12)


def test_bad_normalization_is_refused():
    with pytest.raises(UsageError, match="one value per channel each; got 1 and 2"):
        Normalization((0.5,), (0.2, 0.2))
    with pytest.raises(UsageError, match=r"std must be positive .* got \(0\.2, 0\.0\)"):
        Normalization((0.5, 0.5), (0.2, 0.0))
    with pytest.raises(UsageError, match="std must be positive"):
        normalization.statistics(np.full((3, 4, 4, 1), 77, np.uint8))


def test_wrong_images_are_refused():
    with pytest.raises(TypeError, match=r"images must be uint8, .* got float32"):
        normalization.normalized(ODD, jnp.zeros((1, 4, 4, 2)))
    with pytest.raises(UsageError, match="got 2 for images with 3"):
        normalization.normalized(ODD, jnp.zeros((1, 4, 4, 3), jnp.uint8))
