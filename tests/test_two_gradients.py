"""What GSAM and LookSAM make of two gradients, against sums in NumPy."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    abstract,
    assert_close,
    assert_same,
    batched,
    is_finite,
    is_zero,
    mlp,
    mlp_batch,
    mlp_loss,
    quick_jit,
    stacked,
    updater,
)
from turns import (
    RATE,
    RHO,
    STEPS,
    WEIGHTS,
    Numbers,
    as_batch,
    as_tree,
    batches,
    flat,
    in_float32,
    loss_fn,
    moved,
    numbers,
    rising,
    walk,
)
from turns import float32 as float32
from turns import float64 as float64

import ksam_jax

# ------------------------------------------------------------------ GSAM and LookSAM


def without(x: np.ndarray, along: np.ndarray) -> np.ndarray:
    """What is left of x without its part along another vector."""
    return x - (x @ along) / (along @ along) * along


@pytest.mark.parametrize("alpha", [0.2, 1.5])
def test_gsam_is_its_formula(alpha):
    w = WEIGHTS
    tx = ksam_jax.gsam(RHO, alpha)
    found = walk(quick_jit(updater(tx, loss_fn)), tx.init(as_tree(w)), batches(3))
    for t, (updates, info, _, _) in enumerate(found):
        g, h = numbers(t).gradient(w), numbers(t).sam(w)
        rest = without(g, h)
        assert np.linalg.norm(rest) > 0.03 * np.linalg.norm(g)
        np.testing.assert_allclose(flat(updates), h - alpha * rest, rtol=1e-11)
        # What it says is of the gradients that were combined.
        cosine = g @ h / np.linalg.norm(g) / np.linalg.norm(h)
        assert float(info.cosine) == pytest.approx(cosine, rel=1e-12)
        w = w - RATE * (h - alpha * rest)


def look_by_hand(
    alpha: float, period: int, steps: int = STEPS, batch: Callable[[int], Numbers] = numbers
) -> list[np.ndarray]:
    w, v, found = WEIGHTS, np.zeros(4), []
    for t in range(steps):
        g, h = batch(t).gradient(w), batch(t).sam(w)
        if t % period == 0:
            u, v = h, without(h, g)
        else:
            u = g + alpha * np.linalg.norm(g) / np.linalg.norm(v) * v
        found.append(u)
        w = w - RATE * u
    return found


@pytest.mark.parametrize("alpha", [0.7, 0.1])
def test_look_sam_is_its_formula_over_seven_steps(alpha):
    tx = ksam_jax.look_sam(RHO, alpha, period=3)
    params = as_tree(WEIGHTS)
    found = walk(quick_jit(updater(tx, loss_fn)), tx.init(params), batches())
    expected = look_by_hand(alpha, 3)
    np.testing.assert_allclose([flat(s[0]) for s in found], expected, rtol=1e-10)
    radii = [float(s[1].perturbation_norm) for s in found]
    np.testing.assert_allclose(radii, [RHO, 0, 0, RHO, 0, 0, RHO], rtol=1e-12)
    # What is remembered is that of the last SAM step, and orthogonal to its gradient.
    kept, at_that_time = found[-1][2].shared["combine"].part, found[-1][3]
    g = numbers(6).gradient(flat(at_that_time))
    np.testing.assert_allclose(flat(kept), without(expected[-1], g), rtol=1e-9, atol=1e-12)


def test_look_sam_s_period_may_be_traced():
    """Also mapped over, which other counts of `every` do by themselves."""

    traces = []

    def run(period: Any) -> Any:
        traces.append(1)
        tx: Any = ksam_jax.look_sam(RHO, 0.7, period)
        params, step = as_tree(WEIGHTS), updater(tx, loss_fn)

        def body(carry: Any, batch: Any) -> Any:
            updates, state = step(carry[1], carry[0], batch)
            return (moved(carry[0], updates), state), updates

        return jax.lax.scan(body, (params, tx.init(params)), stacked(batches()))[1]

    periods = jnp.array([1, 3, 9])
    mapped, traced = quick_jit(jax.vmap(run))(periods), quick_jit(run)
    for i, period in enumerate((1, 3, 9)):
        expected = look_by_hand(0.7, period)
        own = jax.tree.map(lambda x, i=i: x[i], mapped)
        for found in (own, traced(periods[i])):
            steps = [flat(jax.tree.map(lambda x, t=t: x[t], found)) for t in range(STEPS)]
            np.testing.assert_allclose(steps, expected, rtol=1e-10)
    assert len(traces) == 2  # The mapped one, and the other.


def test_look_sam_s_radius_counts_its_sam_steps():
    tx = ksam_jax.look_sam(rising, 0.7, period=3)
    found = walk(quick_jit(updater(tx, loss_fn)), tx.init(as_tree(WEIGHTS)), batches())
    radii = [float(s[1].perturbation_norm) for s in found]
    np.testing.assert_allclose(radii, [0.1, 0, 0, 0.2, 0, 0, 0.3], rtol=1e-12)


DEGENERATE = {
    "GSAM without its weight is SAM": (lambda: ksam_jax.gsam(RHO, 0.0), 1),
    "LookSAM in every step is SAM": (lambda: ksam_jax.look_sam(RHO, 0.7, period=1), 1),
    "LookSAM without its weight is SAM now and then": (
        lambda: ksam_jax.look_sam(RHO, 0.0, period=3),
        3,
    ),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_a_degenerate_method_is_the_known_one(name):
    make, period = DEGENERATE[name]
    tx, known = make(), ksam_jax.every(period, ksam_jax.sam(RHO))
    params, runs = as_tree(WEIGHTS), []
    for method in (tx, known):
        update = quick_jit(updater(method, loss_fn))
        runs.append(walk(update, method.init(params), batches(4)))
    steps = [[s[:2] for s in run] for run in runs]
    assert_close(steps[0], steps[1], 1e-12, 1e-12)
    for t, (updates, _, _, params) in enumerate(runs[0]):
        w = flat(params)
        expected = numbers(t).sam(w) if t % period == 0 else numbers(t).gradient(w)
        np.testing.assert_allclose(flat(updates), expected, rtol=1e-12)


def test_orthogonal_gradients_are_as_the_formula_says():
    """The curvature turns (1, 1) into (2, 0): a part to subtract that is known by heart."""
    batch = {"a": jnp.ones((1, 2)), "c": jnp.array([[1.0, -1.0]])}

    def of_two(w: Any, batch: Any) -> Any:
        return batch["a"] @ w + batch["c"] @ (w * w) / 2

    w, rho = jnp.zeros(2), np.sqrt(2.0)
    tx: Any = ksam_jax.gsam(rho, 0.5)
    updates, _ = tx.update(None, tx.init(w), w, loss_fn=of_two, batch=batch)
    np.testing.assert_allclose(updates, [2.0, -0.5], rtol=1e-12)
    look: Any = ksam_jax.look_sam(rho, 0.5, period=2)
    state = look.init(w)
    first, state = look.update(None, state, w, loss_fn=of_two, batch=batch)
    second, _ = look.update(None, state, w, loss_fn=of_two, batch=batch)
    np.testing.assert_allclose(first, [2.0, 0.0], rtol=1e-12, atol=1e-12)
    # v = (1, -1), as long as g = (1, 1).
    np.testing.assert_allclose(second, [1.5, 0.5], rtol=1e-12)


def test_a_mask_climbs_by_part_and_combines_over_all():
    mask = {"u": False, "v": True}
    g = numbers(0).gradient(WEIGHTS)
    climb = np.where([False, True, True, True], g, 0)
    h = numbers(0).gradient(WEIGHTS + RHO * climb / np.linalg.norm(climb))
    params = as_tree(WEIGHTS)
    tx = ksam_jax.gsam(RHO, 0.5, mask=mask)
    updates, _ = updater(tx, loss_fn)(tx.init(params), params, batches(1)[0])
    np.testing.assert_allclose(flat(updates), h - 0.5 * without(g, h), rtol=1e-12)
    look = ksam_jax.look_sam(RHO, 0.5, period=2, mask=mask)
    _, state = updater(look, loss_fn)(look.init(params), params, batches(1)[0])
    kept = state.shared["combine"].part
    np.testing.assert_allclose(flat(kept), without(h, g), rtol=1e-11, atol=1e-13)


COMBINING = {
    "gsam": lambda: ksam_jax.gsam(RHO, 0.5),
    "look_sam": lambda: ksam_jax.look_sam(RHO, 0.5, period=2),
}


@functools.cache
def combining(name: str) -> Any:
    tx = COMBINING[name]()
    return tx, quick_jit(updater(tx, loss_fn))


@pytest.mark.parametrize("name", COMBINING)
def test_a_zero_gradient_is_a_zero_step_and_the_next_is_sound(name):
    tx, update = combining(name)
    params, zero = as_tree(WEIGHTS), jax.tree.map(jnp.zeros_like, batches(1)[0])
    state = tx.init(params)
    for _ in range(3):
        updates, state = update(state, params, zero)
        assert is_zero(updates)
        assert is_finite(state)
    if name == "look_sam":
        # A plain step without a past: the gradient itself.
        updates, state = update(state, params, batches(1)[0])
        np.testing.assert_allclose(flat(updates), numbers(0).gradient(WEIGHTS), rtol=1e-12)
    updates, _ = update(state, params, batches(1)[0])
    expected = numbers(0).sam(WEIGHTS)
    if name == "gsam":
        expected = expected - 0.5 * without(numbers(0).gradient(WEIGHTS), expected)
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", COMBINING)
def test_what_isnt_finite_in_one_coordinate_stays_in_that_one(name, bad):
    """And the step elsewhere is the plain gradient's: there was no climb."""
    tx, update = combining(name)
    params, good = as_tree(WEIGHTS), batches(1)[0]
    spoilt = good | {"a": good["a"].at[2, 1].set(bad)}
    state, steps = tx.init(params), 1 if name == "gsam" else 2
    for t in range(2 * steps):
        # Of LookSAM the steps 2 and 3: with something that it remembers.
        updates, after = update(state, params, good if t < steps else spoilt)
        if t >= steps:
            expected = numbers(0).gradient(WEIGHTS)
            keep = [0, 2, 3]
            np.testing.assert_allclose(flat(updates)[keep], expected[keep], rtol=1e-12)
            assert not np.isfinite(flat(updates)[1])
            if name == "look_sam":
                assert_same(after.shared, state.shared)
        state = after
    assert is_finite(jax.tree.leaves(state.shared if name == "look_sam" else ()))
    expected, _ = update(state._replace(info=tx.init(params).info), params, good)
    assert is_finite(expected)


