"""Question 2: the perturbations as plain Optax transformations, gradient -> epsilon."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import ksam_jax
from ksam_jax.parts._bits import draw_coordinates, four_draws

RADII = {
    "scale_to_radius": ksam_jax.scale_to_radius(0.3),
    "scale_to_adaptive_radius": ksam_jax.scale_to_adaptive_radius(0.3, eta=0.1),
}


def gradients(dtype: Any = jnp.float32) -> Any:
    rng = np.random.default_rng(1)
    return {
        "w": jnp.asarray(rng.normal(0.1, 2.0, (3, 4)), dtype),
        "b": jnp.asarray(rng.normal(-0.3, 1.0, 5), dtype),
        "s": jnp.asarray(0.7, dtype),
    }


def weights() -> Any:
    rng = np.random.default_rng(2)
    return {
        "w": jnp.asarray(rng.normal(0.4, 1.0, (3, 4)), jnp.float32),
        "b": jnp.asarray(rng.normal(0.0, 1.0, 5), jnp.float32),
        "s": jnp.asarray(-1.4, jnp.float32),
    }


def once(tx: Any, gradient: Any, params: Any = None) -> Any:
    """The first epsilon."""
    params = gradient if params is None else params
    step = jax.jit(lambda g, w: tx.update(g, tx.init(w), w)[0])
    return step(gradient, params)


def several(tx: Any, *gradient_list: Any) -> list[Any]:
    """The epsilons of consecutive steps."""
    params = jax.tree.map(jnp.ones_like, gradient_list[0])

    def step(state: Any, gradient: Any) -> Any:
        epsilon, state = tx.update(gradient, state, params)
        return state, epsilon

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradient_list)
    _, found = lax.scan(step, tx.init(params), stacked)
    return [
        jax.tree.map(lambda leaf, t=t: leaf[t], found) for t in range(len(gradient_list))
    ]


def flat(tree: Any) -> np.ndarray:
    """All coordinates in float64."""
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def length(tree: Any) -> float:
    return float(np.linalg.norm(flat(tree)))


# ------------------------------------------------------------------------ radius


def test_radius_is_rho_over_the_whole_tree_not_per_leaf():
    epsilon = once(ksam_jax.scale_to_radius(0.3), gradients())
    assert length(epsilon) == pytest.approx(0.3, rel=1e-6)
    ratio = flat(epsilon) / flat(gradients())
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    assert ratio[0] > 0


def test_adaptive_radius_is_rho_in_the_metric_of_the_weights():
    epsilon = once(RADII["scale_to_adaptive_radius"], gradients(), weights())
    metric = {name: np.ones(leaf.shape) for name, leaf in weights().items()}
    metric["w"] = np.abs(np.asarray(weights()["w"], np.float64)) + 0.1
    t, g = flat(dict(sorted(metric.items()))), flat(gradients())
    np.testing.assert_allclose(
        flat(epsilon), 0.3 * t**2 * g / np.linalg.norm(t * g), rtol=1e-5
    )


@pytest.mark.parametrize(
    "mask",
    [
        {"w": False, "b": True, "s": True},
        lambda params: {name: leaf.ndim < 2 for name, leaf in params.items()},
    ],
    ids=["a pytree", "a function of params"],
)
def test_adaptive_radius_measures_the_leaves_of_its_mask(mask):
    tx = ksam_jax.scale_to_adaptive_radius(0.3, eta=0.1, mask=mask)
    metric = {name: np.abs(np.asarray(leaf)) + 0.1 for name, leaf in weights().items()}
    metric["w"] = np.ones((3, 4))
    t, g = flat(metric), flat(gradients())
    np.testing.assert_allclose(
        flat(once(tx, gradients(), weights())),
        0.3 * t**2 * g / np.linalg.norm(t * g),
        rtol=1e-5,
    )


def test_adaptive_radius_moves_weights_at_zero_only_with_eta():
    weight, gradient = {"w": jnp.zeros((2, 2))}, {"w": jnp.full((2, 2), -3.0)}
    without = ksam_jax.scale_to_adaptive_radius(0.3, eta=0.0)
    assert length(once(without, gradient, weight)) == 0.0
    # T = 0.1 everywhere: eps = rho T^2 g / ||T g|| has length rho T.
    epsilon = once(RADII["scale_to_adaptive_radius"], gradient, weight)
    assert length(epsilon) == pytest.approx(0.03, rel=1e-5)


@pytest.mark.parametrize("name", RADII)
def test_zero_gradient_gives_zero_epsilon(name):
    zeros = jax.tree.map(jnp.zeros_like, gradients())
    with jax.debug_nans(True):
        epsilon = once(RADII[name], zeros, weights())
    assert flat(epsilon).tolist() == [0.0] * 18


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", RADII)
def test_gradient_that_is_not_finite_gives_zero_epsilon(name, bad):
    gradient = gradients()
    gradient["w"] = gradient["w"].at[1, 2].set(bad)
    epsilon = once(RADII[name], gradient, weights())
    assert flat(epsilon).tolist() == [0.0] * 18


@pytest.mark.parametrize("name", RADII)
def test_a_bad_gradient_does_not_change_later_steps(name):
    bad = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), gradients())
    _, after = several(RADII[name], bad, gradients())
    assert np.isfinite(flat(after)).all()
    assert length(after) > 0


@pytest.mark.parametrize("scale", [1e-5, 3e3], ids=["underflow", "overflow"])
def test_radius_of_float16_gradients_whose_squares_leave_float16(scale):
    gradient = {"w": jnp.asarray([3.0, -4.0], jnp.float16) * jnp.float16(scale)}
    assert float(gradient["w"][0]) ** 2 not in (0.0, math.inf)
    epsilon = once(ksam_jax.scale_to_radius(0.3), gradient)
    np.testing.assert_allclose(flat(epsilon), [0.18, -0.24], rtol=2e-2)


def test_radius_of_many_bfloat16_coordinates_is_accumulated_in_float32():
    # A sum of ones stops at 256 in bfloat16.
    gradient = {"w": jnp.ones((64, 100), jnp.bfloat16)}
    epsilon = once(ksam_jax.scale_to_radius(0.4), gradient)
    np.testing.assert_allclose(flat(epsilon), 0.4 / 80.0, rtol=1e-2)


def test_radius_of_leaves_of_different_dtypes_is_joint():
    gradient = {
        "a": jnp.asarray([2.0], jnp.bfloat16),
        "b": jnp.asarray([3.0], jnp.float16),
        "c": jnp.asarray([6.0], jnp.float32),
    }
    epsilon = once(ksam_jax.scale_to_radius(0.7), gradient)
    np.testing.assert_allclose(flat(epsilon), [0.2, 0.3, 0.6], rtol=1e-2)


def test_complex_leaves_count_by_their_modulus():
    gradient = {"z": jnp.asarray([3.0 + 4.0j], jnp.complex64), "x": jnp.asarray([12.0])}
    epsilon = once(ksam_jax.scale_to_radius(1.3), gradient)
    np.testing.assert_allclose(epsilon["z"], [0.3 + 0.4j], rtol=1e-5)
    np.testing.assert_allclose(epsilon["x"], [1.2], rtol=1e-5)


def test_adaptive_radius_measures_a_complex_weight_by_its_modulus():
    weight = {"z": jnp.asarray([[3.0 + 4.0j, 0.0]], jnp.complex64)}
    gradient = {"z": jnp.asarray([[0.0 + 1.0j, 0.0]], jnp.complex64)}
    # T = 6 where the gradient isn't zero: eps = rho 36 i / 6.
    tx = ksam_jax.scale_to_adaptive_radius(0.5, eta=1.0)
    np.testing.assert_allclose(once(tx, gradient, weight)["z"], [[3.0j, 0]], rtol=1e-5)


def test_frozen_leaves_of_optax_masked_do_not_enter_the_norm():
    tx = optax.masked(ksam_jax.scale_to_radius(0.3), {"w": False, "b": True, "s": False})
    epsilon = once(tx, gradients())
    assert length(epsilon["b"]) == pytest.approx(0.3, rel=1e-6)


@pytest.mark.parametrize(
    "radius", [ksam_jax.scale_to_radius, ksam_jax.scale_to_adaptive_radius]
)
def test_rho_schedule_advances_with_every_step(radius):
    schedule = optax.polynomial_schedule(0.1, 1.0, power=2, transition_steps=3)
    vector = {"v": jnp.asarray([3.0, -4.0])}
    found = several(radius(schedule), vector, vector, vector, vector)
    lengths = [length(epsilon) for epsilon in found]
    np.testing.assert_allclose(lengths, [0.1, 0.6, 0.9, 1.0], rtol=1e-5)


def test_rho_schedule_advances_under_scan_and_counts_bad_gradients_as_steps():
    tx = ksam_jax.scale_to_radius(optax.linear_schedule(0.1, 0.5, 4))
    rows = jnp.asarray([[3.0, -4.0], [jnp.nan, 0.0], [1.0, 1.0], [0.0, 2.0]])

    def step(state: Any, row: jax.Array) -> Any:
        epsilon, state = tx.update(row, state)
        return state, jnp.linalg.norm(epsilon)

    _, lengths = lax.scan(step, tx.init(rows[0]), rows)
    np.testing.assert_allclose(lengths, [0.1, 0.0, 0.3, 0.4], rtol=1e-5)


@pytest.mark.parametrize(
    "radius", [ksam_jax.scale_to_radius, ksam_jax.scale_to_adaptive_radius]
)
def test_rho_may_be_traced_and_vmapped(radius):
    vector = {"v": jnp.asarray([3.0, -4.0, 1.0])}
    rhos = jnp.asarray([0.0, 0.05, 0.7])
    epsilons = jax.jit(jax.vmap(lambda rho: once(radius(rho), vector)["v"]))(rhos)
    np.testing.assert_allclose(jnp.linalg.norm(epsilons, axis=1), rhos, rtol=1e-5)


def test_eta_may_be_traced_and_vmapped():
    weight, gradient = {"w": jnp.zeros((1, 2))}, {"w": jnp.asarray([[3.0, -4.0]])}

    def reach(eta: jax.Array) -> jax.Array:
        tx = ksam_jax.scale_to_adaptive_radius(0.5, eta=eta)
        return jnp.linalg.norm(once(tx, gradient, weight)["w"])

    found = jax.vmap(reach)(jnp.asarray([0.1, 2.0]))
    np.testing.assert_allclose(found, [0.05, 1.0], rtol=1e-5)


HYPERPARAMETERS = {
    "rho": lambda value: ksam_jax.scale_to_radius(value),
    "adaptive rho": lambda value: ksam_jax.scale_to_adaptive_radius(value),
    "eta": lambda value: ksam_jax.scale_to_adaptive_radius(0.3, eta=value),
    "sigma": lambda value: ksam_jax.subtract_ema(sigma=value),
    "decay": lambda value: ksam_jax.subtract_ema(decay=value),
    "beta": lambda value: ksam_jax.random_mask(value),
    "beta by tensor": lambda value: ksam_jax.random_mask(value, per="tensor"),
}


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_hyperparameter_may_be_any_kind_of_number(name):
    make, g = HYPERPARAMETERS[name], jnp.asarray([[3.0, -4.0]])
    whole = 0 if name == "decay" else 1
    same = {
        float(whole): [whole],
        0.5: [np.float64(0.5), np.asarray(0.5), jnp.asarray(0.5, jnp.bfloat16)],
    }
    for plain, others in same.items():
        expected = several(make(plain), g, 2 * g)
        for value in others:
            found = several(make(value), g, 2 * g)
            np.testing.assert_allclose(np.stack(found), np.stack(expected), rtol=1e-6)
            assert found[1].dtype == jnp.float32


# ------------------------------------------------------------------- subtract_ema


def test_ema_is_of_the_raw_gradient_not_of_the_subtracted_one():
    g = [jnp.asarray(row) for row in ([2.0, -1.0], [4.0, 3.0], [-2.0, 5.0], [1.0, 1.0])]
    found = several(ksam_jax.subtract_ema(sigma=0.5, decay=0.75), *g)
    # m: (2, -1), then (2.5, 0), then (1.375, 1.25).
    expected = [[2.0, -1.0], [3.0, 3.5], [-3.25, 5.0], [0.3125, 0.375]]
    np.testing.assert_allclose(np.stack(found), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_constant_gradient_is_an_exact_fixed_point(dtype):
    tx = optax.chain(ksam_jax.subtract_ema(decay=0.9), ksam_jax.scale_to_radius(0.3))
    gradient = gradients(dtype)
    first, *later = several(tx, *[gradient] * 12)
    assert length(first) == pytest.approx(0.3, rel=1e-2)
    assert [length(epsilon) for epsilon in later] == [0.0] * 11


@pytest.mark.parametrize("decay", [0.6, 0.9, 0.95])
def test_gradient_that_differs_by_rounding_counts_as_constant(decay):
    tx = optax.chain(ksam_jax.subtract_ema(decay=decay), ksam_jax.scale_to_radius(0.3))
    g, two_units = gradients(), 2 * jnp.finfo(jnp.float32).eps
    other = jax.tree.map(lambda leaf: leaf * (1 + two_units), g)
    found = several(tx, g, other, g, g, other, other, g)
    assert [length(epsilon) for epsilon in found[1:]] == [0.0] * 6


def test_a_real_difference_is_not_taken_for_rounding():
    tx = optax.chain(ksam_jax.subtract_ema(decay=0.9), ksam_jax.scale_to_radius(0.3))
    g = jnp.asarray([1.0, -2.0])
    _, second = several(tx, g, g + jnp.asarray([1e-4, 0.0]))
    np.testing.assert_allclose(second, [0.3, 0.0], atol=2e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_gradient_leaves_the_ema_untouched(bad):
    tx = ksam_jax.subtract_ema(sigma=0.5, decay=0.75)
    a, b = jnp.asarray([2.0, -1.0]), jnp.asarray([4.0, 3.0])
    broken = jnp.asarray([bad, 1.0])
    found = several(tx, a, broken, b, broken, b)
    clean = several(tx, a, b, b)
    np.testing.assert_array_equal(found[2], clean[1])
    np.testing.assert_array_equal(found[4], clean[2])


def test_ema_starts_at_the_first_finite_gradient():
    tx = ksam_jax.subtract_ema(sigma=1.0, decay=0.75)
    g = jnp.asarray([2.0, -1.0])
    found = several(tx, jnp.asarray([jnp.nan, 1.0]), g, g * 3)
    np.testing.assert_array_equal(found[1], g)
    np.testing.assert_array_equal(found[2], g * 2)


def test_bad_gradient_behind_the_radius_gives_zero_epsilon():
    tx = optax.chain(ksam_jax.subtract_ema(), ksam_jax.scale_to_radius(0.3))
    g = jnp.asarray([2.0, -1.0])
    found = several(tx, g, jnp.asarray([jnp.nan, 1.0]), g * 2)
    assert length(found[1]) == 0.0
    assert length(found[2]) == pytest.approx(0.3, rel=1e-5)


def test_ema_of_bfloat16_gradients_is_kept_in_float32():
    g = jnp.asarray([1.0, 1.0], jnp.bfloat16)
    step = jnp.asarray([0.0, 0.25], jnp.bfloat16)
    found = several(ksam_jax.subtract_ema(decay=0.99), g, g + step, g + step)
    # m_1 = 1 + 0.01 * 0.25: in bfloat16 it would still be 1.
    assert float(found[2][1]) == pytest.approx(0.2475, rel=1e-5)


def test_sigma_and_decay_may_be_vmapped():
    g = [jnp.asarray([2.0]), jnp.asarray([4.0]), jnp.asarray([8.0])]

    def third(sigma: jax.Array, decay: jax.Array) -> jax.Array:
        return several(ksam_jax.subtract_ema(sigma=sigma, decay=decay), *g)[2][0]

    found = jax.vmap(third)(jnp.asarray([1.0, 0.5]), jnp.asarray([0.5, 0.25]))
    np.testing.assert_allclose(found, [8.0 - 3.0, 8.0 - 0.5 * 3.5], rtol=1e-6)


def test_decay_zero_subtracts_the_previous_gradient():
    g = [jnp.asarray([2.0]), jnp.asarray([5.0]), jnp.asarray([4.0])]
    found = several(ksam_jax.subtract_ema(sigma=1.0, decay=0.0), *g)
    np.testing.assert_allclose(np.concatenate(found), [2.0, 3.0, -1.0], rtol=1e-6)


# -------------------------------------------------------------------- random_mask


def ones() -> Any:
    return {"a": jnp.ones((40, 50)), "b": jnp.ones(1500), "c": jnp.ones(())}


@functools.cache
def compiled_draws(steps: int, per: str) -> Any:
    def draw(beta: Any, seed: Any) -> Any:
        tx = ksam_jax.random_mask(beta, seed=seed, per=per)

        def step(state: Any, _: None) -> Any:
            masked, state = tx.update(ones(), state)
            return state, masked

        return lax.scan(step, tx.init(ones()), length=steps)[1]

    return jax.jit(draw)


def draws(beta: float, seed: int = 0, per: str = "coordinate", steps: int = 20) -> Any:
    """The masks of the first steps, stacked, seen on a tree of ones."""
    return compiled_draws(steps, per)(beta, seed)


@pytest.mark.parametrize("per", ["coordinate", "tensor"])
@pytest.mark.parametrize("beta", [0.3, 0.6])
def test_mask_is_exactly_zero_or_one_over_beta(beta, per):
    values = np.concatenate([np.ravel(leaf) for leaf in draws(beta, per=per).values()])
    assert set(values.tolist()) == {0.0, float(np.float32(1.0) / np.float32(beta))}


@pytest.mark.parametrize("per", ["coordinate", "tensor"])
def test_beta_one_keeps_everything_as_it_is(per):
    tx = ksam_jax.random_mask(1.0, per=per)
    for epsilon in several(tx, gradients(), gradients()):
        np.testing.assert_array_equal(flat(epsilon), flat(gradients()))


def test_mask_by_coordinate_is_unbiased():
    masks = draws(0.3, seed=5)
    # 4 standard errors of a mean of 40,000 and 30,000 Bernoulli draws over beta.
    for name in ("a", "b"):
        error = math.sqrt(0.7 / 0.3 / masks[name].size)
        assert abs(float(masks[name].mean()) - 1.0) < 4 * error


BETAS = [0.6, 1 / 3, 1 / 256, 3 / 512, 0.999, 2.0**-16, 1.0]


def threshold_of(beta: float) -> int:
    """Of 2**16 equally likely numbers so many are kept."""
    return max(1, round(float(np.float32(beta)) * 2**16))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("own", range(4))
def test_each_draw_of_a_word_has_the_probability_whatever_two_others_are(own, beta):
    """Counted: its own byte and one more take all values, and two stay as they are."""
    other = (own + 1) % 4
    pair = np.arange(2**16, dtype=np.uint32)
    words = np.full(2**16, 0x5A17C3E8, np.uint32)
    for place, byte in ((own, pair >> 8), (other, pair & 0xFF)):
        shift = np.uint32(24 - 8 * place)
        words = words & ~(np.uint32(0xFF) << shift) | (byte << shift)
    kept = four_draws(jnp.asarray(words), jnp.float32(beta))[own]
    assert int(kept.sum()) == threshold_of(beta)


@pytest.mark.parametrize("beta", [0.6, 1 / 3, 0.999])
def test_two_draws_of_a_word_are_independent_to_within_two_to_the_minus_16(beta):
    """Counted over all values of three bytes."""
    words = jnp.arange(2**24, dtype=jnp.uint32) | jnp.uint32(0xA7000000)
    _, *kept = four_draws(words, jnp.float32(beta))
    probability = threshold_of(beta) / 2**16
    for a, b in ((0, 1), (0, 2), (1, 2)):
        both = int((kept[a] & kept[b]).sum()) / 2**24
        assert abs(both - probability**2) < 2.0**-16


@pytest.mark.parametrize(
    "shapes",
    [[], [()], [(1,), ()], [(7,), (3, 5), (7,)], [(4, 0), (0,)], [(5, 513, 53), (2,)]],
)
def test_draws_fill_any_shapes(shapes):
    kept = draw_coordinates(jax.random.key(0), jnp.float32(1.0), shapes)
    assert [leaf.shape for leaf in kept] == shapes
    assert all(bool(leaf.all()) for leaf in kept)


def test_no_draw_depends_on_another_of_the_same_or_another_shape():
    # Four of one size, so that the same place of each comes out of the same word; and two
    # that are drawn by themselves.
    shapes = [(100, 41), (4100,), (512, 257), (100, 41), (41, 100), (512, 257)]
    kept = draw_coordinates(jax.random.key(2), jnp.float32(0.5), shapes)
    signs = np.stack([2.0 * np.ravel(leaf)[:4100] - 1.0 for leaf in kept])
    # 4 standard errors, of means of 4,100 signs and of products of two.
    among = signs @ signs.T / 4100 - np.eye(6)
    assert np.abs(np.append(among, signs.mean(1))).max() < 4 / math.sqrt(4100)


def test_small_leaves_share_one_draw_and_a_large_one_has_its_own():
    def draws_of(leaves: list[jax.Array]) -> int:
        tx = ksam_jax.random_mask(0.5)
        return str(jax.make_jaxpr(tx.update)(leaves, tx.init(leaves))).count("random_bits")

    small, large = jnp.ones((3, 8)), jnp.ones((512, 257))
    assert draws_of([small] * 2) == draws_of([small] * 20) == 1
    assert draws_of([small, large, small, large]) == 3


def test_mask_by_tensor_is_unbiased_and_treats_leaves_independently():
    masks = draws(0.6, seed=5, per="tensor", steps=600)
    kept = [leaf.reshape(600, -1)[:, 0] > 0 for leaf in masks.values()]
    for row in kept:
        assert float(row.mean()) == pytest.approx(0.6, abs=4 * math.sqrt(0.24 / 600))
    both = float((kept[0] & kept[1]).mean())
    assert both == pytest.approx(0.36, abs=4 * math.sqrt(0.23 / 600))


def test_mask_by_tensor_keeps_or_drops_whole_leaves():
    for leaf in draws(0.6, per="tensor").values():
        rows = np.asarray(leaf).reshape(20, -1)
        np.testing.assert_array_equal(rows, np.broadcast_to(rows[:, :1], rows.shape))


def test_mask_differs_between_steps_leaves_and_seeds():
    masks = draws(0.5, seed=3)
    assert not np.array_equal(masks["a"][0], masks["a"][1])
    assert not np.array_equal(masks["a"].reshape(20, -1)[:, :1500], masks["b"])
    assert not np.array_equal(masks["a"], draws(0.5, seed=4)["a"])


def test_mask_depends_on_seed_and_step_alone_under_scan_or_not():
    tx: Any = ksam_jax.random_mask(0.5, seed=3)
    state, masks = tx.init(ones()), draws(0.5, seed=3)
    for t in range(3):
        masked, state = tx.update(ones(), state)
        for name, leaf in masked.items():
            np.testing.assert_array_equal(leaf, masks[name][t])


def test_mask_scales_what_it_keeps_and_drops_nan_with_the_rest():
    """Dropping is a choice, not a product: 0 * NaN would be NaN."""
    tx, nan = ksam_jax.random_mask(0.5, seed=1), jnp.full(200, jnp.nan)
    kept = np.isnan(once(tx, nan))
    assert 0 < kept.sum() < 200
    g = jnp.asarray(np.random.default_rng(0).normal(0.2, 1.0, 200), jnp.float32)
    np.testing.assert_allclose(once(tx, g), np.where(kept, 2 * g, 0.0), rtol=1e-6)


def test_mask_state_holds_plain_arrays_only():
    state = ksam_jax.random_mask(0.5, seed=3).init(ones())
    for leaf in jax.tree.leaves(state):
        assert not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def test_mask_beta_may_be_traced_and_vmapped():
    found = jax.vmap(lambda beta: once(ksam_jax.random_mask(beta), jnp.ones(3000)))(
        jnp.asarray([0.2, 0.5, 1.0])
    )
    np.testing.assert_allclose((found > 0).mean(1), [0.2, 0.5, 1.0], atol=0.04)
    np.testing.assert_allclose(found.max(1), [5.0, 2.0, 1.0], rtol=1e-6)


def test_mask_seed_may_be_traced_and_vmapped():
    def masked(seed: Any) -> jax.Array:
        return once(ksam_jax.random_mask(0.5, seed=seed), jnp.ones(200))

    found = jax.vmap(masked)(jnp.asarray([0, 1, 7]))
    assert len({tuple(row) for row in np.asarray(found).tolist()}) == 3
    np.testing.assert_array_equal(found[2], masked(7))


# ----------------------------------------- what a whole method does with epsilon

# The loss |w|^2 / 2 in every leaf: its gradient is w, so a descent gradient minus the
# weights is epsilon.
METHODS: Any = {
    "sam": ksam_jax.sam,
    "asam": ksam_jax.asam,
    "random_sam": ksam_jax.random_sam,
    "k_sam": functools.partial(ksam_jax.k_sam, k=0.25, mean_over="chosen"),
    "esam": functools.partial(ksam_jax.esam, mean_over="chosen"),
    "f_sam": ksam_jax.f_sam,
}


def revealed_epsilon(tx: Any, params: Any, updates: Any = None) -> Any:
    """The perturbation of the first step, and its info."""

    def loss_fn(w: Any, batch: Any) -> jax.Array:
        squares = [jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(w)]
        return jnp.stack(squares).sum().astype(jnp.float32) / 2 + batch

    @jax.jit
    def step(w: Any) -> Any:
        descent, state = tx.update(
            updates, tx.init(w), w, loss_fn=loss_fn, batch=jnp.zeros(5)
        )
        return jax.tree.map(jnp.subtract, descent, w), ksam_jax.get_info(state)

    return step(params)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_perturbs_only_what_its_mask_names(name):
    mask = {"w": True, "b": False, "s": True}
    epsilon, info = revealed_epsilon(METHODS[name](0.3, mask=mask), weights())
    assert epsilon["b"].tolist() == [0.0] * 5
    assert jnp.abs(epsilon["w"]).max() > 0
    assert float(info.perturbation_norm) == pytest.approx(length(epsilon), rel=1e-5)
    kept = {name: leaf for name, leaf in weights().items() if name != "b"}
    assert float(info.ascent_norm) == pytest.approx(length(kept), rel=1e-5)


@pytest.mark.parametrize(
    "mask",
    [
        {"w": True, "b": False, "s": False},
        {"w": np.True_, "b": np.False_, "s": np.False_},
        lambda params: {name: leaf.ndim > 1 for name, leaf in params.items()},
    ],
    ids=["a pytree", "NumPy bools", "a function of params"],
)
def test_masked_radius_is_rho_over_the_perturbed_leaves(mask):
    epsilon, _ = revealed_epsilon(ksam_jax.sam(0.3, mask=mask), weights())
    w = np.asarray(weights()["w"])
    np.testing.assert_allclose(
        epsilon["w"], 0.3 * w / np.linalg.norm(w), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    "rho", [0.3, optax.constant_schedule(0.3)], ids=["a number", "a schedule"]
)
def test_esam_by_tensor_has_radius_rho_over_beta_whatever_is_dropped(rho):
    def norm(seed: Any) -> Any:
        whole: Any = {"mask_per": "tensor", "mean_over": "chosen"}
        tx = ksam_jax.esam(rho, beta=0.5, seed=seed, **whole)
        epsilon, info = revealed_epsilon(tx, weights())
        kept = jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(epsilon)])
        return info.perturbation_norm, kept

    norms, kept = jax.vmap(norm)(jnp.arange(20))
    expected = np.where(kept.any(1), 0.6, 0.0)
    np.testing.assert_allclose(norms, expected, rtol=1e-5, atol=1e-6)
    assert len({tuple(row) for row in kept.tolist()}) > 4


@pytest.mark.parametrize("mask", [False, lambda params: False])
def test_mask_that_names_nothing_is_refused(mask: Any):
    with pytest.raises(ValueError, match=r"sam\(mask=.*at least one parameter"):
        ksam_jax.sam(0.3, mask=mask).init(weights())


@pytest.mark.parametrize("static", [(), ("mask",)])
def test_a_function_as_mask_under_inject_hyperparams_is_not_taken_for_a_schedule(static):
    """Optax calls every other function that isn't named as static with the step count."""

    def only_axes(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 0, params)

    injected = optax.inject_hyperparams(ksam_jax.sam, static_args=static)
    epsilon, info = revealed_epsilon(injected(rho=0.3, mask=only_axes), weights())
    assert float(info.perturbation_norm) == pytest.approx(0.3, rel=1e-5)
    assert float(epsilon["s"]) == 0.0


