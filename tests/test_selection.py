"""Questions 1 and 3: which examples are chosen, and the weight that each one gets."""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

import ksam_jax

N = 7
NAN, INF = math.nan, math.inf

# ---------------------------------------------------------- the naive reference


def count_of(k: Any, n: int) -> int:
    """An integer is a count; a fraction of n is rounded half up, at least one."""
    if isinstance(k, int | np.integer):
        return int(k)
    return max(1, math.floor(Fraction(float(k)) * n + Fraction(1, 2)))


def ranked(values: Sequence[float]) -> list[int]:
    """Places by falling value, ties by place; what isn't finite comes last."""

    def rank(i: int) -> tuple[bool, float, int]:
        is_bad = not math.isfinite(values[i])
        return (is_bad, 0.0 if is_bad else -values[i], i)

    return sorted(range(len(values)), key=rank)


def reference_mask(values: Sequence[float], count: int) -> list[float]:
    chosen = set(ranked(values)[:count])
    n = len(values)
    return [float(i in chosen and math.isfinite(values[i])) for i in range(n)]


def reference_weights(values: Sequence[float], count: int) -> list[float]:
    """Those of a mean over the finite ones among the chosen."""
    mask = reference_mask(values, count)
    return [m / sum(mask) for m in mask]


# ------------------------------------------------------------------ strategies

# Few different values, so that ties are common; and any others.
loss = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, NAN, INF, -INF]),
    st.floats(width=32, allow_subnormal=False),
)


def is_near_half(k: float, n: int) -> bool:
    """Whether rounding k * n depends on the last bit of a product of floats."""
    distance = abs(Fraction(k) * n % 1 - Fraction(1, 2))
    return 0 < distance < Fraction(1, 10**6)


def size(n: int) -> st.SearchStrategy[Any]:
    """Every kind of k that is right for n examples."""
    fraction = st.floats(0.0, 1.0, exclude_min=True, width=32)
    fraction = fraction.filter(lambda k: not is_near_half(k, n))
    integer = st.integers(1, n)
    return st.one_of(
        integer,
        fraction,
        integer.map(np.int32),
        integer.map(np.int64),
        integer.map(np.uint8),
        fraction.map(np.float32),
        fraction.map(np.float64),
    )


@st.composite
def losses_and_k(draw: st.DrawFn) -> tuple[list[float], Any]:
    losses = draw(st.lists(loss, min_size=1, max_size=6))
    return losses, draw(size(len(losses)))


# ------------------------------------------------------------------ top_k_mask


@hypothesis.settings(max_examples=25)  # each size of which is compiled
@hypothesis.given(losses_and_k())
@hypothesis.example(([NAN], 1))
@hypothesis.example(([0.0, -0.0], 1))
@hypothesis.example(([-0.0, 0.0], 1))
@hypothesis.example(([NAN, -INF, INF, 3.0], 2))
@hypothesis.example(([1.0] * 7, 0.5))
def test_top_k_mask_equals_a_sort_in_python(case):
    losses, k = case
    mask = ksam_jax.top_k_mask(jnp.asarray(losses, jnp.float32), k)
    assert mask.tolist() == reference_mask(losses, count_of(k, len(losses)))


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), size(n))))
def test_top_k_mask_of_finite_losses_has_exactly_the_count(case):
    n, k = case
    losses = jnp.asarray(np.random.default_rng(n).integers(0, 3, n), jnp.float32)
    assert float(ksam_jax.top_k_mask(losses, k).sum()) == count_of(k, n)


@pytest.mark.parametrize(
    ("k", "n", "count"),
    [
        (1, 9, 1),
        (1.0, 9, 9),
        (9, 9, 9),
        (0.01, 9, 1),
        (0.5, 9, 5),
        (0.5, 7, 4),
        (0.25, 10, 3),
        (0.25, 11, 3),
        (0.25, 13, 3),
        (0.25, 14, 4),
        (0.75, 6, 5),
        (np.float32(1.0), 5, 5),
        (np.int8(1), 5, 1),
        (np.float64(0.5), 5, 3),
        (np.asarray(2), 5, 2),
    ],
)
def test_integers_count_and_fractions_round_half_up(k, n, count):
    losses = jnp.asarray(np.random.default_rng(0).normal(0, 1, n), jnp.float32)
    assert float(ksam_jax.top_k_mask(losses, k).sum()) == count


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_top_k_mask_keeps_the_dtype_of_the_losses(dtype):
    mask = ksam_jax.top_k_mask(jnp.asarray([0.5, 2.0, 1.0], dtype), 2)
    assert mask.dtype == dtype
    assert mask.tolist() == [0.0, 1.0, 1.0]


