"""The plain gradient in the form of the methods: equal to `jax.grad`, and what it says."""

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
    is_zero,
    mean_loss,
    mlp,
    mlp_batch,
    mlp_loss,
    quick_jit,
    updater,
)
from turns import (
    RATE,
    WEIGHTS,
    N,
    as_batch,
    as_tree,
    batches,
    example_loss,
    example_loss_with_aux,
    flat,
    in_float32,
    loss_fn,
    numbers,
)
from turns import float32 as float32
from turns import float64 as float64

import ksam_jax

# ------------------------------------------------------------------ mean_gradient

LOSSES: dict[str, Any] = {
    "batch": batched(mlp_loss),
    "per_example": ksam_jax.per_example(mlp_loss),
    "all": ksam_jax.per_example(mlp_loss, keep="all"),
}


@in_float32
@pytest.mark.parametrize("common", [{}, {"groups": 5}, {"sync_ascent": False, "groups": 2}])
@pytest.mark.parametrize("form", LOSSES)
def test_the_mean_gradient_is_jax_grad_to_the_bit(form, common):
    """Groups change nothing, as all examples take part."""
    problem, tx = mlp(), ksam_jax.mean_gradient(**common)
    update = quick_jit(updater(tx, LOSSES[form]))
    updates, _ = update(tx.init(problem.params), problem.params, problem.batch)
    gradient = quick_jit(jax.grad(mean_loss(batched(mlp_loss))))
    assert_same(updates, gradient(problem.params, problem.batch))


