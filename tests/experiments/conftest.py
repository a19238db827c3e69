"""A small study on the digits."""

from dataclasses import replace
from functools import partial

import jax
import pytest
from hand_chosen import write_choices

from experiments.configs.compare import DIGITS
from experiments.data import catalogue
from experiments.models import MLP, pure


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
    """A small network, two epochs of two steps."""
    mlp = partial(MLP, widths=(32,))
    return replace(DIGITS, model=mlp, train=70, batch_size=33, epochs=2)


@pytest.fixture(scope="session")
def model(digits, protocol):
    return pure(protocol.build(digits.shape, digits.classes), protocol.keep)


@pytest.fixture
def chosen(tmp_path):
    """A folder of choices for split 0."""
    write_choices(tmp_path / "chosen")
    return tmp_path / "chosen"
