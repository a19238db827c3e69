"""What breaks in other implementations of these methods, and doesn't here.

| what breaks elsewhere | where it is tested |
| --- | --- |
| a zero gradient gives NaN parameters | test_contract: zero_gradients |
| an inf in a branch not taken poisons parameters and state | test_contract: corrupt |
| only the first gradient is checked for NaN | here: a_descent_gradient_that_is_nan |
| rho isn't an argument, and the radius isn't rho | here: the_applied_radius |
| a schedule of rho never advances | here: under_scan; test_contract: scheduled_rho |
| the second gradient is the last micro-batch's only | here: accumulation |
| BatchNorm statistics counted twice or perturbed | test_batchnorm |
| different dropout masks in the two passes | test_flax: dropout |
| no auxiliary outputs, no loss values | test_contract: aux; test_oracles: info |
| unknown extra args, partition, bools and keys in states | test_contract |
| the state aliases params, so donation fails | test_contract: donating, owns_its_buffers |
| norms accumulate in 16 bits and over- or underflow | here: sixteen_bit |
| the perturbation rounds away in bfloat16 | here: rounds_away |
| restoring by subtraction drifts the weights | here: drift |
| ASAM per tensor; without eta zeros never move | here: asam |
| F-SAM's average is fed with the subtracted gradient | here: f_sam |
| ESAM keeps one example too few, none on ties | here: esam |
| micro-batch gradients are summed | here: a_batch_given_twice |
| checkpoints lose moments or hold perturbed weights | here: checkpoint |
| several devices synchronize in unstated ways | test_errors: a_later_version |
| clipping in front of the wrapper clips the ascent only | here: clipping |
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from problems import (
    assert_close,
    assert_same,
    batched,
    bowl_batch,
    bowl_loss,
    descend,
    is_close,
    mlp,
    mlp_batch,
    mlp_loss,
    quick_jit,
    stacked,
    updater,
)

import ksam_jax

QUARTER = functools.partial(ksam_jax.k_sam, k=0.25)

BATCHES = [mlp_batch(seed) for seed in range(4)]


def linear(slopes, params):
    """A batch whose losses are linear in `params`, with the given slopes."""
    return bowl_batch(slopes, curvature=0.0), jax.tree.map(jnp.asarray, params)


def step_on(tx, params, batch, loss_fn=None):
    """Updates and info of one step from a fresh state."""
    update = quick_jit(updater(tx, batched(bowl_loss) if loss_fn is None else loss_fn))
    updates, state = update(tx.init(params), params, batch)
    return updates, ksam_jax.get_info(state)


# Finite at the weights, NaN beyond 1: only the second gradient isn't finite.


def cliff_loss(params, example):
    return -example["height"] * jnp.sqrt(1.0 - params["w"])


@pytest.mark.parametrize("rho", [0.005, 0.05])
def test_apply_if_finite_sees_a_descent_gradient_that_is_nan(rho):
    params = {"w": jnp.float32(0.99)}
    batch = {"height": jnp.array([1.0, 2.0, 3.0])}
    tx = optax.chain(ksam_jax.sam(rho), optax.apply_if_finite(optax.sgd(1e-3), 2))
    update = quick_jit(updater(tx, batched(cliff_loss)))
    updates, state = update(tx.init(params), params, batch)
    assert np.isfinite(ksam_jax.get_info(state).ascent_norm)
    falls_off = rho > 0.01
    assert (float(updates["w"]) == 0.0) == falls_off
    assert int(state[1].total_notfinite) == falls_off


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e6])
@pytest.mark.parametrize(
    "make",
    [ksam_jax.sam, ksam_jax.random_sam, QUARTER, ksam_jax.f_sam],
)
def test_the_applied_radius_is_rho_whatever_the_size_of_the_gradient(make, scale):
    slopes = scale * jnp.array([[1.0, -2.0], [3.0, 0.5], [0.1, 0.7]])
    batch, params = linear(slopes, jnp.array([0.02, -0.03]))
    _, info = step_on(make(rho=0.05), params, batch)
    np.testing.assert_allclose(info.perturbation_norm, 0.05, rtol=1e-5)


def test_a_schedule_of_rho_advances_under_scan():
    params = mlp().params
    schedule = optax.linear_schedule(0.02, 0.08, transition_steps=3)
    tx = optax.chain(QUARTER(rho=schedule), optax.sgd(0.1))
    update = updater(tx, batched(mlp_loss))

    def step(carry, batch):
        updates, state = update(carry[1], carry[0], batch)
        info = ksam_jax.get_info(state)
        return (optax.apply_updates(carry[0], updates), state), info.perturbation_norm

    run = quick_jit(functools.partial(jax.lax.scan, step))
    _, norms = run((params, tx.init(params)), stacked(BATCHES))
    np.testing.assert_allclose(norms, [0.02, 0.04, 0.06, 0.08], rtol=1e-4)


def test_accumulation_around_the_base_averages_whole_sharpness_aware_gradients():
    params = mlp().params
    method = ksam_jax.sam(rho=0.1)
    base = optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation()
    tx = optax.chain(method, base)
    update, alone = (
        quick_jit(updater(t, batched(mlp_loss))) for t in (tx, ksam_jax.sam(rho=0.1))
    )
    state, steps, gradients = tx.init(params), [], []
    for batch in BATCHES[:2]:
        with jax.numpy_dtype_promotion("standard"):  # optax.MultiSteps needs it.
            updates, state = update(state, params, batch)
        steps.append(updates)
        gradients.append(alone(method.init(params), params, batch)[0])
    mean = jax.tree.map(lambda a, b: -(a + b) / 2, *gradients)
    assert_close(steps[-1], mean)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("scale", [1e-4, 300.0])
def test_sixteen_bit_gradients_whose_squares_leave_their_range_have_a_norm(dtype, scale):
    # 4096 equal coordinates: the norm is 64 times one of them. Squares of 1e-4 underflow
    # in float16 and those of 300 overflow, and a sum in bfloat16 stops at 256 terms.
    gradient = jnp.full(4096, scale, dtype)

    def loss_fn(params, batch):
        return (params * batch["slope"]).astype(jnp.float32).sum(-1)

    batch = {"slope": jnp.stack([gradient] * 3)}
    params = jnp.zeros(4096, dtype)
    _, info = step_on(ksam_jax.sam(rho=0.5), params, batch, loss_fn)
    np.testing.assert_allclose(info.ascent_norm, 64 * float(gradient[0]), rtol=1e-2)
    np.testing.assert_allclose(info.perturbation_norm, 0.5, rtol=1e-2)


def test_the_perturbation_rounds_away_in_bfloat16_unless_perturbed_dtype_is_wider():
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.uniform(1, 2, 400), jnp.bfloat16)
    slope = jnp.asarray(rng.normal(0, 1, 400), jnp.float32)

    def loss_fn(params, batch):
        w = params.astype(jnp.float32)
        return jnp.stack([jnp.sum(w * slope)] * batch.shape[0]) + 0.5 * jnp.sum(w * w)

    batch = jnp.zeros(3)
    _, rounded = step_on(ksam_jax.sam(rho=0.02), params, batch, loss_fn)
    # Weights in [1, 2) are 2^-7 apart, and no coordinate moves by half of that.
    assert float(rounded.perturbation_norm) == 0.0
    assert float(rounded.sharpness) == 0.0
    tx = ksam_jax.sam(rho=0.02, perturbed_dtype=jnp.float32)
    updates, kept = step_on(tx, params, batch, loss_fn)
    np.testing.assert_allclose(kept.perturbation_norm, 0.02, rtol=1e-3)
    np.testing.assert_allclose(kept.sharpness, 0.02 * kept.ascent_norm, rtol=0.02)
    assert updates.dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_do_not_drift_at_learning_rate_zero(dtype):
    params = mlp(dtype=jnp.dtype(dtype)).params
    tx = optax.chain(ksam_jax.sam(rho=0.3), optax.sgd(0.0))
    update = updater(tx, batched(mlp_loss))

    def step(carry, _):
        updates, state = update(carry[1], carry[0], BATCHES[0])
        return (optax.apply_updates(carry[0], updates), state), None

    @quick_jit
    def run(params, state):
        return jax.lax.scan(step, (params, state), length=50)[0]

    after, _ = run(params, tx.init(params))
    assert_same(after, params)


def asam_bowl():
    """Two matrices of different sizes, one of them zero: params and slopes."""
    params = {"big": jnp.array([[3.0, -4.0]]), "zero": jnp.zeros((1, 2))}
    slope = {"big": jnp.array([[1.0, 2.0]]), "zero": jnp.array([[2.0, -1.0]])}
    return params, slope


def test_asam_normalizes_over_all_tensors_together_and_moves_those_at_zero():
    params, slope = asam_bowl()
    batch = bowl_batch(jax.tree.map(lambda s: jnp.stack([s] * 3), slope))
    updates, _ = step_on(ksam_jax.asam(rho=0.5, eta=0.01), params, batch)
    gradient = jax.tree.map(lambda s, w: np.asarray(s + w), slope, params)
    size = jax.tree.map(lambda w: np.abs(np.asarray(w)) + 0.01, params)
    length = np.sqrt(sum(np.sum((size[n] * gradient[n]) ** 2) for n in params))
    for name in params:
        epsilon = np.asarray(updates[name]) - gradient[name]
        expected = 0.5 * size[name] ** 2 * gradient[name] / length
        np.testing.assert_allclose(epsilon, expected, rtol=1e-3, atol=1e-6)
        assert np.all(expected != 0)


def test_f_sam_subtracts_the_average_of_raw_gradients():
    # Four steps of one gradient, then another: the direction is their whole difference.
    # An average of subtracted gradients would converge to half of the first.
    tx = ksam_jax.f_sam(rho=0.1, sigma=1.0, decay=0.9)
    update = quick_jit(updater(tx, batched(bowl_loss)))
    params, first, last = jnp.zeros(2), jnp.array([3.0, 1.0]), jnp.array([3.0, 2.0])
    state = tx.init(params)
    for _ in range(4):
        _, state = update(state, params, bowl_batch(jnp.stack([first] * 3), 0.0))
    updates, _ = update(state, params, bowl_batch(jnp.stack([last] * 3)))
    np.testing.assert_allclose(updates - last, [0.0, 0.1], atol=1e-6)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_esam_descends_on_the_exact_number_of_examples_also_on_ties(rho):
    # The gradient is along the first axis, so the losses rise by 0.5 times the first
    # slope; at rho = 0 by nothing at all, which is a tie of everyone with everyone.
    slopes = np.array([[1, 0], [5, 1], [2, -3], [4, 0], [3, 2], [6, -1], [0, 1]], float)
    batch, params = linear(jnp.asarray(slopes, jnp.float32), jnp.zeros(2))
    updates, _ = step_on(ksam_jax.esam(rho=rho, beta=1.0, gamma=0.5), params, batch)
    chosen = [0, 1, 2, 3] if rho == 0 else [5, 1, 3, 4]  # 3.5 of 7, rounded half up
    np.testing.assert_allclose(updates, slopes[chosen].sum(0) / 7, rtol=1e-6)


@pytest.mark.parametrize(
    "make", [ksam_jax.sam, ksam_jax.asam, ksam_jax.k_sam, ksam_jax.f_sam]
)
def test_a_batch_given_twice_gives_the_same_step_since_gradients_are_averaged(make):
    params = mlp().params
    batch = mlp_batch(n=8)
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), batch)
    loss_fn = batched(mlp_loss)
    once, _ = step_on(make(rho=0.1), params, batch, loss_fn)
    assert_close(step_on(make(rho=0.1), params, twice, loss_fn)[0], once, 1e-5, 1e-6)


def test_a_checkpoint_has_the_unperturbed_weights_and_the_moments_of_the_base(tmp_path):
    params = mlp().params
    tx = optax.chain(ksam_jax.f_sam(rho=0.1), optax.sgd(0.2, momentum=0.9))
    update = updater(tx, batched(mlp_loss))

    @quick_jit
    def step(params, state, batch):
        updates, state = update(state, params, batch)
        return optax.apply_updates(params, updates), state

    saved = params, tx.init(params)
    for batch in BATCHES[:2]:
        saved = step(*saved, batch)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", saved)
        checkpointer.wait_until_finished()
        target = jax.tree.map(jnp.zeros_like, saved)
        restored = checkpointer.restore(tmp_path / "saved", target)
    for batch in BATCHES[2:]:
        saved, restored = step(*saved, batch), step(*restored, batch)
    assert_same(restored, saved)
    # The moments matter: without them the next step is another one.
    forgetful = step(saved[0], tx.init(params), BATCHES[0])
    assert not is_close(forgetful[0], step(*saved, BATCHES[0])[0])


def test_clipping_after_the_method_clips_the_step_and_not_the_climb():
    params = mlp().params
    tx = optax.chain(ksam_jax.sam(rho=0.1), optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    updates, info = step_on(tx, params, BATCHES[0], batched(mlp_loss))
    np.testing.assert_allclose(optax.tree.norm(updates), 1e-3, rtol=1e-5)
    np.testing.assert_allclose(info.perturbation_norm, 0.1, rtol=1e-4)
    unclipped, _ = step_on(ksam_jax.sam(rho=0.1), params, BATCHES[0], batched(mlp_loss))
    scale = 1e-3 / optax.tree.norm(unclipped)
    assert_close(updates, jax.tree.map(lambda u: -u * scale, unclipped), 1e-4, 1e-8)


def test_plain_descent_lowers_the_loss_so_the_updates_are_gradients():
    params = mlp().params
    update = quick_jit(updater(ksam_jax.sam(rho=0.01), batched(mlp_loss)))
    state, losses = ksam_jax.sam(rho=0.01).init(params), []
    for _ in range(10):
        updates, state = update(state, params, BATCHES[0])
        losses.append(float(ksam_jax.get_info(state).loss))
        params = descend(params, updates)
    assert losses == sorted(losses, reverse=True)