def test_a_bad_step_is_not_remembered_by_look_sam():
    """Wherever it comes: the steps after it are those of a run without it."""
    tx, update = combining("look_sam")
    params, good = as_tree(WEIGHTS), batches(2)
    bad = jax.tree.map(lambda x: x * jnp.nan, good[0])
    _, first = update(tx.init(params), params, good[0])
    expected, _ = update(first, params, good[1])
    # A plain step and a SAM step, neither of which is finite.
    state = first
    for _ in range(2):
        updates, state = update(state, params, bad)
        assert not is_finite(updates)
    found, _ = update(state, params, good[1])
    assert_same(found, expected)


@pytest.mark.parametrize("which", ["descent", "ascent", "both"])
def test_a_combine_that_sees_a_bad_gradient_keeps_the_other(which):
    """The parts by themselves, where only one of the two gradients is bad."""
    good = {"d": np.array([2.0, 1.0, -1.0]), "a": np.array([1.0, 0.5, 3.0])}
    spoilt = np.array([np.nan, 1.0, np.inf])
    d = jnp.asarray(spoilt if which != "ascent" else good["d"])
    a = jnp.asarray(spoilt if which != "descent" else good["a"])
    keep = ~np.isnan(spoilt) & np.isfinite(spoilt) if which != "ascent" else slice(None)
    gap: Any = ksam_jax.subtract_orthogonal(0.5)
    found, _ = gap.update(d, gap.init(d), ascent_gradient=a)
    assert np.isfinite(np.asarray(found)[keep]).all()
    if which != "descent":
        np.testing.assert_array_equal(np.asarray(found)[keep], np.asarray(d)[keep])
    memory: Any = ksam_jax.remember_orthogonal()
    before = memory.init(d)._replace(part=jnp.array([1.0, -1.0, 2.0]))
    found, after = memory.update(d, before, ascent_gradient=a)
    np.testing.assert_array_equal(found, d)
    assert_same(after, before)
    again: Any = ksam_jax.add_orthogonal(0.5)
    found, after = again.update(d, before, ascent_gradient=a)
    assert_same(after, before)
    if which == "ascent":
        length = np.linalg.norm(good["d"]) / np.linalg.norm(before.part)
        expected = good["d"] + 0.5 * length * np.asarray(before.part)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    else:
        np.testing.assert_array_equal(np.asarray(found)[keep], np.asarray(d)[keep])