def test_top_k_mask_is_constant_to_differentiation():
    gradient = jax.grad(lambda losses: ksam_jax.top_k_mask(losses, 2) @ losses)(
        jnp.asarray([0.5, 2.0, 1.0])
    )
    assert gradient.tolist() == [0.0, 1.0, 1.0]


def test_top_k_mask_works_under_jit_and_vmap():
    rows = jnp.asarray([[3.0, 1.0, 2.0], [NAN, 1.0, 1.0]])
    found = jax.jit(jax.vmap(lambda row: ksam_jax.top_k_mask(row, 0.5)))(rows)
    assert found.tolist() == [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]


# ---------------------------------------------------- the weights of the descent

# Example i has the loss value_i + (w_i - 1), and w = 1: its gradient is the i-th unit
# vector, whatever the value, so the descent gradient is the vector of weights.


def revealing_loss(w: jax.Array, batch: Any) -> jax.Array:
    return batch["value"] + (w[batch["index"]] - 1.0)


def revealing_example_loss(w: jax.Array, example: Any) -> jax.Array:
    return example["value"] + (w[example["index"]] - 1.0)


# Example i has the loss value_i * w_i: where the value is NaN, so is the gradient.


def poisoned_loss(w: jax.Array, batch: Any) -> jax.Array:
    return batch["value"] * w[batch["index"]]


def poisoned_example_loss(w: jax.Array, example: Any) -> jax.Array:
    return example["value"] * w[example["index"]]


def in_form(form: str, batched: Any, single: Any) -> Any:
    return batched if form == "batch" else ksam_jax.per_example(single, keep=form)


def by_k_sam(k: Any) -> Any:
    return ksam_jax.k_sam(rho=0.05, k=k, mean_over="chosen")


def by_descent_only(k: Any) -> Any:
    return ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(0.05), descent=ksam_jax.highest_loss(k, mean_over="chosen")
    )


def by_ascent_on_random(k: Any) -> Any:
    return ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(0.05),
        ascent=ksam_jax.random_subset(3),
        descent=ksam_jax.highest_loss(k, mean_over="chosen"),
    )


METHODS = {
    "k_sam": by_k_sam,
    "descent only": by_descent_only,
    "ascent on random": by_ascent_on_random,
}


def compiled_step(tx: Any, loss_fn: Any) -> Any:
    """Values of the losses -> descent gradient, at weights that are all one."""
    w = jnp.ones(N)

    @jax.jit
    def step(values: jax.Array) -> jax.Array:
        batch = {"value": values, "index": jnp.arange(N)}
        return tx.update(None, tx.init(w), w, loss_fn=loss_fn, batch=batch)[0]

    return step


@functools.lru_cache(maxsize=None, typed=True)  # 1 is one example, 1.0 all of them
def compiled(method: str, k: Any, form: str, is_poisoned: bool = False) -> Any:
    """One compiled step: values of the losses -> descent gradient."""
    tx = METHODS[method](k)
    batched = poisoned_loss if is_poisoned else revealing_loss
    single = poisoned_example_loss if is_poisoned else revealing_example_loss
    loss_fn = in_form(form, batched, single)
    return compiled_step(tx, loss_fn)


