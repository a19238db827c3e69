"""Microbatches, one after the other, against the joined batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    assert_close,
    batched,
    mlp,
    mlp_dropout_loss,
    mlp_loss,
    mlp_loss_with_aux,
    quick_jit,
    slow_but,
    updater,
)

import ksam_jax

N, PARTS, STEPS = 24, 4, 3


def remembered(**common):
    chosen = ksam_jax.highest_remembered_loss(7, N, index=lambda b: jnp.arange(N))
    climb = ksam_jax.scale_to_radius(0.1)
    return ksam_jax.sharpness_aware(climb, ascent=chosen, descent=chosen, **common)


def own_direction(**common):
    """F-SAM's direction on random examples, and a descent on others."""
    climb = optax.chain(ksam_jax.subtract_ema(), ksam_jax.scale_to_radius(0.1))
    return ksam_jax.sharpness_aware(
        climb,
        ascent=ksam_jax.random_subset(7, seed=1),
        descent=ksam_jax.highest_loss(9),
        **common,
    )


# Of 24 examples in 4 parts, counts that 4 doesn't divide.
METHODS = {
    "sam": ksam_jax.sam,
    "asam": ksam_jax.asam,
    "random_sam": functools.partial(ksam_jax.random_sam, m=5),
    "k_sam": functools.partial(ksam_jax.k_sam, k=7, skip=1),
    "esam": functools.partial(ksam_jax.esam, gamma=11),
    "f_sam": ksam_jax.f_sam,
    "momentum_sam": ksam_jax.momentum_sam,
    "k_momentum_sam": functools.partial(ksam_jax.k_momentum_sam, k=3),
    "remembered": remembered,
    "own direction": own_direction,
}


def trained(tx: Any, loss_fn: Any, params: Any, batch: Any, **extra: Any) -> Any:
    """Parameters, info and memory after a few steps on a batch that changes."""
    tx = optax.chain(tx, optax.sgd(0.3, momentum=0.9))

    @quick_jit
    def run(params: Any, batch: Any) -> Any:
        def step(carry: Any, shift: Any) -> Any:
            params, state = carry
            moved = batch | {"x": batch["x"] + shift}
            updates, state = updater(tx, loss_fn, **extra)(state, params, moved)
            aux, state = ksam_jax.take_aux(state)
            info = ksam_jax.get_info(state)
            return (optax.apply_updates(params, updates), state), (info, aux)

        shifts = jnp.linspace(-0.5, 0.5, STEPS, dtype=jnp.float32)
        (params, state), told = jax.lax.scan(step, (params, tx.init(params)), shifts)
        return params, state[0].ascent, told

    return run(params, batch)