@in_float32
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", COMBINING)
def test_combined_updates_have_the_dtype_of_params_and_memory_is_wide(name, dtype):
    tx = COMBINING[name]()
    params = jax.tree.map(lambda x: x.astype(dtype), as_tree(jnp.float32(WEIGHTS)))
    update, state = quick_jit(updater(tx, loss_fn)), tx.init(params)
    before = abstract(state)
    for t in range(3):
        updates, state = update(state, params, as_batch(numbers(t), dtype))
        assert abstract(updates) == abstract(params)
        assert abstract(state) == before
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}


@in_float32
def test_in_bfloat16_gsam_is_the_formula_to_its_precision():
    tx = COMBINING["gsam"]()
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), as_tree(jnp.float32(WEIGHTS)))
    batch = as_batch(numbers(0), jnp.bfloat16)
    updates, _ = updater(tx, loss_fn)(tx.init(params), params, batch)
    rounded = Numbers(*[np.asarray(batch[n], np.float64) for n in ("a", "c")])
    g, h = rounded.gradient(flat(params)), rounded.sam(flat(params))
    expected = h - 0.5 * without(g, h)
    np.testing.assert_allclose(flat(updates), expected, rtol=0.05, atol=0.03)


# ------------------------------------------------- rounding is no direction


def between(params: Any, losses: Any, batch: Any, rho: float, **common: Any) -> Any:
    """The step after LookSAM's first, and the plain gradient in its place."""
    tx: Any = ksam_jax.look_sam(rho=rho, period=2, **common)

    @jax.jit
    def update(state: Any) -> Any:
        return tx.update(None, state, params, loss_fn=losses, batch=batch)

    _, state = update(tx.init(params))
    updates, _ = update(state)
    plain = jax.jit(jax.grad(lambda p: jnp.mean(losses(p, batch))))(params)
    return updates, plain