@pytest.mark.parametrize("form", ["batch", "per_example"])
@pytest.mark.parametrize("common", [{"num_microbatches": 4}, {"axis_name": "data"}])
def test_in_parts_it_is_the_gradient_of_the_whole(common, form):
    tx = ksam_jax.mean_gradient(**common)
    own = ksam_jax.per_example(example_loss)
    update = updater(tx, loss_fn if form == "batch" else own)
    params, batch = as_tree(WEIGHTS), as_batch(numbers(0))
    if "axis_name" in common:
        parts = jax.tree.map(lambda x: x.reshape(4, N // 4, -1), batch)
        spread = jax.vmap(update, in_axes=(None, None, 0), out_axes=None, axis_name="data")
        updates, state = quick_jit(spread)(tx.init(params), params, parts)
    else:
        updates, state = quick_jit(update)(tx.init(params), params, batch)
    gradient = numbers(0).gradient(WEIGHTS)
    np.testing.assert_allclose(flat(updates), gradient, rtol=1e-12)
    check_plain_info(ksam_jax.get_info(state), numbers(0).losses(WEIGHTS).mean(), gradient)


def check_plain_info(info: Any, loss: float, gradient: np.ndarray) -> None:
    """What the docstring says of it."""
    assert float(info.loss) == float(info.perturbed_loss) == pytest.approx(loss, rel=1e-12)
    assert (float(info.sharpness), float(info.perturbation_norm)) == (0.0, 0.0)
    assert (float(info.examples), float(info.carried)) == (1.0, 1.0)
    length = np.linalg.norm(gradient)
    assert float(info.ascent_norm) == pytest.approx(length, rel=1e-12)
    assert float(info.cosine) == pytest.approx(1.0, rel=1e-12)


def test_what_it_says_of_itself_is_of_the_loss_and_the_gradient():
    tx, params = ksam_jax.mean_gradient(), as_tree(WEIGHTS)
    _, state = updater(tx, loss_fn)(tx.init(params), params, as_batch(numbers(0)))
    loss = numbers(0).losses(WEIGHTS).mean()
    check_plain_info(ksam_jax.get_info(state), loss, numbers(0).gradient(WEIGHTS))


def test_a_mask_changes_what_is_measured_and_not_the_gradient():
    tx, params = ksam_jax.mean_gradient(mask={"u": False, "v": True}), as_tree(WEIGHTS)
    updates, state = updater(tx, loss_fn)(tx.init(params), params, as_batch(numbers(0)))
    gradient = numbers(0).gradient(WEIGHTS)
    np.testing.assert_allclose(flat(updates), gradient, rtol=1e-12)
    check_plain_info(
        ksam_jax.get_info(state), numbers(0).losses(WEIGHTS).mean(), gradient[1:]
    )


def test_a_gradient_that_is_given_comes_out_and_nothing_is_run():
    tx, params, ran = ksam_jax.mean_gradient(), as_tree(WEIGHTS), []

    def counted(params: Any, batch: Any) -> Any:
        ran.append(1)
        return loss_fn(params, batch)

    given = as_tree(np.array([3.0, -1.0, 0.5, 2.0]))
    update = updater(tx, counted)
    updates, state = update(tx.init(params), params, as_batch(numbers(0)), given)
    assert_same(updates, given)
    assert ran == []
    info = ksam_jax.get_info(state)
    assert all(
        not x for x in (info.known.loss, info.known.perturbed_loss, info.known.sharpness)
    )
    assert float(info.ascent_norm) == pytest.approx(np.linalg.norm(flat(given)), rel=1e-12)
    assert (float(info.perturbation_norm), float(info.cosine)) == (0.0, pytest.approx(1.0))


@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize("common", [{}, {"num_microbatches": 2}, {"groups": 4}])
@pytest.mark.parametrize("form", ["batch", "per_example"])
def test_aux_is_that_of_the_loss_with_one_forward_pass(form, common, is_given):
    tx, params, batch = ksam_jax.mean_gradient(**common), as_tree(WEIGHTS), batches(1)[0]
    ran: list[int] = []

    def statistics(params: Any, batch: Any) -> Any:
        ran.append(len(batch["a"]))
        # An average, so that microbatches have the same.
        aux = {"mean": jnp.mean(batch["c"] * params["u"], 0), "count": jnp.array(3)}
        return loss_fn(params, batch), aux

    own = ksam_jax.per_example(example_loss_with_aux)
    update = updater(tx, statistics if form == "batch" else own, has_aux=True)
    given = as_tree([1.0, 2.0, 3.0, 4.0]) if is_given else None
    updates, after = update(tx.init(params), params, batch, given)
    aux, state = ksam_jax.take_aux(after)
    gradient = flat(given) if given else numbers(0).gradient(WEIGHTS)
    np.testing.assert_allclose(flat(updates), gradient, rtol=1e-12)
    check_plain_info(ksam_jax.get_info(state), numbers(0).losses(WEIGHTS).mean(), gradient)
    assert abstract(state) == abstract(tx.init(params))
    if form == "batch":
        expected = numbers(0).curves.mean(0) * WEIGHTS[0]
        np.testing.assert_allclose(aux["mean"], expected, rtol=1e-12)
        assert int(aux["count"]) == 3
        # A scan over microbatches is traced once; and once it is looked at.
        assert len(ran) == (1 if is_given else 2)
    else:
        expected = numbers(0).slopes[:, 0] * WEIGHTS[0]
        np.testing.assert_allclose(aux["first"], expected, rtol=1e-12)
        np.testing.assert_array_equal(aux["is_steep"], numbers(0).curves[:, 0] > 0)


@in_float32
def test_a_loss_scale_that_is_a_power_of_two_changes_no_bit():
    tx = ksam_jax.mean_gradient()

    @quick_jit
    def step(scale: Any, params: Any, batch: Any) -> Any:
        update = updater(tx, LOSSES["batch"], loss_scale=scale)
        return update(tx.init(params), params, batch)

    params, batch, _ = mlp()[0], mlp_batch(), None
    plain = quick_jit(updater(tx, LOSSES["batch"]))(tx.init(params), params, batch)
    for scale in (1.0, 2.0**15, 2.0**-6):
        assert_same(step(jnp.float32(scale), params, batch), plain)


def test_under_a_dynamic_loss_scale_it_steps_as_sgd_and_skips_what_overflows():
    chain = optax.chain(ksam_jax.mean_gradient(), optax.sgd(RATE, momentum=0.9))
    tx: Any = ksam_jax.dynamic_loss_scale(chain, initial=2.0**10, growth_interval=2)
    update, base = quick_jit(updater(tx, loss_fn)), optax.sgd(RATE, momentum=0.9)
    params = as_tree(WEIGHTS)
    state, base_state = tx.init(params), base.init(params)
    bad = jax.tree.map(lambda x: x.at[3].set(jnp.inf), as_batch(numbers(9)))
    for t, batch in enumerate([*batches(2), bad, *batches(3)[2:]]):
        updates, state = update(state, params, batch)
        if t == 2:
            assert is_zero(updates)
            continue
        gradient = as_tree(numbers(min(t, 2)).gradient(flat(params)))
        expected, base_state = base.update(gradient, base_state)
        assert_close(updates, expected, 1e-12, 1e-12)
        params = optax.apply_updates(params, updates)
    assert (int(state.skipped), bool(state.finite)) == (1, True)
    # Up after two good steps, and down again.
    assert float(state.scale) == 2.0**10


@in_float32
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_parameters_get_gradients_of_their_dtype(dtype):
    problem, tx = mlp(dtype=dtype), ksam_jax.mean_gradient()
    update = quick_jit(updater(tx, LOSSES["batch"]))
    state = tx.init(problem.params)
    updates, after = update(state, problem.params, problem.batch)

    def mean(params: Any, batch: Any) -> Any:
        # A sum in float16 would round otherwise than one gradient per example.
        return jnp.mean(batched(mlp_loss)(params, batch), dtype=dtype)

    expected = quick_jit(jax.grad(mean))(problem.params, problem.batch)
    assert abstract(updates) == abstract(expected) == abstract(problem.params)
    assert_close(updates, expected, 0.02, 0.01)
    assert abstract(after) == abstract(state)
    assert all(x.dtype == jnp.float32 for x in ksam_jax.get_info(after))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_loss_is_in_the_gradient_as_in_jax_grad_and_in_no_later_step(bad):
    tx, params = ksam_jax.mean_gradient(), as_tree(WEIGHTS)
    update, good = quick_jit(updater(tx, loss_fn)), batches(1)[0]
    spoilt = good | {"a": good["a"].at[2, 1].set(bad)}
    updates, state = update(tx.init(params), params, spoilt)
    assert_same(updates, jax.grad(mean_loss(loss_fn))(params, spoilt))
    # One coordinate of the four.
    np.testing.assert_array_equal(np.isfinite(flat(updates)), [True, False, True, True])
    assert_same(update(state, params, good), update(tx.init(params), params, good))


def test_a_zero_gradient_has_no_direction():
    tx, params = ksam_jax.mean_gradient(), as_tree(WEIGHTS)
    zero = jax.tree.map(jnp.zeros_like, batches(1)[0])
    updates, state = updater(tx, loss_fn)(tx.init(params), params, zero)
    assert is_zero(updates)
    info = {name: float(x) for name, x in ksam_jax.get_info(state)._asdict().items()}
    assert info == dict.fromkeys(info, 0.0) | {"examples": 1.0, "carried": 1.0}
