"""Methods that start late, or run now and then: each as if by itself, one paid for at a time.

The loss of an example is `a . w + c . w^2 / 2` with a vector c of both signs, so its gradient
is `a + c w`, and the two gradients of a step point different ways. What a switch does is
compared with its methods run by themselves; what GSAM and LookSAM do with sums in NumPy.

This file is also a program that trains across a boundary, for a test that kills it:
`python tests/test_when.py train FOLDER`.
"""

import functools
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from problems import (
    QUICK,
    abstract,
    assert_close,
    assert_same,
    batched,
    is_finite,
    is_zero,
    mean_loss,
    mlp,
    mlp_batch,
    mlp_loss,
    mlp_loss_with_aux,
    on_one_worker,
    quick_jit,
    stacked,
    updater,
)

import ksam_jax

N, STEPS, RATE = 8, 7, 0.1
RHO = 0.3
WEIGHTS = np.array([0.7, -1.2, 0.4, -0.3])


@pytest.fixture(autouse=True)
def float64(request: Any) -> Any:
    """But for the tests that say otherwise."""
    with jax.enable_x64("float32" not in request.fixturenames):
        yield


@pytest.fixture
def float32() -> None:
    """Says otherwise."""


in_float32 = pytest.mark.usefixtures("float32")


# ------------------------------------------------------------------- the problem


def as_tree(w: Any) -> Any:
    """Two leaves, over which norms and inner products run together."""
    w = jnp.asarray(w)
    return {"u": w[:1], "v": w[1:].reshape(3, 1)}


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in tree.values()])


