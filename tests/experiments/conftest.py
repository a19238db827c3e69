"""A small study on the digits."""

import jax
import pytest
from hand_chosen import write_choices

from experiments.configs.compare import DIGITS
from experiments.data import catalogue
from experiments.models import pure


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """Optax's cosine schedule mixes its count with floats, which strict JAX refuses.

    Around everything: a fixture's place among other modules' is not sure with xdist.
    """
    with jax.numpy_dtype_promotion("standard"):
        return (yield)


@pytest.fixture(scope="session")
def digits():
    return catalogue.load("digits")


@pytest.fixture(scope="session")
def protocol():
    """Two epochs of two steps."""
    return DIGITS.changed(train_examples=70, batch_size=33, epochs=2)


@pytest.fixture(scope="session")
def model(digits, protocol):
    build = protocol.experiment.build(digits.shape, digits.classes)
    return pure(build, protocol.keep)


@pytest.fixture
def chosen(tmp_path):
    """A folder of choices for split 0."""
    write_choices(tmp_path / "chosen")
    return tmp_path / "chosen"