@pytest.mark.parametrize("name", METHODS)
def test_microbatches_give_the_joined_batchs_steps(name):
    params, _, batch = mlp(n=N)
    loss_fn = ksam_jax.per_example(mlp_dropout_loss)
    found = trained(METHODS[name](num_microbatches=PARTS), loss_fn, params, batch)
    expected = trained(METHODS[name](), loss_fn, params, batch)
    # What rounds differently in one step is carried on into the others.
    assert_close(found, expected, rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("name", slow_but(("k_sam", "esam"), METHODS))
def test_a_step_in_microbatches_is_the_joined_batchs_to_rounding(name):
    params, _, batch = mlp(n=N)
    found, expected = (
        quick_jit(updater(tx, batched(mlp_loss)))(tx.init(params), params, batch)[0]
        for tx in (METHODS[name](num_microbatches=PARTS), METHODS[name]())
    )
    assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", slow_but(("k_sam",), ("sam", "k_sam", "esam")))
@pytest.mark.parametrize("sync", [True, False])
def test_microbatches_and_groups_give_the_groups_steps(name, sync):
    params, _, batch = mlp(n=N)
    common = {"groups": 2, "sync_ascent": sync}
    # Seven of the twelve in a group: neither divides by three.
    found = trained(
        METHODS[name](num_microbatches=3, **common), batched(mlp_loss), params, batch
    )
    expected = trained(METHODS[name](**common), batched(mlp_loss), params, batch)
    assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_aux_of_single_examples_keeps_the_order_of_the_batch():
    params, _, batch = mlp(n=N)
    loss_fn = ksam_jax.per_example(mlp_loss_with_aux)
    tx = ksam_jax.k_sam(k=7, num_microbatches=PARTS)
    _, _, (_, aux) = trained(tx, loss_fn, params, batch, has_aux=True)
    expected = trained(ksam_jax.k_sam(k=7), loss_fn, params, batch, has_aux=True)[2][1]
    assert aux["logit"].shape == (STEPS, N)
    assert_close(aux, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", [ksam_jax.sam, ksam_jax.momentum_sam])
def test_aux_of_the_batch_is_averaged_over_microbatches(method):
    params, _, batch = mlp(n=N)

    def loss_fn(params: Any, batch: Any) -> Any:
        losses, aux = jax.vmap(mlp_loss_with_aux, in_axes=(None, 0))(params, batch)
        return losses, {"mean": jnp.mean(aux["logit"]), "size": batch["y"].shape[0]}

    def told(**common: Any) -> Any:
        _, _, (_, aux) = trained(method(**common), loss_fn, params, batch, has_aux=True)
        return aux

    found, expected = told(num_microbatches=PARTS), told()
    np.testing.assert_allclose(found["mean"], expected["mean"], rtol=1e-5, atol=1e-6)
    # What can't be averaged is the first microbatch's.
    assert found["size"].tolist() == [N // PARTS] * STEPS


def test_bad_examples_get_no_weight_in_microbatches():
    params, _, batch = mlp(n=N)
    factor = np.ones(N, np.float32)
    factor[[0, 1, 5]] = np.nan
    bad = batch | {"factor": jnp.asarray(factor)}
    # More are asked for than are finite, so bad ones must fill up.
    tx = functools.partial(ksam_jax.k_sam, k=23)
    found = trained(tx(num_microbatches=PARTS), batched(mlp_loss), params, bad)
    expected = trained(tx(), batched(mlp_loss), params, bad)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[0]))
    assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)


def test_gradients_of_bfloat16_parameters_are_summed_in_float32():
    """Of 64 parts, 1/64 of a gradient each: in bfloat16 the sum would stop growing."""
    w = jnp.zeros(3, jnp.bfloat16)
    slopes = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (64, 3)), jnp.bfloat16)
    tx = ksam_jax.sam(num_microbatches=64)

    def loss_fn(w: Any, slopes: Any) -> Any:
        return slopes @ w

    gradient, _ = updater(tx, loss_fn)(tx.init(w), w, slopes)
    expected = np.asarray(slopes, np.float64).mean(0)
    # Each part's gradient is rounded once, and so is the result.
    np.testing.assert_allclose(np.asarray(gradient, np.float64), expected, rtol=2**-8)


def test_peak_memory_falls_with_the_microbatches():
    """Of a loss whose activations are far larger than its parameters."""
    w = {"in": jnp.ones((8, 64)) / 8, "out": jnp.ones((64, 64)) / 64}
    batch = jnp.ones((512, 16, 8))

    def loss(w: Any, x: Any) -> Any:
        hidden = jnp.sin(x @ w["in"])
        for _ in range(4):
            hidden = jnp.sin(hidden @ w["out"])
        return jnp.sum(hidden**2)

    def peak(parts: int) -> int:
        tx = ksam_jax.k_sam(num_microbatches=parts)
        step = updater(tx, ksam_jax.per_example(loss, keep="nothing"))
        compiled = jax.jit(step).lower(tx.init(w), w, batch).compile()
        memory: Any = compiled.memory_analysis()
        return memory.temp_size_in_bytes

    whole, quarters, eighths = peak(1), peak(4), peak(8)
    assert quarters < 0.3 * whole
    assert eighths < 0.17 * whole