class Numbers(NamedTuple):
    """A batch in NumPy: the slopes and curvatures of its examples."""

    slopes: np.ndarray
    curves: np.ndarray

    def gradient(self, w: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        """Of the mean loss over some of the examples."""
        return (self.slopes + self.curves * w)[rows].mean(0)

    def losses(self, w: np.ndarray) -> np.ndarray:
        return self.slopes @ w + self.curves @ (w * w) / 2

    def sam(self, w: np.ndarray, rho: float = RHO) -> np.ndarray:
        g = self.gradient(w)
        return self.gradient(w + rho * g / np.linalg.norm(g))


def numbers(t: int) -> Numbers:
    rng = np.random.default_rng(50 + t)
    return Numbers(rng.normal(0.4, 1.0, (N, 4)), rng.normal(0.2, 1.0, (N, 4)))


def as_batch(found: Numbers, dtype: Any = None) -> Any:
    return {"a": jnp.asarray(found.slopes, dtype), "c": jnp.asarray(found.curves, dtype)}


def batches(steps: int = STEPS) -> list[Any]:
    return [as_batch(numbers(t)) for t in range(steps)]


def example_loss(params: Any, example: Any) -> Any:
    w = jnp.concatenate([params["u"], params["v"][:, 0]])
    return jnp.sum(example["a"] * w + example["c"] * w * w / 2)


def example_loss_with_aux(params: Any, example: Any) -> Any:
    aux = {"first": example["a"][0] * params["u"][0], "is_steep": example["c"][0] > 0}
    return example_loss(params, example), aux


loss_fn = batched(example_loss)


def moved(params: Any, updates: Any) -> Any:
    return jax.tree.map(lambda p, u: p - RATE * u, params, updates)


def walk(update: Any, state: Any, inputs: Any, params: Any = None) -> Any:
    """The updates, infos, states and weights of a run, one of each per step."""
    params, found = as_tree(WEIGHTS) if params is None else params, []
    for batch in inputs:
        updates, state = update(state, params, batch)
        found.append((updates, ksam_jax.get_info(state), state, params))
        params = moved(params, updates)
    return found


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


@pytest.mark.parametrize("form", [example_loss, ksam_jax.per_example(example_loss)])
@pytest.mark.parametrize("common", [{"num_microbatches": 4}, {"axis_name": "data"}])
def test_in_parts_it_is_the_gradient_of_the_whole(common, form):
    tx = ksam_jax.mean_gradient(**common)
    update = updater(tx, form if isinstance(form, ksam_jax.PerExample) else loss_fn)
    params, batch = as_tree(WEIGHTS), as_batch(numbers(0))
    if "axis_name" in common:
        parts = jax.tree.map(lambda x: x.reshape(4, N // 4, -1), batch)
        spread = jax.vmap(
            update, in_axes=(None, None, 0), out_axes=None, axis_name="data"
        )
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
    assert all(np.isposinf(x) for x in (info.loss, info.perturbed_loss, info.sharpness))
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
    check_plain_info(
        ksam_jax.get_info(state), numbers(0).losses(WEIGHTS).mean(), gradient
    )
    assert abstract(state) == abstract(tx.init(params))
    if form == "batch":
        expected = numbers(0).curves.mean(0) * WEIGHTS[0]
        np.testing.assert_allclose(aux["mean"], expected, rtol=1e-12)
        assert int(aux["count"]) == 3
        assert len(ran) == 1  # A scan over microbatches is traced once.
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
    assert [float(x) for x in ksam_jax.get_info(state)] == [0.0] * 6


# ------------------------------------------------- a switch, and each method by itself


def rising(count: Any) -> Any:
    return 0.1 * (1 + jnp.asarray(count, jnp.float64))


def remembered() -> Any:
    chosen = ksam_jax.highest_remembered_loss(
        3, N, index=lambda batch: jnp.arange(len(batch["a"]))
    )
    climb = ksam_jax.scale_to_radius(rising)
    return ksam_jax.sharpness_aware(climb, ascent=chosen, descent=chosen)


METHODS: dict[str, Callable[..., Any]] = {
    "plain": ksam_jax.mean_gradient,
    "sam": functools.partial(ksam_jax.sam, rho=rising),
    "k_sam": functools.partial(ksam_jax.k_sam, rho=rising, k=3),
    "random": functools.partial(ksam_jax.random_sam, rho=rising, m=3, seed=4),
    "momentum": functools.partial(ksam_jax.momentum_sam, rho=0.2, decay=0.8),
    "f_sam": functools.partial(ksam_jax.f_sam, rho=0.2, sigma=0.8, decay=0.6),
    "remembered": remembered,
}


def made(*names: str) -> list[Any]:
    return [METHODS[name]() for name in names]


class Case(NamedTuple):
    """A switch, the methods in it, and which of them runs in a step."""

    make: Callable[[], Any]
    names: tuple[str, ...]
    turn: Callable[[int], int]


def joined(*names: str, at: list[int]) -> Case:
    def make() -> Any:
        return ksam_jax.join_methods(made(*names), at)

    return Case(make, names, lambda t: sum(b <= t for b in at))


def in_turn(period: int, *names: str) -> Case:
    def make() -> Any:
        return ksam_jax.every(period, *made(*names))

    def turn(t: int) -> int:
        return 0 if t % period == 0 else 1

    return Case(make, (*names, "plain")[:2], turn)


def nested() -> Any:
    """Every second step SAM; from step 3 on K-SAM after one plain step."""
    first = ksam_jax.every(2, METHODS["sam"](), METHODS["momentum"]())
    second = ksam_jax.join_methods(made("plain", "k_sam"), [1])
    return ksam_jax.join_methods([first, second], [3])


SWITCHES = {
    "late": joined("plain", "k_sam", at=[2]),
    "three": joined("momentum", "random", "f_sam", at=[1, 4]),
    "memories": joined("remembered", "momentum", at=[3]),
    "one that never runs": joined("plain", "sam", "random", at=[2, 2]),
    "from the start": joined("plain", "random", at=[0]),
    "never": joined("momentum", "sam", at=[1000]),
    "alone": joined("random", at=[]),
    "every third": in_turn(3, "random"),
    "every second": in_turn(2, "f_sam", "momentum"),
    "every": in_turn(1, "random", "momentum"),
    "nested": Case(
        nested,
        ("sam", "momentum", "plain", "k_sam"),
        lambda t: (0, 1, 0, 2, 3, 3, 3)[t],
    ),
}


def switches(*names: str) -> Any:
    """One worker each, as the tests of a switch share its compiled step."""
    return pytest.mark.parametrize("name", [on_one_worker(n) for n in names or SWITCHES])


class Compiled(NamedTuple):
    tx: Any
    update: Any
    traces: list[int]


@functools.cache
def compiled(name: str) -> Compiled:
    """Of a switch or of a method; counts how often the loss is traced."""
    traces: list[int] = []

    def counted(params: Any, batch: Any) -> Any:
        traces.append(1)
        return loss_fn(params, batch)

    tx = SWITCHES[name].make() if name in SWITCHES else METHODS[name]()
    return Compiled(tx, quick_jit(updater(tx, counted)), traces)


@functools.cache
def run_of(name: str) -> Any:
    run = compiled(name)
    return walk(run.update, run.tx.init(as_tree(WEIGHTS)), batches())


@functools.cache
def by_themselves(name: str) -> tuple[list[Any], list[Any]]:
    """Updates and infos, and the states in the end, of methods that take turns by hand."""
    case, params, found = SWITCHES[name], as_tree(WEIGHTS), []
    runs = [compiled(method) for method in case.names]
    states = [run.tx.init(params) for run in runs]
    for t, batch in enumerate(batches()):
        i = case.turn(t)
        updates, states[i] = runs[i].update(states[i], params, batch)
        found.append((updates, ksam_jax.get_info(states[i])))
        params = moved(params, updates)
    return found, states


@switches()
def test_each_step_is_that_of_the_method_by_itself(name):
    expected, _ = by_themselves(name)
    assert_close([step[:2] for step in run_of(name)], expected, 1e-12, 1e-12)


@switches()
def test_each_method_is_left_with_the_state_that_it_would_have(name):
    _, states = by_themselves(name)
    (*_, (_, _, state, _)) = run_of(name)
    kept = state.methods
    if name == "nested":
        kept = [own for switch in state.methods for own in switch.methods]
    fields = ("perturbation", "ascent", "descent", "combine")
    for own, alone in zip(kept, states, strict=True):
        pair = [[getattr(x, field) for field in fields] for x in (own, alone)]
        assert_close(*pair, 1e-12, 1e-12)
        assert (own.info, own.both_finite, own.aux) == (None, None, None)
    assert int(state.steps) == STEPS


@switches()
def test_nothing_is_traced_again_at_a_boundary_and_the_state_keeps_its_form(name):
    run = compiled(name)
    before = run.tx.init(as_tree(WEIGHTS))
    states = [state for _, _, state, _ in run_of(name)]
    traced = len(run.traces)
    assert traced > 0
    assert [abstract(state) == abstract(before) for state in states] == [True] * STEPS
    run.update(states[-1], as_tree(WEIGHTS), batches(1)[0])
    run.update(before, as_tree(WEIGHTS), batches(1)[0])
    assert len(run.traces) == traced
    assert run.update._cache_size() == 1


def test_the_loss_is_traced_as_often_as_by_all_methods_once():
    """A trace more anywhere would not be seen by counts that only stay the same."""
    run_of("late")
    run_of("every second")
    for name in ("late", "every second"):
        by_themselves(name)
        alone = sum(len(compiled(method).traces) for method in SWITCHES[name].names)
        assert len(compiled(name).traces) == alone


@switches("late", "three", "every second", "nested")
def test_eager_steps_are_the_compiled_ones(name):
    tx = compiled(name).tx
    before = tx.init(as_tree(WEIGHTS))
    eager = walk(updater(tx, loss_fn), before, batches(5))
    assert_close([step[:2] for step in eager], [s[:2] for s in run_of(name)][:5], 1e-12)
    for _, _, state, _ in eager:
        assert abstract(state) == abstract(before)
    assert_close(eager[-1][2], run_of(name)[4][2], 1e-12, 1e-12)


@switches("late", "three", "nested")
def test_a_scan_across_boundaries_with_donation_is_the_loop(name):
    update = updater(compiled(name).tx, loss_fn)

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        updates, state = update(state, params, batch)
        return (moved(params, updates), state), updates

    @functools.partial(quick_jit, donate_argnums=(0, 1))
    def run(params: Any, state: Any, inputs: Any) -> Any:
        return jax.lax.scan(step, (params, state), inputs)

    params = as_tree(WEIGHTS)
    state = compiled(name).tx.init(params)
    (_, after), updates = run(params, state, stacked(batches()))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((params, state)))
    assert_close(updates, stacked([step[0] for step in run_of(name)]), 1e-12, 1e-12)
    assert_close(after, run_of(name)[-1][2], 1e-12, 1e-12)


@switches("three", "memories", "nested")
def test_a_loop_that_donates_crosses_the_boundary(name):
    tx = compiled(name).tx

    @functools.partial(quick_jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = updater(tx, loss_fn)(state, params, batch)
        return moved(params, updates), state

    params = as_tree(WEIGHTS)
    state = tx.init(params)
    for batch in batches():
        given = params, state
        params, state = step(params, state, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert_close(state, run_of(name)[-1][2], 1e-12, 1e-12)


@switches("three", "memories", "every second", "nested")
def test_a_checkpoint_before_or_behind_a_boundary_goes_on_bit_for_bit(name, tmp_path):
    run, states = compiled(name), run_of(name)
    for t in (1, 4):
        saved = states[t][2:4]
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / str(t), saved)
            checkpointer.wait_until_finished()
            target = jax.eval_shape(lambda: (run.tx.init(as_tree(WEIGHTS)), saved[1]))
            state, params = checkpointer.restore(tmp_path / str(t), target)
        assert_same((state, params), saved)
        assert abstract(state) == abstract(saved[0])
        params = moved(params, states[t][0])
        resumed = walk(run.update, state, batches()[t + 1 :], params)
        assert_same([s[:3] for s in resumed], [s[:3] for s in states[t + 1 :]])


def test_the_initial_state_of_a_switch_owns_its_buffers():
    params = as_tree(WEIGHTS)
    look = ksam_jax.look_sam(period=2)
    both = ksam_jax.every(
        2, METHODS["momentum"](), METHODS["momentum"](), shared=("ascent",)
    )
    for tx in (compiled("nested").tx, compiled("memories").tx, look, both):
        leaves = jax.tree.leaves((params, tx.init(params)))
        assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@pytest.mark.parametrize("form", ["batch", "per_example"])
@switches("late", "three", "nested")
def test_aux_is_that_of_the_clean_pass_whichever_method_ran(name, form):
    own = ksam_jax.per_example(example_loss_with_aux)
    tx, loss = compiled(name).tx, batched(example_loss_with_aux)
    loss = loss if form == "batch" else own

    @quick_jit
    def update(state: Any, params: Any, batch: Any) -> Any:
        found = tx.update(
            None, state, params, loss_fn=loss, batch=batch, has_aux=True
        )
        aux, state = ksam_jax.take_aux(found[1])
        return (found[0], aux), state

    before = tx.init(as_tree(WEIGHTS))
    state = before
    for t, (updates, _, _, params) in enumerate(run_of(name)):
        (same, aux), state = update(state, params, batches()[t])
        assert_close(same, updates, 1e-12, 1e-12)
        first = numbers(t).slopes[:, 0] * float(params["u"][0])
        np.testing.assert_allclose(aux["first"], first, rtol=1e-12)
        np.testing.assert_array_equal(aux["is_steep"], numbers(t).curves[:, 0] > 0)
        assert abstract(state) == abstract(before)
    assert update._cache_size() == 1


def test_a_loss_scale_around_counts_the_steps_that_are_made():
    """A skipped step changes nothing, so it isn't one of those before the boundary."""
    tx: Any = ksam_jax.dynamic_loss_scale(
        optax.chain(SWITCHES["late"].make(), optax.sgd(RATE)), initial=2.0**4
    )
    update, params = quick_jit(updater(tx, loss_fn)), as_tree(WEIGHTS)
    state, bad = tx.init(params), jax.tree.map(lambda x: x * jnp.nan, batches(1)[0])
    before, made_of = abstract(state), []
    for batch in [batches()[0], bad, batches()[1], bad, *batches()[2:]]:
        updates, after = update(state, params, batch)
        assert abstract(after) == before
        if batch is bad:
            assert is_zero(updates)
            assert_same(after.inner, state.inner)
        else:
            made_of.append(jax.tree.map(lambda u: -u / RATE, updates))
            params = optax.apply_updates(params, updates)
        state = after
    assert_close(made_of, [step[0] for step in run_of("late")], 1e-12, 1e-12)
    assert int(state.skipped) == 2
    assert float(state.scale) == 4.0


# ------------------------------------------------------------- chains and wrappers


def adam() -> Any:
    return optax.adam(0.05)


def momentum() -> Any:
    return optax.chain(optax.clip_by_global_norm(0.7), optax.sgd(0.1, momentum=0.9))


WRAPPED: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "chains": (
        lambda: optax.chain(METHODS["plain"](), adam()),
        lambda: optax.chain(METHODS["k_sam"](), momentum()),
    ),
    "named chain and injected": (
        lambda: optax.named_chain(("method", METHODS["momentum"]()), ("base", adam())),
        lambda: optax.chain(
            optax.inject_hyperparams(ksam_jax.k_sam, static_args="k")(rho=rising, k=3),
            optax.inject_hyperparams(optax.sgd)(learning_rate=rising),
        ),
    ),
    "injected chains": (
        lambda: optax.inject_hyperparams(
            lambda rho: optax.chain(ksam_jax.random_sam(rho, m=3), optax.sgd(0.1))
        )(rho=0.2),
        lambda: optax.chain(METHODS["f_sam"](), optax.scale_by_learning_rate(rising)),
    ),
}


@pytest.mark.parametrize("name", [on_one_worker(name) for name in WRAPPED])
def test_chains_with_their_own_optimizers_rest_while_others_run(name):
    """The states of the optimizers, too, are as if their methods ran by themselves."""
    first, second = [make() for make in WRAPPED[name]]
    tx = ksam_jax.every(2, first, second)
    params, case = as_tree(WEIGHTS), in_turn(2, "plain", "plain")
    parts = [optax.with_extra_args_support(x) for x in (first, second)]
    with jax.numpy_dtype_promotion("standard"):  # Adam needs it.
        update = quick_jit(updater(tx, loss_fn))
        alone = [quick_jit(updater(part, loss_fn)) for part in parts]
        state, states = tx.init(params), [part.init(params) for part in parts]
        before = abstract(state)
        for t, batch in enumerate(batches(5)):
            updates, state = update(state, params, batch)
            i = case.turn(t)
            expected, states[i] = alone[i](states[i], params, batch)
            assert_close(updates, expected, 1e-12, 1e-12)
            info = ksam_jax.get_info(state), ksam_jax.get_info(states[i])
            assert_close(*info, 1e-12, 1e-12)
            assert abstract(state) == before
            params = optax.apply_updates(params, updates)
    assert update._cache_size() == 1

    def kept(state: Any) -> Any:
        return [x for x in jax.tree.leaves(state, is_leaf=is_method) if not is_method(x)]

    def is_method(x: Any) -> bool:
        return isinstance(x, ksam_jax.SharpnessAwareState)

    for own, other in zip(state.methods, states, strict=True):
        assert len(kept(own)) > 0
        assert_close(kept(own), kept(other), 1e-12, 1e-12)


def test_in_front_of_one_optimizer_momentum_goes_on_across_the_boundary():
    base = optax.sgd(RATE, momentum=0.9)
    tx = optax.chain(SWITCHES["late"].make(), base)
    update, params = quick_jit(updater(tx, loss_fn)), as_tree(WEIGHTS)
    state, velocity, plain, k_sam = tx.init(params), np.zeros(4), *made("plain", "k_sam")
    k_sam_state = k_sam.init(params)
    for t, batch in enumerate(batches(5)):
        updates, state = update(state, params, batch)
        if t < 2:
            gradient, _ = updater(plain, loss_fn)(plain.init(params), params, batch)
        else:
            step = updater(k_sam, loss_fn)
            gradient, k_sam_state = step(k_sam_state, params, batch)
        velocity = 0.9 * velocity + flat(gradient)
        np.testing.assert_allclose(flat(updates), -RATE * velocity, rtol=1e-12)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("name", ["look_sam", "every", "join_methods"])
def test_injected_hyperparameters_reach_every_method_of_a_switch(name):
    """Also a period and boundaries that are arrays in the state, which may be changed."""

    def joins(rho: Any, boundary: Any) -> Any:
        return ksam_jax.join_methods(
            [ksam_jax.mean_gradient(), ksam_jax.sam(rho)], [boundary]
        )

    def turns(rho: Any, period: Any) -> Any:
        return ksam_jax.every(period, ksam_jax.sam(rho))

    make, number = {
        "look_sam": (ksam_jax.look_sam, "period"),
        "every": (turns, "period"),
        "join_methods": (joins, "boundary"),
    }[name]
    tx: Any = optax.inject_hyperparams(make)(rho=RHO, **{number: 2})
    params, update = as_tree(WEIGHTS), quick_jit(updater(tx, loss_fn))
    state = tx.init(params)
    for value in (2, 3):
        hyperparams = state.hyperparams | {number: jnp.asarray(value, jnp.int32)}
        injected = tx.init(params)._replace(hyperparams=hyperparams)
        found = walk(update, injected, batches(5))
        plain = make(rho=RHO, **{number: value})
        expected = walk(updater(plain, loss_fn), plain.init(params), batches(5))
        assert_close([s[:2] for s in found], [s[:2] for s in expected], 1e-12, 1e-12)
        assert {str(abstract(s[2])) for s in found} == {str(abstract(injected))}


# ------------------------------------------------------------------------ shared


@pytest.mark.parametrize("shared", [("perturbation",), "perturbation", ["perturbation"]])
def test_a_shared_count_of_the_climb_goes_on_where_the_other_stopped(shared):
    """The radius rises with each step, of either method."""
    tx = ksam_jax.every(2, *made("sam", "k_sam"), shared=shared)
    params = as_tree(WEIGHTS)
    found = walk(quick_jit(updater(tx, loss_fn)), tx.init(params), batches(5))
    radii = [float(info.perturbation_norm) for _, info, _, _ in found]
    np.testing.assert_allclose(radii, 0.1 * np.arange(1, 6), rtol=1e-12)
    assert int(found[-1][2].shared["perturbation"].steps) == 5
    assert all(own.perturbation is None for own in found[-1][2].methods)
    # By itself each counts its own.
    own = ksam_jax.every(2, *made("sam", "k_sam"))
    found = walk(quick_jit(updater(own, loss_fn)), own.init(params), batches(5))
    radii = [float(info.perturbation_norm) for _, info, _, _ in found]
    np.testing.assert_allclose(radii, [0.1, 0.1, 0.2, 0.2, 0.3], rtol=1e-12)


def test_a_shared_past_is_averaged_over_the_steps_of_both():
    """Momentum-SAM, then on the highest losses, along one average of past gradients."""
    decay, rho = 0.8, 0.2
    second = ksam_jax.k_momentum_sam(rho=rho, k=3, decay=decay)
    tx = ksam_jax.join_methods([METHODS["momentum"](), second], [2], shared=("ascent",))
    params = as_tree(WEIGHTS)
    found = walk(quick_jit(updater(tx, loss_fn)), tx.init(params), batches(5))
    average, w = np.zeros(4), WEIGHTS
    for t, (updates, _, _, _) in enumerate(found):
        length = np.linalg.norm(average)
        away = w - rho * average / length if length else w
        batch = numbers(t)
        rows = slice(None) if t < 2 else np.argsort(-batch.losses(away))[:3]
        expected = batch.gradient(away, rows)
        np.testing.assert_allclose(flat(updates), expected, rtol=1e-11)
        average = decay * average + (1 - decay) * expected
        w = w - RATE * expected


def test_a_shared_memory_of_losses_is_that_of_the_last_who_learned():
    chosen = [
        ksam_jax.highest_remembered_loss(k, N, index=lambda b: jnp.arange(len(b["a"])))
        for k in (2, 3)
    ]
    climb = ksam_jax.scale_to_radius(0.0)
    first, second = [ksam_jax.sharpness_aware(climb, descent=c) for c in chosen]
    tx: Any = ksam_jax.join_methods([first, second], [4], shared=("descent",))
    params, batch = as_tree(WEIGHTS), batches(1)[0]
    state, update = tx.init(params), quick_jit(updater(tx, loss_fn))
    # Nothing is known at first: rows 0 and 1, 2 and 3, ... and then the three highest.
    for _ in range(4):
        _, state = update(state, params, batch)
    updates, _ = update(state, params, batch)
    rows = np.argsort(-numbers(0).losses(WEIGHTS))[:3]
    expected = numbers(0).gradient(WEIGHTS, rows)
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-12)


# -------------------------------------------------- traced, mapped over, and at the edges


def final(tx: Any, inputs: Any, params: Any) -> Any:
    """The weights after a scan over `inputs`, and the radii of its steps."""

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        updates, state = updater(tx, loss_fn)(state, params, batch)
        info = ksam_jax.get_info(state)
        return (moved(params, updates), state), info.perturbation_norm

    (params, _), radii = jax.lax.scan(step, (params, tx.init(params)), inputs)
    return params, radii


def late(boundary: Any) -> Any:
    return ksam_jax.join_methods(made("momentum", "random"), [boundary])


def now_and_then(period: Any) -> Any:
    return ksam_jax.every(period, *made("random", "momentum"))


@pytest.mark.parametrize(
    ("make", "values"), [(late, [0, 1, 3, 99]), (now_and_then, [1, 2, 3, 99])]
)
def test_traced_boundaries_and_periods_are_the_plain_ones_with_one_trace(make, values):
    traces: list[int] = []

    def run(value: Any, params: Any) -> Any:
        traces.append(1)
        return final(make(value), stacked(batches(4)), params)

    params, traced = as_tree(WEIGHTS), quick_jit(run)
    one_by_one = [traced(jnp.asarray(v, jnp.int32), params) for v in values]
    assert len(traces) == 1
    together = quick_jit(jax.vmap(run, in_axes=(0, None)))
    mapped = together(jnp.asarray(values, jnp.int32), params)
    for i, value in enumerate(values):
        tx = make(value)
        found = walk(updater(tx, loss_fn), tx.init(params), batches(4))
        params_after = moved(found[-1][3], found[-1][0])
        radii = jnp.stack([info.perturbation_norm for _, info, _, _ in found])
        assert_close(one_by_one[i], (params_after, radii), 1e-12, 1e-12)
        own = jax.tree.map(lambda x, i=i: x[i], mapped)
        assert_close(own, (params_after, radii), 1e-12, 1e-12)


@pytest.mark.parametrize("kind", [tuple, np.array, jnp.array])
def test_boundaries_may_be_a_list_a_tuple_or_an_array(kind):
    at = kind([1, 4])
    tx = ksam_jax.join_methods(made("momentum", "random", "f_sam"), at)
    found = walk(updater(tx, loss_fn), tx.init(as_tree(WEIGHTS)), batches(5))
    assert_close([s[:2] for s in found], [s[:2] for s in run_of("three")[:5]], 1e-12)


def test_a_traced_array_of_boundaries():
    def run(at: Any) -> Any:
        tx = ksam_jax.join_methods(made("momentum", "random", "f_sam"), at)
        return final(tx, stacked(batches(5)), as_tree(WEIGHTS))[0]

    found = quick_jit(run)(jnp.array([1, 4]))
    assert_close(found, run_of("three")[5][3], 1e-12, 1e-12)


@switches("late", "three")
def test_mapped_over_states_of_different_counts_each_is_its_own(name):
    """Then all methods run, and one result is taken."""
    run, steps = compiled(name), run_of(name)
    states = [run.tx.init(as_tree(WEIGHTS)), *[step[2] for step in steps]][:STEPS]
    params, inputs = stacked([step[3] for step in steps]), stacked(batches())
    together = quick_jit(jax.vmap(updater(run.tx, loss_fn)))
    updates, after = together(stacked(states), params, inputs)
    assert_close(updates, stacked([step[0] for step in steps]), 1e-12, 1e-12)
    assert_close(after, stacked([step[2] for step in steps]), 1e-12, 1e-12)


def branches_in(f: Any, *args: Any) -> list[int]:
    """Of every cond in the jaxpr the number of its branches, those in a scan as well."""

    def of(jaxpr: Any) -> list[int]:
        found = []
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "cond":
                found.append(len(eqn.params["branches"]))
            for sub in jax.tree.leaves(eqn.params, is_leaf=is_jaxpr):
                if is_jaxpr(sub) and eqn.primitive.name != "cond":
                    found += of(getattr(sub, "jaxpr", sub))
        return found

    def is_jaxpr(x: Any) -> bool:
        return hasattr(x, "eqns") or hasattr(x, "jaxpr")

    return of(jax.make_jaxpr(f)(*args).jaxpr)


def test_whole_runs_that_are_mapped_over_share_one_branch():
    """With `tx.init` inside, the count of steps isn't mapped over, and a cond is left."""
    tx = compiled("three").tx

    def run(params: Any) -> Any:
        return final(tx, stacked(batches(5)), params)

    starts = [as_tree(WEIGHTS * s) for s in (1.0, -0.5, 2.0)]
    assert branches_in(jax.vmap(run), stacked(starts)) == [3]
    states = stacked([tx.init(start) for start in starts])
    each = jax.vmap(updater(tx, loss_fn))
    inputs = stacked(batches(3))
    assert branches_in(each, states, stacked(starts), inputs) == []
    mapped = quick_jit(jax.vmap(run))(stacked(starts))
    for i, start in enumerate(starts):
        found = walk(compiled("three").update, tx.init(start), batches(5), start)
        expected = moved(found[-1][3], found[-1][0])
        own = jax.tree.map(lambda x, i=i: x[i], mapped[0])
        assert_close(own, expected, 1e-12, 1e-12)


def test_every_second_step_by_hand():
    """SAM's radius counts its own steps; in between the gradient itself."""
    w = WEIGHTS
    tx = ksam_jax.every(2, METHODS["sam"]())
    found = walk(quick_jit(updater(tx, loss_fn)), tx.init(as_tree(w)), batches(5))
    for t, (updates, info, _, _) in enumerate(found):
        rho = 0.1 * (1 + t // 2)
        plain = numbers(t).gradient(w)
        expected = numbers(t).sam(w, rho) if t % 2 == 0 else plain
        np.testing.assert_allclose(flat(updates), expected, rtol=1e-12)
        radius = rho if t % 2 == 0 else 0.0
        assert float(info.perturbation_norm) == pytest.approx(radius, rel=1e-12)
        assert float(info.ascent_norm) == pytest.approx(np.linalg.norm(plain), rel=1e-12)
        w = w - RATE * expected


# ------------------------------------------------- what is run when: executed, and in HLO


@pytest.mark.parametrize("way", ["eager", "jit", "scan"])
def test_only_the_method_whose_turn_it_is_runs_the_loss(way):
    """Counted while running: one forward pass in a plain step, two in one of SAM."""
    ran: list[float] = []

    def told(params: Any, batch: Any) -> Any:
        losses = loss_fn(params, batch)
        jax.debug.callback(lambda x: ran.append(float(x)), batch["a"][0, 0])
        return losses

    tx = ksam_jax.join_methods(
        [METHODS["plain"](), METHODS["sam"](), METHODS["plain"]()], [2, 4]
    )
    update, params, inputs = updater(tx, told), as_tree(WEIGHTS), batches(6)

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        updates, state = update(state, params, batch)
        return (moved(params, updates), state), None

    if way == "scan":
        run = quick_jit(functools.partial(jax.lax.scan, step))
        jax.block_until_ready(run((params, tx.init(params)), stacked(inputs)))
    else:
        update = quick_jit(update) if way == "jit" else update
        walk(update, tx.init(params), inputs)
    jax.effects_barrier()
    passes = [ran.count(float(batch["a"][0, 0])) for batch in inputs]
    assert passes == [1, 1, 2, 2, 1, 1]


def test_mapped_over_counts_all_of_them_run_in_every_step():
    """As the docs say: what it costs to map over a state with counts of its own."""
    ran: list[int] = []

    def told(params: Any, batch: Any) -> Any:
        jax.debug.callback(lambda _: ran.append(1), batch["a"][0, 0])
        return loss_fn(params, batch)

    tx = ksam_jax.join_methods([METHODS["plain"](), METHODS["sam"]()], [2])
    params = as_tree(WEIGHTS)
    states, both = stacked([tx.init(params)] * 2), stacked([params] * 2)
    each = quick_jit(jax.vmap(updater(tx, told)))
    jax.block_until_ready(each(states, both, stacked(batches(2))))
    jax.effects_barrier()
    assert len(ran) == 2 * (1 + 2)


# A computation of HLO begins with its name, and is called by these attributes.
_HEAD = re.compile(r"^(?:ENTRY )?%(\S+) \(.*\{$")
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|true_computation|"
    r"false_computation)=\{?((?:%[\w.\-]+(?:, )?)+)"
)
_VALUE = re.compile(r"^\s*(?:ROOT )?%(\S+) = (.*)$")
_PRODUCT = re.compile(r"= \S+\[([\d,]*)\]\S* (dot|convolution)\(%([\w.\-]+), %([\w.\-]+)\)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")


class Program:
    """The text of a compiled program, by its computations."""

    def __init__(self, text: str) -> None:
        self.lines: dict[str, list[str]] = {}
        self.entry = name = ""
        for line in text.splitlines():
            head = _HEAD.match(line)
            name = head[1] if head else name
            if line.startswith("ENTRY"):
                self.entry = name
            if name:
                self.lines.setdefault(name, []).append(line)
        assert self.entry

    def called(self, line: str) -> list[str]:
        groups = _CALLS.findall(line)
        return [name for group in groups for name in re.findall(r"%([\w.\-]+)", group)]

    def within(self, name: str, skip: str = " no instruction ") -> list[str]:
        """The lines of a computation and of all that it calls, but for some lines."""
        found, todo, seen = [], [name], set()
        while todo:
            here = todo.pop()
            if here in seen:
                continue
            seen.add(here)
            for line in self.lines[here]:
                if skip not in line:
                    found.append(line)
                    todo += self.called(line)
        return found

    def branches(self) -> list[list[str]]:
        """The lines that each branch of the one conditional runs."""
        (line,) = [x for x in self.within(self.entry) if " conditional(" in x]
        return [self.within(name) for name in self.called(line)]

    def outside(self) -> list[str]:
        """The lines of the program that run in any case."""
        return self.within(self.entry, skip=" conditional(")

    def predicate(self) -> tuple[set[str], set[str]]:
        """All instructions that the conditional's index is made of, and the parameters."""
        defined = {m[1]: m[2] for x in self.lines[self.entry] if (m := _VALUE.match(x))}
        (conditional,) = [x for x in defined.values() if " conditional(" in x]
        index = re.search(r" conditional\(%([\w.\-]+)", conditional)
        assert index
        todo, seen = [index[1]], set()
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                operands = re.search(r" [\w\-]+\((.*?)\)", defined[name])
                todo += re.findall(r"%([\w.\-]+)", operands[1]) if operands else []
        lines = {defined[name] for name in seen}
        for line in list(lines):
            for called in self.called(line):
                lines |= set(self.within(called))
        return lines, {x for x in lines if " parameter(" in x and x in defined.values()}


def products(lines: list[str]) -> list[int]:
    """The multiplications of every matrix product, sorted."""
    assert not [x for x in lines if "custom-call" in x and "matmul" in x]
    shapes = {m[1]: m[2] for x in lines if (m := _VALUE.match(x))}
    found = []
    for line in lines:
        match = _PRODUCT.search(line)
        if match:
            assert match[2] == "dot"
            left = re.search(r"\[([\d,]*)\]", shapes[match[3]])
            contracted = _CONTRACTED.search(line)
            assert left and contracted
            sizes = [int(n) for n in left[1].split(",") if n]
            result = [int(n) for n in match[1].split(",") if n]
            over = [sizes[int(i)] for i in contracted[1].split(",")]
            found.append(int(np.prod(result) * np.prod(over)))
    return sorted(found)


def network(width: int = 24, n: int = 512) -> tuple[Any, Any]:
    """Weights and a batch of a network in which matrix products are nearly all there is."""
    rng = np.random.default_rng(3)
    sizes = [(16, width), (width, width), (width, 3)]
    params = [jnp.asarray(rng.normal(0.0, s[0] ** -0.5, s), jnp.float32) for s in sizes]
    x = jnp.asarray(rng.normal(0.3, 1.0, (n, 16)), jnp.float32)
    return params, {"x": x, "y": jnp.asarray(rng.integers(0, 3, n), jnp.int32)}


def network_loss(params: Any, batch: Any) -> Any:
    hidden = batch["x"]
    for w in params[:-1]:
        hidden = jnp.maximum(hidden @ w, 0)
    logits = hidden @ params[-1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


BASE = optax.sgd(0.1, momentum=0.9)


def program(method: Any) -> Any:
    """A compiled training step with a method; None for SGD as anyone writes it."""
    params, batch = network()
    tx: Any = BASE if method is None else optax.chain(method, BASE)

    def step(params: Any, state: Any, batch: Any) -> Any:
        if method is None:
            gradient = jax.grad(mean_loss(network_loss))(params, batch)
            updates, state = tx.update(gradient, state, params)
        else:
            updates, state = updater(tx, network_loss)(state, params, batch)
        return optax.apply_updates(params, updates), state

    shapes = jax.eval_shape(lambda: (params, tx.init(params), batch))
    return jax.jit(step).lower(*shapes).compile(QUICK)


@functools.cache
def own_products(name: str) -> list[int]:
    makes = {
        "sgd": lambda: None,
        "plain": ksam_jax.mean_gradient,
        "sam": ksam_jax.sam,
        "k_sam": functools.partial(ksam_jax.k_sam, k=0.25),
    }
    text = Program(program(makes[name]()).as_text())
    return products(text.within(text.entry))


@in_float32
@pytest.mark.xdist_group("hlo")
def test_a_plain_step_costs_what_sgd_costs():
    counts = [program(m).cost_analysis()["flops"] for m in (None, ksam_jax.mean_gradient())]
    assert counts[0] < counts[1] < 1.005 * counts[0]
    assert own_products("plain") == own_products("sgd")


@in_float32
@pytest.mark.xdist_group("hlo")
@pytest.mark.parametrize("second", ["sam", "k_sam"])
def test_the_other_method_stands_in_a_branch_of_its_own(second):
    """Every matrix product: SGD's in the one, the method's own in the other, none outside.

    SGD's five: two that lead forward and to each weight, but for the first layer none that
    leads back to its input.
    """
    other = {"sam": ksam_jax.sam(), "k_sam": ksam_jax.k_sam(k=0.25)}[second]
    late = ksam_jax.join_methods([ksam_jax.mean_gradient(), other], [1000])
    text = Program(program(late).as_text())
    plain, sharp = map(products, text.branches())
    assert plain == own_products("sgd")
    assert sharp == own_products(second)
    assert products(text.outside()) == []
    n, width = 512, 24
    backward = [n * width * 3, n * width * width]
    forward = [n * 16 * width, n * width * width, n * width * 3]
    assert own_products("sgd") == sorted([*forward, *forward, *backward])
    expected = 2 if second == "sam" else 1 / 3 + 2 * 0.25
    assert sum(sharp) / sum(plain) == pytest.approx(expected, rel=0.06)


@in_float32
@pytest.mark.xdist_group("hlo")
def test_look_sam_runs_one_gradient_in_between():
    text = Program(program(ksam_jax.look_sam(period=5)).as_text())
    sharp, plain = map(products, text.branches())
    assert plain == own_products("sgd")
    assert sharp == own_products("sam") == sorted(2 * own_products("sgd"))
    assert products(text.outside()) == []


@in_float32
@pytest.mark.xdist_group("hlo")
def test_the_products_of_a_small_program_are_counted():
    def f(a: Any, b: Any, i: Any) -> Any:
        return jax.lax.switch(i, [lambda: a @ b, lambda: (a @ b) @ b.T @ b]) + a[:, :4]

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in [(5, 6), (6, 4)]]
    number = jax.ShapeDtypeStruct((), jnp.int32)
    text = Program(jax.jit(f).lower(*shapes, number).compile(QUICK).as_text())
    assert list(map(products, text.branches())) == [[120], [120, 120, 120]]
    assert products(text.outside()) == []
    _, parameters = text.predicate()
    assert len(parameters) == 1
    assert "s32[] parameter(2)" in parameters.pop()


# --------------------------------------------------------- every(otherwise=None)


def test_the_plain_step_in_between_takes_over_how_the_method_is_run():
    """Microbatches, a mask and an axis: as if they had been passed to both."""
    seen: set[int] = set()

    def told(params: Any, batch: Any) -> Any:
        seen.add(len(batch["a"]))
        return loss_fn(params, batch)

    mask = {"u": True, "v": False}
    tx = ksam_jax.every(2, ksam_jax.sam(RHO, num_microbatches=4, mask=mask))
    found = walk(updater(tx, told), tx.init(as_tree(WEIGHTS)), batches(2))
    assert seen == {N // 4}
    assert float(found[1][1].ascent_norm) == pytest.approx(abs(flat(found[1][0])[0]))
    expected = numbers(1).gradient(WEIGHTS - RATE * flat(found[0][0]))
    np.testing.assert_allclose(flat(found[1][0]), expected, rtol=1e-12)


@pytest.mark.parametrize("wrap", ["method", "switch"])
def test_the_plain_step_in_between_averages_over_the_method_s_axis(wrap):
    method = METHODS["k_sam"](axis_name="data", sync_ascent=False)
    if wrap == "switch":
        method = ksam_jax.join_methods([method, method], [1])
    tx = ksam_jax.every(2, method)
    params = as_tree(WEIGHTS)
    parts = [jax.tree.map(lambda x: x.reshape(2, N // 2, -1), b) for b in batches(2)]
    spread = jax.vmap(
        updater(tx, loss_fn), in_axes=(None, None, 0), out_axes=None, axis_name="data"
    )
    found = walk(quick_jit(spread), tx.init(params), parts)
    expected = numbers(1).gradient(WEIGHTS - RATE * flat(found[0][0]))
    np.testing.assert_allclose(flat(found[1][0]), expected, rtol=1e-12)


# ------------------------------------------------------------------ what is refused


def step_of(tx: Any) -> Any:
    params = as_tree(WEIGHTS)
    return updater(tx, loss_fn)(tx.init(params), params, batches(1)[0])


def init_of(tx: Any) -> Any:
    return tx.init(as_tree(WEIGHTS))


plain, sam, k_sam = ksam_jax.mean_gradient, ksam_jax.sam, ksam_jax.k_sam
join, every = ksam_jax.join_methods, ksam_jax.every
sgd = optax.sgd(0.1)
along = {"axis_name": "data"}
MEMORIES = [
    ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(0.1), descent=ksam_jax.highest_remembered_loss(3, n)
    )
    for n in (10, 20)
]

REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "another axis": (
        lambda: join([plain(), k_sam(**along)], [1]),
        ValueError,
        r"join_methods\(methods\[0\], methods\[1\]\): axis_name must be the same in all "
        r"methods.*got 'data' and None; pass one to each",
    ),
    "another axis in between": (
        lambda: every(2, sam(**along), plain(axis_name="other")),
        ValueError,
        r"every\(method, otherwise\): axis_name must be.*got 'data' and 'other'",
    ),
    "another axis in a switch": (
        lambda: join([plain(), every(2, sam(**along))], [1]),
        ValueError,
        r"join_methods\(.*axis_name must be the same in all",
    ),
    "no method": (
        lambda: init_of(join([plain(), sgd], [1])),
        ValueError,
        r"join_methods\(methods\[1\]=\.\.\.\): methods\[1\] must be one sharpness-aware "
        r"transformation.*it has 0 of them; for a plain step pass ksam_jax.mean_gradient",
    ),
    "two methods": (
        lambda: init_of(every(2, sam(), optax.chain(sam(), k_sam()))),
        ValueError,
        r"every\(otherwise=\.\.\.\): otherwise must be one sharpness-aware "
        r"transformation.*it has 2 of them",
    ),
    "no transformation": (
        lambda: join([plain(), k_sam], [1]),
        TypeError,
        r"join_methods\(methods\[1\]=\.\.\.\): methods\[1\] must be a method such as",
    ),
    "no transformation every": (
        lambda: every(2, None),
        TypeError,
        r"every\(method=\.\.\.\): method must be a method such as ksam_jax.k_sam\(\)",
    ),
    "no methods": (
        lambda: join([], []),
        ValueError,
        r"join_methods\(methods=\[\]\): methods must have 1 or more items",
    ),
    "too few boundaries": (
        lambda: join([plain(), sam(), k_sam()], [1]),
        ValueError,
        r"join_methods\(methods=<3>, boundaries=<1>\): boundaries must be one fewer than "
        r"methods.*got 3 methods and 1 boundaries",
    ),
    "too many boundaries": (
        lambda: join([plain()], [1]),
        ValueError,
        r"join_methods\(methods=<1>, boundaries=<1>\).*one fewer than methods",
    ),
    "falling boundaries": (
        lambda: join([plain(), sam(), k_sam()], [5, 3]),
        ValueError,
        r"join_methods\(boundaries=\[5, 3\]\): boundaries must be in rising order; got 5 "
        r"before 3; sort them",
    ),
    "a negative boundary": (
        lambda: join([plain(), sam()], [-1]),
        ValueError,
        r"join_methods\(boundaries=-1\): boundaries must be an integer >= 0.*got -1",
    ),
    "a boundary that is too large": (
        lambda: join([plain(), sam()], [2**31]),
        ValueError,
        r"join_methods\(boundaries=2147483648\).*that 32 bits can hold",
    ),
    "a float": (
        lambda: join([plain(), sam()], [0.5]),
        TypeError,
        r"join_methods\(boundaries=0.5\): boundaries must be an integer >= 0",
    ),
    "a bool": (
        lambda: join([plain(), sam()], [True]),
        TypeError,
        r"join_methods\(boundaries=True\): boundaries must be an integer >= 0",
    ),
    "a traced float": (
        lambda: jax.jit(lambda b: step_of(join([plain(), sam()], [b]))[0])(2.0),
        TypeError,
        r"join_methods\(boundaries=<traced>\): boundaries must be an integer >= 0",
    ),
    "a period of zero": (
        lambda: every(0, sam()),
        ValueError,
        r"every\(period=0\): period must be an integer >= 1",
    ),
    "half a period": (
        lambda: every(1.5, sam()),
        TypeError,
        r"every\(period=1.5\): period must be an integer >= 1",
    ),
    "a chain without otherwise": (
        lambda: every(2, optax.chain(sam(), sgd)),
        ValueError,
        r"every\(otherwise=None\): otherwise must be given where method is wrapped or",
    ),
    "an injected one without otherwise": (
        lambda: every(2, optax.inject_hyperparams(sam)(rho=0.1)),
        ValueError,
        r"every\(otherwise=None\): otherwise must be given where method is wrapped or",
    ),
    "shared that isn't there": (
        lambda: init_of(every(2, sam(), shared=("perturbation",))),
        ValueError,
        r'every\(shared=\("perturbation",\)\): shared must name what is alike in all '
        r"methods.*leave it out",
    ),
    "shared of another size": (
        lambda: init_of(join(MEMORIES, [1], shared=("descent",))),
        ValueError,
        r'join_methods\(shared=\("descent",\)\): shared must name what is alike.*10.*20',
    ),
    "shared of a switch": (
        lambda: init_of(join([every(2, sam()), sam()], [1], shared=("perturbation",))),
        ValueError,
        r'join_methods\(shared=\("perturbation",\)\): shared must name what all methods '
        r"have, and one of them is a switch",
    ),
    "shared info": (
        lambda: every(2, sam(), shared=("info",)),
        ValueError,
        r"every\(shared='info'\): shared must be one of \"perturbation\", \"ascent\", "
        r'"descent", "combine"',
    ),
    "a state of a method": (
        lambda: every(2, sam()).update(
            None, init_of(sam()), as_tree(WEIGHTS), loss_fn=loss_fn, batch=batches(1)[0]
        ),
        TypeError,
        r"tx\.update\(state=\.\.\.\): state must be what init or the last update "
        r"returned, a SwitchState; got type SharpnessAwareState",
    ),
    "a state of more methods": (
        lambda: join([sam(), sam()], [1]).update(
            None,
            init_of(join([sam(), sam(), sam()], [1, 2])),
            as_tree(WEIGHTS),
            loss_fn=loss_fn,
            batch=batches(1)[0],
        ),
        (TypeError, ValueError),  # type: ignore[dict-item]
        r"update\(state=\.\.\.\)",
    ),
    "a gradient that one method can't use": (
        lambda: quick_jit(updater(join([plain(), k_sam(k=3)], [2]), loss_fn))(
            init_of(join([plain(), k_sam(k=3)], [2])),
            as_tree(WEIGHTS),
            batches(1)[0],
            as_tree(WEIGHTS),
        ),
        ValueError,
        r"k_sam\(k=3\) doesn't climb along the gradient over the whole batch.*pass None",
    ),
    "no loss": (
        lambda: every(2, sam()).update(None, init_of(every(2, sam())), as_tree(WEIGHTS)),
        ValueError,
        r"tx\.update\(loss_fn=None\): loss_fn is missing",
    ),
    "two switches to read": (
        lambda: ksam_jax.get_info([init_of(every(2, sam()))] * 2),
        ValueError,
        r"get_info\(opt_state\).*exactly one sharpness-aware transformation; found 2",
    ),
    "climbing apart on one device": (
        lambda: plain(sync_ascent=False),
        ValueError,
        r"mean_gradient\(sync_ascent=False\): sync_ascent=False needs axis_name",
    ),
    "an argument of another": (
        lambda: plain(rho=0.1),
        TypeError,
        r"mean_gradient\(rho=\.\.\.\): there is no such argument",
    ),
    "GSAM apart": (
        lambda: ksam_jax.gsam(sync_ascent=False, groups=2),
        ValueError,
        r"gsam\(sync_ascent=False\): sync_ascent must be True, since combine is given",
    ),
    "LookSAM apart": (
        lambda: ksam_jax.look_sam(sync_ascent=False, **along),
        ValueError,
        r"look_sam\(sync_ascent=False\): sync_ascent must be True, since combine is given",
    ),
    "GSAM's weight": (
        lambda: ksam_jax.gsam(alpha=-0.1),
        ValueError,
        r"gsam\(alpha=-0.1\): alpha must be a finite number >= 0",
    ),
    "LookSAM's weight": (
        lambda: ksam_jax.look_sam(alpha=np.inf),
        ValueError,
        r"look_sam\(alpha=inf\): alpha must be a finite number >= 0",
    ),
    "LookSAM's period": (
        lambda: ksam_jax.look_sam(period=0),
        ValueError,
        r"look_sam\(period=0\): period must be an integer >= 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_said_and_what_to_do(name):
    attempt, kind, match = REFUSED[name]
    with pytest.raises(kind, match=re.compile(match, re.DOTALL)):
        attempt()


def test_a_name_and_a_tuple_of_that_name_are_the_same_axis():
    tx = join([plain(axis_name=("data",)), sam(RHO, axis_name="data")], [1])
    parts = jax.tree.map(lambda x: x.reshape(2, N // 2, -1), batches(1)[0])
    params = as_tree(WEIGHTS)
    spread = jax.vmap(
        updater(tx, loss_fn), in_axes=(None, None, 0), out_axes=None, axis_name="data"
    )
    updates, _ = spread(tx.init(params), params, parts)
    expected = numbers(0).gradient(WEIGHTS)
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-12)


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


def look_by_hand(alpha: float, period: int, steps: int = STEPS) -> list[np.ndarray]:
    w, v, found = WEIGHTS, np.zeros(4), []
    for t in range(steps):
        g, h = numbers(t).gradient(w), numbers(t).sam(w)
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

    def run(period: Any) -> Any:
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
    assert traced._cache_size() == 1


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
    assert_close(*[[s[:2] for s in run] for run in runs], 1e-12, 1e-12)
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
        np.testing.assert_allclose(
            flat(updates), numbers(0).gradient(WEIGHTS), rtol=1e-12
        )
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


# ------------------------------------------------------- killed, across the boundary

TRAINED, BOUNDARY = 40, 6


def trainer() -> Any:
    """A step of what the program trains: momentum, draws and Adam, none of them at rest."""
    tx: Any = ksam_jax.join_methods(
        [
            optax.chain(ksam_jax.momentum_sam(0.1, decay=0.8), optax.sgd(0.05, 0.9)),
            optax.chain(
                ksam_jax.look_sam(0.1, period=2, num_microbatches=2), optax.adam(0.01)
            ),
            optax.chain(ksam_jax.random_sam(0.1, m=4, seed=3), optax.sgd(0.05, 0.9)),
        ],
        [BOUNDARY, 2 * BOUNDARY],
    )
    loss = ksam_jax.per_example(mlp_loss_with_aux)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = tx.update(
            None, state, params, loss_fn=loss, batch=batch, has_aux=True
        )
        _, state = ksam_jax.take_aux(state)
        return optax.apply_updates(params, updates), state

    return tx, step


def trained(start: Any, first: int, save: Callable[[int, Any], None]) -> Any:
    """Runs steps `first` to the last on batches that the number of the step names."""
    (params, state), (_, step) = start, trainer()
    for t in range(first, TRAINED):
        params, state = step(params, state, mlp_batch(t))
        save(t, (params, state))
    return params, state


def newest(folder: Path) -> int:
    """The last checkpoint that was written to the end, by the step that made it."""
    return max(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def train_and_save(folder: Path) -> None:
    """Checkpoints each step, says so, and waits to be killed in the end."""
    params = mlp(width=4).params

    with ocp.StandardCheckpointer() as checkpointer:

        def save(t: int, run: Any) -> None:
            checkpointer.save(folder / str(t), run)
            checkpointer.wait_until_finished()
            print(t, flush=True)

        trained((params, trainer()[0].init(params)), 0, save)
    signal.pause()


def resume(folder: Path, steps: list[int]) -> None:
    """Prints the weights in the end of runs that go on from checkpoints; -1 is none."""
    found = {}
    for last in steps:
        params = mlp(width=4).params
        start = (params, trainer()[0].init(params))
        if last >= 0:
            with ocp.StandardCheckpointer() as checkpointer:
                start = checkpointer.restore(folder / str(last), start)
        run = trained(start, last + 1, lambda t, run: None)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(run)]
        found[last] = [leaf.tobytes().hex() for leaf in leaves]
    print(json.dumps(found))


def started(*args: Any) -> Any:
    own = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}
    kept = {n: x for n, x in os.environ.items() if not n.startswith(("XLA_", "JAX_"))}
    command = [sys.executable, __file__, *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=kept | own)


def wait_for(process: Any, line: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ready, _, _ = select.select([process.stdout], [], [], 1.0)
        found = process.stdout.readline() if ready else ""
        if found.strip() == line:
            return
        assert process.poll() is None, process.stderr.read()[-3000:]
    raise TimeoutError(line)


@pytest.mark.slow
def test_a_run_that_is_killed_behind_a_boundary_resumes_to_the_same_bits(tmp_path):
    killed = started("train", tmp_path)
    try:
        wait_for(killed, str(BOUNDARY + 1))
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    last = newest(tmp_path)
    assert BOUNDARY + 1 <= last < TRAINED - 1
    points = [-1, 2, BOUNDARY - 1, BOUNDARY, last]
    resumed = started("resume", tmp_path, *points)
    out, error = resumed.communicate(timeout=150)
    assert resumed.returncode == 0, error[-3000:]
    found = json.loads(out)
    assert set(found) == set(map(str, points))
    uninterrupted = found["-1"]
    assert len(uninterrupted) > 20
    for point in points:
        assert found[str(point)] == uninterrupted


if __name__ == "__main__":
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # Adam needs it.
    if sys.argv[1] == "train":
        train_and_save(Path(sys.argv[2]))
    else:
        resume(Path(sys.argv[2]), [int(n) for n in sys.argv[3:]])
