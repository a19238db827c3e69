"""Every argument of every measure of sharpness, wrong in every way: an error of ours."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from test_wrong_arguments import (
    BATCH,
    FLAGS,
    GRADIENT,
    PARAMS,
    Case,
    complaints,
    loss_fn,
    of_parameters,
)

from ksam_jax import sharpness

# One process compiles for all of them what they have in common.
pytestmark = pytest.mark.xdist_group("wrong_sharpness_arguments")

DIRECTION = {"w": jnp.asarray([3.0, 1.0]), "b": jnp.asarray(2.0)}
COMMON = {"loss_fn": loss_fn, "params": PARAMS, "batches": [BATCH], "progress": False}
ALIGNMENT = sharpness.Alignment((1, 1.0), *np.ones((3, 2, 2)))
SPECTRUM = sharpness.Spectrum(np.ones((1, 2)), np.ones((1, 2)) / 2)
GOOD: dict[str, dict[str, Any]] = {
    "sam_sharpness": COMMON,
    "adaptive_sharpness": COMMON,
    "m_sharpness": {**COMMON, "m": 3},
    "per_example_sharpness": COMMON,
    "top_eigenvalues": COMMON,
    "hessian_trace": {**COMMON, "num_samples": 2},
    "spectral_density": {**COMMON, "num_samples": 1},
    "hessian_vector_product": {**COMMON, "vector": DIRECTION},
    "gradient_alignment": {**COMMON, "ks": (2, 1.0)},
    "loss_along": {**COMMON, "directions": [DIRECTION], "at": [0.0, 1.0]},
    "random_direction": {"params": PARAMS},
    "filter_normalized": {"direction": DIRECTION, "params": PARAMS},
    "plane_through": {"first": PARAMS, "second": GRADIENT, "third": DIRECTION},
    "recommend_k": {"alignment": ALIGNMENT},
}
MEASURES = {
    name: Case(function, name, GOOD.get(name, {}))
    for name, function in vars(sharpness).items()
    if name[0] != "_" and callable(function) and not isinstance(function, type)
}
MEASURES["density"] = Case(SPECTRUM.density, "density", {"at": np.ones(2)})
TREES = {
    "params": PARAMS,
    "batches": [BATCH],
    "mask": FLAGS,
    "adaptive_mask": FLAGS,
    "vector": DIRECTION,
    "direction": DIRECTION,
    "directions": [DIRECTION],
    "first": PARAMS,
    "second": GRADIENT,
    "third": DIRECTION,
}


def test_the_table_has_all_that_is_public():
    assert {*GOOD, "density"} == set(MEASURES)
    records = [x for n, x in vars(sharpness).items() if n[0] != "_" and type(x) is type]
    assert records
    assert all(issubclass(record, tuple | Exception) for record in records)


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURES)
def test_what_is_changed_is_right_before(name):
    case = MEASURES[name]
    case.function(**case.good)


# Those that need no data are quick; of what measures share, test_sharpness_errors.py tells.
@of_parameters(MEASURES, slow=lambda name, p: GOOD.get(name, {}).keys() >= COMMON.keys())
def test_a_wrong_argument_of_a_measure_gets_an_error_of_ours(case, parameter):
    assert complaints(case, parameter, TREES) == []