def test_a_module_that_can_be_called_is_a_mask_if_its_leaves_are_bools():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Callable:
        w: Any
        b: Any

        def __call__(self, x: Any) -> Any:
            return self.w @ x

    params: Any = Callable(jnp.array([1.0, 2.0]), jnp.array(3.0))
    gradient = Callable(jnp.array([3.0, 4.0]), jnp.array(7.0))
    tx: Any = ksam_jax.sam(0.5, mask=Callable(True, False))

    def loss(p: Any, batch: Any) -> Any:
        return batch * (gradient.w @ p.w + gradient.b * p.b)

    _, state = tx.update(None, tx.init(params), params, loss_fn=loss, batch=jnp.ones(2))
    assert float(ksam_jax.get_info(state).sharpness) == pytest.approx(2.5, rel=1e-5)


def test_a_bfloat16_leaf_is_no_excuse_to_drop_small_changes_of_the_others():
    climb: Any = ksam_jax.subtract_ema()
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1, jnp.bfloat16)}
    state = climb.init(params)
    _, state = climb.update({**params, "a": jnp.array([1.0, 0.0])}, state)
    rest, _ = climb.update({**params, "a": jnp.array([1.0, 0.005])}, state)
    np.testing.assert_allclose(rest["a"], [0.0, 0.005], rtol=1e-6)