@pytest.mark.parametrize("form", ["batch", "all"])
@pytest.mark.parametrize("k", [1, 3, 0.5, 1.0])
@hypothesis.settings(max_examples=40)
@hypothesis.given(values=st.lists(loss, min_size=N, max_size=N))
@hypothesis.example(values=[1.0] * N)
@hypothesis.example(values=[NAN, 1.0, NAN, 1.0, NAN, NAN, INF])
@hypothesis.example(values=[-0.0, 0.0, -0.0, 0.0, 1.0, -0.0, 0.0])
def test_k_sam_descends_with_the_mean_over_the_highest_finite_losses(k, form, values):
    hypothesis.assume(any(math.isfinite(value) for value in values))
    found = compiled("k_sam", k, form)(jnp.asarray(values, jnp.float32))
    expected = reference_weights(values, count_of(k, N))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("method", ["descent only", "ascent on random"])
@hypothesis.settings(max_examples=30)
@hypothesis.given(values=st.lists(loss, min_size=N, max_size=N))
def test_highest_loss_as_descent_ranks_by_the_clean_losses(method, values):
    hypothesis.assume(any(math.isfinite(value) for value in values))
    found = compiled(method, 3, "batch")(jnp.asarray(values, jnp.float32))
    np.testing.assert_allclose(found, reference_weights(values, 3), rtol=1e-6)


