"""The climb along past descent gradients: its state, its ranking, what it costs in looks.

The contract that it shares with the other methods is in test_contract, its trajectories
are compared with NumPy's in test_oracles.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    Draw,
    abstract,
    assert_close,
    assert_same,
    batched,
    bowl_batch,
    bowl_loss,
    descend,
    initial,
    is_zero,
    mlp,
    mlp_batch,
    mlp_loss,
    mlp_loss_with_aux,
    quick_jit,
    updater,
)

import ksam_jax

RHO = 0.4
NAN, INF = math.nan, math.inf


def general(decay, descent=None, mask=None):
    climb = ksam_jax.scale_to_radius(RHO)
    ascent = ksam_jax.past_descent(decay)
    return ksam_jax.sharpness_aware(climb, ascent=ascent, descent=descent, mask=mask)


def average(state):
    return state.ascent.average


# The bowl of `problems`: the gradient at w is slope + curvature * w.


def slopes(n=4, seed=0):
    draw = Draw(seed)
    return {"a": draw((n, 3)), "b": draw((n, 2, 2)), "c": draw((n,))}


def start():
    return jax.tree.map(lambda leaf: leaf[0] * 0.5 + 1, slopes(seed=9))


@functools.cache
def bowl_run(decay, mask=False):
    """Four steps on the bowl: `(params, updates, state)` of each."""
    tx = general(decay, mask={"a": True, "b": False, "c": True} if mask else None)
    update = quick_jit(updater(tx, batched(bowl_loss)))
    params, state, steps = start(), initial(tx, start()), []
    for seed in range(4):
        updates, state = update(state, params, bowl_batch(slopes(seed=seed)))
        steps.append((params, updates, state))
        params = descend(params, updates)
    return steps


def test_the_state_is_the_average_of_the_descent_gradients_returned():
    m = jax.tree.map(jnp.zeros_like, start())
    for _, updates, state in bowl_run(0.6):
        m = jax.tree.map(lambda a, u: 0.6 * a + 0.4 * u, m, updates)
        assert_close(average(state), m)


def test_without_decay_the_average_is_the_last_descent_gradient_to_the_bit():
    for _, updates, state in bowl_run(0.0):
        assert_same(average(state), updates)


def test_the_perturbation_points_against_the_average_and_has_length_rho():
    m, lengths = jax.tree.map(jnp.zeros_like, start()), []
    for seed, (params, updates, state) in enumerate(bowl_run(0.6)):
        mean_slope = jax.tree.map(lambda s: s.mean(0), slopes(seed=seed))
        epsilon = jax.tree.map(lambda u, w, s: u - (w + s), updates, params, mean_slope)
        length = optax.tree.norm(m)
        factor = jnp.where(length > 0, -RHO / jnp.where(length > 0, length, 1), 0)
        assert_close(epsilon, optax.tree.scale(factor, m), 1e-5, 2e-6)
        np.testing.assert_allclose(ksam_jax.get_info(state).ascent_norm, length, 1e-5)
        lengths.append(float(ksam_jax.get_info(state).perturbation_norm))
        m = average(state)
    assert lengths == pytest.approx([0.0, RHO, RHO, RHO], rel=1e-4)


def test_with_a_mask_the_average_is_of_the_perturbed_parameters_alone():
    assert isinstance(bowl_run(0.6, mask=True)[0][2].ascent.average["b"], optax.MaskedNode)
    for seed, (params, updates, state) in enumerate(bowl_run(0.6, mask=True)):
        expected = params["b"] + slopes(seed=seed)["b"].mean(0)
        assert_close(updates["b"], expected, 1e-5, 1e-6)  # not perturbed
        if seed:
            norm = float(ksam_jax.get_info(state).perturbation_norm)
            assert norm == pytest.approx(RHO, rel=1e-4)
    # The others move as if there were no more parameters.
    part = {name: start()[name] for name in ("a", "c")}
    tx = general(0.6)
    update, state = quick_jit(updater(tx, batched(bowl_loss))), initial(tx, part)
    for seed, (_, found, masked) in enumerate(bowl_run(0.6, mask=True)):
        some = {name: slopes(seed=seed)[name] for name in part}
        updates, state = update(state, part, bowl_batch(some))
        assert_close({name: found[name] for name in part}, updates, 1e-5, 2e-6)
        assert_close({n: average(masked)[n] for n in part}, average(state), 1e-5, 2e-6)
        part = descend(part, updates)


def test_the_average_starts_at_zero_in_float32_or_wider():
    dtypes = [jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64]
    state = initial(general(0.9), [jnp.ones((2, 3), dtype) for dtype in dtypes])
    assert is_zero(average(state))
    assert [m.dtype for m in average(state)] == [jnp.float32] * 3 + [jnp.complex64]


def test_the_average_of_bfloat16_gradients_keeps_what_bfloat16_would_round_away():
    tx, w = general(0.999), jnp.zeros(2, jnp.bfloat16)
    update = quick_jit(updater(tx, lambda w, b: b @ w))
    state = initial(tx, w)
    for _ in range(3):
        _, state = update(state, w, jnp.ones((2, 2), jnp.bfloat16))
    np.testing.assert_allclose(average(state), 1 - 0.999**3, rtol=1e-4)


@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_descent_gradient_that_is_not_finite_leaves_the_average_untouched(bad):
    tx = ksam_jax.momentum_sam(rho=RHO, decay=0.5)
    update = quick_jit(updater(tx, batched(bowl_loss)))
    _, before = update(initial(tx, start()), start(), bowl_batch(slopes()))
    broken = slopes(seed=1)
    broken["a"] = broken["a"].at[2, 1].set(bad)
    updates, after = update(before, start(), bowl_batch(broken))
    assert not np.isfinite(updates["a"]).all()
    assert_same(after.ascent, before.ascent)
    assert abstract(after) == abstract(before)
    recovered, _ = update(after, start(), bowl_batch(slopes(seed=2)))
    expected, _ = update(before, start(), bowl_batch(slopes(seed=2)))
    assert_same(recovered, expected)


# Which losses rank. Example i has the loss value_i + slope_i * w, with w = 0: the values
# are the clean losses, and the descent gradient tells who was chosen.


def line_loss(w, example):
    return example["value"] + example["slope"] * w


VALUES = {"value": jnp.asarray([3.0, 2.0, 1.0]), "slope": jnp.asarray([1.0, 3.0, -8.0])}


def second_step(tx, batch=VALUES, keep=None, **extra):
    """The gradient and state at 0 after a step whose gradient was positive."""
    loss_fn = batched(line_loss)
    if extra:
        loss_fn = batched(lambda w, e: (line_loss(w, e), e["value"]))
    elif keep is not None:
        loss_fn = ksam_jax.per_example(line_loss, keep=keep)
    first = {"value": jnp.asarray([0.0, 0.0, 9.0]), "slope": jnp.asarray([1.0, 1.0, 2.0])}
    update, w = quick_jit(updater(tx, loss_fn, **extra)), jnp.zeros(())
    _, state = update(initial(tx, w), w, first)
    _, state = ksam_jax.take_aux(state)
    return update(state, w, batch)


def k_momentum_sam(k):
    return ksam_jax.k_momentum_sam(rho=1.0, k=k, decay=0.0, mean_over="chosen")


@pytest.mark.parametrize("keep", [None, "nothing", "matmuls", "all"])
@pytest.mark.parametrize(("k", "expected"), [(1, -8.0), (2, -3.5)])
def test_k_momentum_sam_ranks_by_the_losses_at_the_perturbed_weights(k, expected, keep):
    # At -1 the losses are 2, -1 and 9, whatever the order 3, 2, 1 at 0.
    gradient, state = second_step(k_momentum_sam(k), keep=keep)
    assert float(gradient) == pytest.approx(expected)
    info = ksam_jax.get_info(state)
    assert float(info.perturbed_loss) == pytest.approx(10 / 3)
    assert [float(info.loss), float(info.sharpness)] == [2.0**100, 2.0**100]


def test_aux_and_the_clean_loss_cost_a_look_and_change_no_ranking():
    gradient, state = second_step(k_momentum_sam(1), has_aux=True)
    assert float(gradient) == pytest.approx(-8.0)
    aux, rested = ksam_jax.take_aux(state)
    np.testing.assert_array_equal(aux, VALUES["value"])
    info = ksam_jax.get_info(rested)
    assert float(info.loss) == pytest.approx(2.0)
    assert float(info.perturbed_loss) == pytest.approx(10 / 3)
    assert float(info.sharpness) == pytest.approx(10 / 3 - 2.0)
    assert_same(rested.ascent, second_step(k_momentum_sam(1))[1].ascent)


def test_largest_increase_as_the_descent_looks_at_the_clean_losses_too():
    # The losses rise by -1, -3 and 8 times rho.
    gradient, state = second_step(general(0.0, ksam_jax.largest_increase(2)))
    assert float(gradient) == pytest.approx(-7 / 3)
    assert float(ksam_jax.get_info(state).loss) == pytest.approx(2.0)


@pytest.mark.parametrize("keep", [None, "all"])
def test_a_corrupt_example_shows_in_the_perturbed_loss_and_not_in_the_step(keep):
    broken = VALUES | {"value": VALUES["value"].at[2].set(NAN)}
    gradient, state = second_step(k_momentum_sam(1), broken, keep)
    assert float(gradient) == 1.0
    assert math.isnan(ksam_jax.get_info(state).perturbed_loss)


def calls_of_the_loss(tx, has_aux=False):
    """Sizes of the batches that the loss is run on in a step."""
    sizes, problem = [], mlp()
    inner = batched(mlp_loss_with_aux if has_aux else mlp_loss)

    def counting(params, batch):
        sizes.append(batch["x"].shape[0])
        return inner(params, batch)

    update = updater(tx, counting, has_aux=has_aux)
    jax.eval_shape(update, tx.init(problem.params), problem.params, mlp_batch())
    # At last it is looked at: traced, and not run.
    *ran, looked_at = sizes
    assert looked_at == 10
    return ran


def test_aux_of_the_perturbed_weights_costs_no_look():
    perturbed = functools.partial(calls_of_the_loss, has_aux=True)
    momentum = functools.partial(ksam_jax.momentum_sam, rho=RHO, aux="perturbed")
    assert perturbed(momentum()) == [10]
    assert perturbed(ksam_jax.adaptive_momentum_sam(aux="perturbed")) == [10]
    hardest = ksam_jax.k_momentum_sam(rho=RHO, k=3, aux="perturbed")
    assert perturbed(hardest) == [10, 3]
    assert perturbed(ksam_jax.random_sam(m=4, aux="perturbed")) == [4, 10]
    climb, past = ksam_jax.scale_to_radius(RHO), ksam_jax.past_descent()
    rising = ksam_jax.sharpness_aware(
        climb, ascent=past, descent=ksam_jax.largest_increase(3), aux="perturbed"
    )
    # The clean losses choose.
    assert perturbed(rising) == [10, 10, 3]


@pytest.mark.parametrize("part", ["random_subset", "k_sam"])
def test_aux_of_the_perturbed_weights_needs_all_examples_there(part):
    climb, drawn = ksam_jax.scale_to_radius(RHO), ksam_jax.random_subset(3)
    hardest = ksam_jax.highest_loss(3)
    ascent, descent, called = {
        "random_subset": (ksam_jax.past_descent(), drawn, r"random_subset\(m=3\)"),
        "k_sam": (hardest, hardest, r"highest_loss\(k=3\)"),
    }[part]
    tx = ksam_jax.sharpness_aware(climb, ascent=ascent, descent=descent, aux="perturbed")
    line = rf'sharpness_aware\(aux="perturbed"\): .* with {called} .* leave aux at "clean"'
    with pytest.raises(ValueError, match=line):
        calls_of_the_loss(tx, has_aux=True)
    # Nothing is wrong without aux.
    assert calls_of_the_loss(tx)


@pytest.mark.parametrize(
    "method",
    [
        ksam_jax.momentum_sam,
        ksam_jax.adaptive_momentum_sam,
        ksam_jax.k_momentum_sam,
        ksam_jax.random_sam,
        functools.partial(ksam_jax.sharpness_aware, ksam_jax.scale_to_radius(RHO)),
    ],
)
@pytest.mark.parametrize("word", ["perturb", ""])
def test_aux_is_one_of_two_words(method, word):
    line = r'aux=.*: aux must be one of "clean", "perturbed"'
    with pytest.raises(ValueError, match=line):
        method(aux=word)


def test_the_loss_is_run_only_where_it_is_needed():
    momentum = ksam_jax.momentum_sam(rho=RHO, decay=0.9)
    assert calls_of_the_loss(momentum) == [10]
    assert calls_of_the_loss(momentum, has_aux=True) == [10, 10]
    chosen = ksam_jax.k_momentum_sam(rho=RHO, k=3, decay=0.9)
    assert calls_of_the_loss(chosen) == [10, 3]
    assert calls_of_the_loss(chosen, has_aux=True) == [10, 10, 3]
    assert calls_of_the_loss(general(0.9, ksam_jax.largest_increase(3))) == [10, 10, 3]
    assert calls_of_the_loss(general(0.9, ksam_jax.random_subset(3))) == [3]
    remembered = ksam_jax.highest_remembered_loss(3, 50, lambda batch: jnp.arange(10))
    assert calls_of_the_loss(general(0.9, remembered)) == [3]
    radius = ksam_jax.scale_to_radius(RHO)
    same = ksam_jax.sharpness_aware(radius, ascent=remembered, descent=remembered)
    assert calls_of_the_loss(same) == [3, 3]