def test_small_radius_survives_bfloat16_weights_with_perturbed_dtype():
    """One step from 1 in bfloat16 is 1/128, so 0.002 per weight rounds away."""
    weight = {"w": jnp.ones(100, jnp.bfloat16)}
    lost, info_lost = revealed_epsilon(ksam_jax.sam(0.02), weight)
    tx = ksam_jax.sam(0.02, perturbed_dtype=jnp.float32)
    kept, info_kept = revealed_epsilon(tx, weight)
    assert float(info_lost.perturbation_norm) == 0.0
    assert float(info_kept.perturbation_norm) == pytest.approx(0.02, rel=1e-4)
    assert lost["w"].dtype == kept["w"].dtype == jnp.bfloat16


def test_climb_of_complex_weights_raises_the_loss():
    weight = {"z": jnp.asarray([1.0 + 2.0j, -0.5 + 0.3j], jnp.complex64)}
    _, info = revealed_epsilon(ksam_jax.sam(0.3), weight)
    radius = math.sqrt(5.34)
    assert float(info.perturbed_loss) == pytest.approx((radius + 0.3) ** 2 / 2, rel=1e-5)


def test_numpy_weights_are_weights():
    weight = {"w": np.asarray([3.0, -4.0], np.float32)}
    for method in METHODS.values():
        tx = method(0.3)
        gradient, _ = tx.update(
            None,
            tx.init(weight),
            weight,
            loss_fn=lambda w, batch: batch * jnp.sum(w["w"] ** 2) / 2,
            batch=np.ones(5, np.float32),
        )
        assert np.isfinite(gradient["w"]).all()


def test_numpy_gradient_can_be_handed_in():
    weight = {"w": jnp.asarray([3.0, -4.0])}
    given = {"w": np.asarray([3.0, -4.0], np.float32)}
    epsilon, _ = revealed_epsilon(ksam_jax.sam(0.5), weight, given)
    np.testing.assert_allclose(epsilon["w"], [0.3, -0.4], rtol=1e-5)
