"""Skipping the very highest losses before the k highest are taken."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from problems import batched, mlp, mlp_loss, quick_jit, updater

import ksam_jax

N = 7
NAN, INF = math.nan, math.inf

# ---------------------------------------------------------- the naive reference


def skipped(values: Sequence[float], k: int, skip: int) -> list[float]:
    """The weights of a mean over what is finite among the k after the skipped ones."""
    finite = [i for i, value in enumerate(values) if math.isfinite(value)]
    falling = sorted(finite, key=lambda i: (-values[i], i))
    chosen = falling[skip : skip + k]
    return [(i in chosen) / len(chosen) for i in range(len(values))]


# Few different values, so that ties are common; and any others.
loss = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, NAN, INF, -INF]),
    st.floats(width=32, allow_subnormal=False),
)

# Example i has the loss value_i + (w_i - 1), and w = 1: its gradient is the i-th unit
# vector, whatever the value, so the descent gradient is the vector of weights.


def revealing_loss(w: jax.Array, example: Any) -> jax.Array:
    return example["value"] + (w[example["index"]] - 1.0)


# The loss value_i * w_i has the gradient value_i there: NaN where the loss is.


def poisoned_loss(w: jax.Array, example: Any) -> jax.Array:
    return example["value"] * w[example["index"]]


def by_descent_only(k: Any, skip: Any) -> Any:
    climb, chosen = (
        ksam_jax.scale_to_radius(0.05),
        ksam_jax.highest_loss(k, skip, mean_over="chosen"),
    )
    return ksam_jax.sharpness_aware(climb, descent=chosen)


METHODS = {
    "k_sam": lambda k, skip: ksam_jax.k_sam(0.05, k, skip, mean_over="chosen"),
    "k_momentum_sam": lambda k, skip: ksam_jax.k_momentum_sam(
        0.05, k, 0.9, skip, mean_over="chosen"
    ),
    "descent only": by_descent_only,
}
methods = pytest.mark.parametrize("method", METHODS)


@functools.lru_cache(maxsize=None, typed=True)  # 0 is no example, 0.0 a fraction
def compiled(method: str, k: Any, skip: Any, form: str, is_poisoned: bool = False) -> Any:
    """One compiled step: values of the losses -> descent gradient, at weights of one."""
    tx, w = METHODS[method](k, skip), jnp.ones(N)
    single = poisoned_loss if is_poisoned else revealing_loss
    loss_fn = batched(single)
    if form != "batch":
        loss_fn = ksam_jax.per_example(single, keep=form)

    @quick_jit
    def step(values: jax.Array) -> jax.Array:
        batch = {"value": values, "index": jnp.arange(N)}
        return tx.update(None, tx.init(w), w, loss_fn=loss_fn, batch=batch)[0]

    return step


@pytest.mark.parametrize("form", ["batch", "all"])
@pytest.mark.parametrize(("k", "skip"), [(1, 1), (3, 2), (2, 5), (0.5, 0.25)])
@hypothesis.settings(max_examples=40)
@hypothesis.given(values=st.lists(loss, min_size=N, max_size=N))
@hypothesis.example(values=[1.0] * N)
@hypothesis.example(values=[NAN, 1.0, NAN, 1.0, NAN, 2.0, INF])
@hypothesis.example(values=[-0.0, 0.0, -0.0, 0.0, 1.0, -0.0, 0.0])
def test_k_sam_descends_with_the_mean_over_what_follows_the_skipped(k, skip, form, values):
    found = compiled("k_sam", k, skip, form)(jnp.asarray(values, jnp.float32))
    # Of seven, a half is four and a quarter two.
    counts = (4, 2) if k == 0.5 else (k, skip)
    hypothesis.assume(sum(map(math.isfinite, values)) > counts[1])
    np.testing.assert_allclose(found, skipped(values, *counts), rtol=1e-6)


@pytest.mark.parametrize(
    ("skip", "count"),
    [
        *[(0, 0), (0.0, 0), (0.07, 0), (0.0725, 1), (0.25, 2), (0.5, 4), (0.85, 6)],
        *[(np.int32(3), 3), (np.float32(0.5), 4), (np.asarray(2), 2), (np.float64(0), 0)],
    ],
)
def test_integers_count_and_fractions_round_half_up_even_to_none(skip, count):
    found = compiled_by_type("descent only", 1, skip)(-jnp.arange(7.0))
    assert found.tolist() == [float(i == count) for i in range(N)]


def compiled_by_type(method: str, k: Any, skip: Any) -> Any:
    """As `compiled`, for what has no hash."""
    return compiled.__wrapped__(method, k, skip, "batch")


@methods
def test_ties_are_skipped_and_taken_from_the_lowest_index(method):
    found = compiled(method, 3, 2, "batch")(jnp.full(N, 0.7))
    np.testing.assert_allclose(found, [0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0], rtol=1e-6)


@methods
def test_the_skipped_are_the_highest_finite_losses_and_not_the_corrupt_ones(method):
    values = jnp.asarray([NAN, 5.0, INF, 4.0, 3.0, -INF, 2.0])
    found = compiled(method, 3, 2, "batch")(values)
    # Two of the four finite ones are skipped, and two are left.
    np.testing.assert_allclose(found, [0, 0, 0, 0, 0.5, 0, 0.5], rtol=1e-6)


@methods
@pytest.mark.parametrize("values", [[NAN, 5.0, INF, 4.0, NAN, -INF, NAN], [NAN] * N])
def test_if_nothing_finite_is_left_after_skipping_the_gradient_is_nan(method, values):
    found = compiled(method, 3, 2, "batch")(jnp.asarray(values))
    assert np.isnan(found).any()
    assert not (np.asarray(found) > 0).any()


@pytest.mark.parametrize("form", ["batch", "nothing", "matmuls", "all"])
def test_corrupt_examples_do_not_reach_the_gradient(form):
    values = [0.5, NAN, 2.0, INF, -INF, 3.0, 1.0]
    found = compiled("k_sam", 4, 1, form, is_poisoned=True)(jnp.asarray(values))
    expected = [0.5 / 3, 0, 2 / 3, 0, 0, 0, 1 / 3]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_climb_skips_as_well():
    # Losses (w_0, 2 w_1, 3 w_2)^2 / 2 at w = 1: the middle one alone is climbed on.
    def squares(w: jax.Array, i: jax.Array) -> jax.Array:
        return ((1.0 + i.astype(w.dtype)) * w[i]) ** 2 / 2

    tx: Any = ksam_jax.k_sam(rho=0.5, k=1, skip=1, mean_over="chosen")
    w, batch = jnp.ones(3), jnp.arange(3)
    found, _ = quick_jit(updater(tx, squares))(tx.init(w), w, batch)
    np.testing.assert_allclose(found, [0, 4 * 1.5, 0], rtol=1e-6)


@pytest.mark.parametrize("skip", [0, 0.0, 0.04, np.int64(0)])
def test_skipping_none_is_k_sam_as_it_was(skip):
    problem = mlp()

    def jaxpr(tx: Any) -> str:
        state = tx.init(problem.params)
        update = updater(tx, batched(mlp_loss))
        return str(jax.make_jaxpr(update)(state, problem.params, problem.batch))

    assert jaxpr(ksam_jax.k_sam(0.1, 3, skip, mean_over="chosen")) == jaxpr(
        ksam_jax.k_sam(0.1, 3, mean_over="chosen")
    )
    skips_one = ksam_jax.k_sam(0.1, 3, skip=1, mean_over="chosen")
    assert jaxpr(skips_one) != jaxpr(ksam_jax.k_sam(0.1, 3, mean_over="chosen"))


def test_all_but_the_skipped_may_be_taken():
    found = compiled("k_sam", 6, 1, "batch")(-jnp.arange(7.0))
    np.testing.assert_allclose(found, [0] + [1 / 6] * 6, rtol=1e-6)