@pytest.mark.parametrize("form", ["batch", "nothing", "matmuls", "all"])
@pytest.mark.parametrize("k", [2, 5, 1.0])
def test_corrupt_examples_do_not_reach_the_gradient_of_k_sam(k, form):
    values = [0.5, NAN, 2.0, INF, -INF, 3.0, 1.0]
    found = compiled("k_sam", k, form, is_poisoned=True)(jnp.asarray(values))
    weights = reference_weights(values, count_of(k, N))
    expected = [w * v if w else 0.0 for w, v in zip(weights, values, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_info_loss_shows_the_corrupt_examples():
    tx: Any = ksam_jax.k_sam(rho=0.05, k=2, mean_over="chosen")
    w = jnp.ones(N)

    @jax.jit
    def step(values: jax.Array) -> Any:
        batch = {"value": values, "index": jnp.arange(N)}
        _, state = tx.update(None, tx.init(w), w, loss_fn=poisoned_loss, batch=batch)
        return ksam_jax.get_info(state)

    info = step(jnp.ones(N).at[3].set(NAN))
    assert math.isnan(info.loss)
    assert info.known.sharpness
    assert float(info.perturbation_norm) == pytest.approx(0.05, rel=1e-4)


# -------------------------------------------------------- the largest increases


@functools.lru_cache(maxsize=None, typed=True)
def compiled_esam(gamma: Any, form: str) -> Any:
    """One step; with loss value_i * w_i and w = 1, example i rises as value_i^2."""
    tx: Any = ksam_jax.esam(rho=0.1, beta=1.0, gamma=gamma)
    loss_fn = in_form(form, poisoned_loss, poisoned_example_loss)
    return compiled_step(tx, loss_fn)


def descent_of_esam(values: list[float], gamma: Any, form: str) -> jax.Array:
    return compiled_esam(gamma, form)(jnp.asarray(values))


@pytest.mark.parametrize("form", ["batch", "nothing", "matmuls", "all"])
def test_esam_descends_on_the_largest_increases_not_the_highest_losses(form):
    found = descent_of_esam([1.0, -4.0, 3.0, 0.5, -2.0, 0.25, -0.1], 0.5, form)
    np.testing.assert_allclose(7 * found, [1, -4, 3, 0, -2, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(("gamma", "count"), [(1, 1), (3, 3), (0.5, 4), (1.0, 7)])
def test_esam_breaks_ties_by_the_lowest_index_and_keeps_the_count(gamma, count):
    found = descent_of_esam([2.0] * N, gamma, "batch")
    expected = [2.0 / N] * count + [0.0] * (N - count)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("form", ["batch", "nothing", "matmuls", "all"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_corrupt_examples_do_not_reach_the_gradient_of_esam(bad, form):
    """The climb fails, so nothing rises: the first finite examples are taken."""
    found = descent_of_esam([1.0, bad, 3.0, -2.0, 2.0, 5.0, -6.0], 0.5, form)
    np.testing.assert_allclose(7 * found, [1, 0, 3, -2, 2, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("form", ["batch", "nothing", "matmuls", "all"])
def test_corrupt_examples_that_must_fill_up_gamma_get_weight_zero(form):
    found = descent_of_esam([NAN, 1.0, INF, -3.0, NAN, -INF, 2.0], 0.5, form)
    np.testing.assert_allclose(7 * found, [0, 1, 0, -3, 0, 0, 2], rtol=1e-6)


# ---------------------------------------------------------------- random subsets


def draw_subsets(n: int, m: Any, steps: int, seed: Any) -> jax.Array:
    """Which examples the climb used in each step, `(steps, n)` of bools.

    The descent gradient of the losses w_i^2 / 2 is (w + eps) / n, and eps isn't zero
    exactly on the examples of the climb.
    """
    tx: Any = ksam_jax.random_sam(rho=1.0, m=m, seed=seed)
    w = jnp.ones(n)

    def step(state: Any, _: None) -> Any:
        gradient, state = tx.update(
            None, state, w, loss_fn=lambda w, i: w[i] ** 2 / 2, batch=jnp.arange(n)
        )
        return state, gradient

    _, gradients = lax.scan(step, tx.init(w), length=steps)
    moved = gradients * n > 1.0 + 1e-4
    count = moved.sum(1, keepdims=True)
    # Every chosen example has the same weight, so eps has one length on all of them.
    reach = 1.0 / jnp.sqrt(count.astype(jnp.float32))
    expected = (1.0 + jnp.where(moved, reach, 0.0)) / n
    equal_weights = jnp.abs(gradients - expected).max(1, keepdims=True) < 1e-5
    return moved & equal_weights


@functools.lru_cache(maxsize=None, typed=True)
def compiled_subsets(n: int, m: Any, steps: int) -> Any:
    """`draw_subsets` as a function of the seed."""
    return jax.jit(functools.partial(draw_subsets, n, m, steps))


@pytest.mark.parametrize(("m", "count"), [(1, 1), (4, 4), (0.25, 3), (1.0, 10), (0.01, 1)])
def test_random_subset_has_exactly_m_distinct_examples(m, count):
    assert compiled_subsets(10, m, 30)(0).sum(1).tolist() == [count] * 30


def test_random_subset_differs_between_steps_and_seeds():
    first, second = (compiled_subsets(10, 4, 30)(seed) for seed in (1, 2))
    assert len({tuple(row) for row in first.tolist()}) > 20
    assert not np.array_equal(first, second)


def test_random_subset_depends_on_the_seed_alone_traced_or_not():
    traced = compiled_subsets(10, 4, 30)(1)
    np.testing.assert_array_equal(traced, draw_subsets(10, 4, 30, seed=1))


def test_random_subset_takes_vmapped_seeds():
    found = jax.vmap(compiled_subsets(10, 4, 30))(jnp.asarray([0, 1, 2]))
    assert len({row.tobytes() for row in np.asarray(found)}) == 3
    np.testing.assert_array_equal(found[1], compiled_subsets(10, 4, 30)(1))


def test_random_subset_is_uniform_over_examples_and_pairs():
    drawn = np.asarray(compiled_subsets(9, 3, 3000)(4), np.float64)
    # Five standard errors of a frequency over 3,000 draws.
    error = 5 * math.sqrt(1 / 3 * 2 / 3 / 3000)
    np.testing.assert_allclose(drawn.mean(0), 1 / 3, atol=error)
    pairs = (drawn.T @ drawn / 3000)[np.triu_indices(9, 1)]
    chance = 3 / 9 * 2 / 8
    np.testing.assert_allclose(pairs, chance, atol=5 * math.sqrt(chance / 3000))


def test_random_subset_as_descent_averages_over_m_examples():
    tx: Any = ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(0.1), descent=ksam_jax.random_subset(3, seed=5)
    )
    w = jnp.ones(N)
    batch = {"value": jnp.zeros(N), "index": jnp.arange(N)}

    @jax.jit
    def step(batch: Any) -> Any:
        return tx.update(None, tx.init(w), w, loss_fn=revealing_loss, batch=batch)

    weights, _ = step(batch)
    np.testing.assert_allclose(jnp.sort(weights), [0] * 4 + [1 / 3] * 3, rtol=1e-6)