def length(tree: Any) -> float:
    return float(optax.tree.norm(jax.tree.map(lambda x: x.astype(jnp.float32), tree)))


@in_float32
@pytest.mark.parametrize("common", [{}, {"groups": 2}, {"num_microbatches": 2}])
@pytest.mark.parametrize("form", ["batch", "per_example"])
def test_without_a_climb_look_sam_adds_no_noise(form, common):
    """At rho = 0 the gradients differ by rounding, which no length makes a direction."""
    problem, batch = mlp(), mlp_batch(0)
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
    losses = ksam_jax.per_example(mlp_loss) if form == "per_example" else batched(mlp_loss)
    updates, plain = between(problem.params, losses, batch, 0.0, **common)
    away = length(jax.tree.map(jnp.subtract, updates, plain))
    assert away < 1e-5 * length(plain)
    updates, plain = between(problem.params, losses, batch, 0.1, **common)
    away = length(jax.tree.map(jnp.subtract, updates, plain))
    assert away == pytest.approx(0.7 * length(plain), rel=1e-3)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("start", [1.3, -0.37])
def test_along_a_line_nothing_is_orthogonal(start, dtype):
    """Of one weight, and of two that enter as their difference."""
    batch = jnp.asarray([1.1, 2.3, 0.7], dtype)
    one = {"w": jnp.asarray([start], dtype)}
    two = {"w": jnp.asarray([start, 0.25], dtype)}
    for params, losses in (
        (one, lambda p, x: jnp.square(x * p["w"][0] - 1)),
        (two, lambda p, x: jnp.square(x * (p["w"][0] - p["w"][1]) - 1)),
    ):
        updates, plain = between(params, losses, batch, 0.05)
        away = length(jax.tree.map(jnp.subtract, updates, plain))
        assert away <= 2 * float(jnp.finfo(dtype).eps) * length(plain)
