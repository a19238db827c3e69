"""Methods that start late, or run now and then: each as if by itself."""

import contextlib
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from problems import (
    abstract,
    assert_close,
    assert_same,
    batched,
    is_zero,
    on_one_worker,
    quick_jit,
    stacked,
    updater,
)
from turns import (
    RATE,
    RHO,
    STEPS,
    WEIGHTS,
    N,
    as_tree,
    batches,
    example_loss_with_aux,
    flat,
    loss_fn,
    moved,
    numbers,
    rising,
    walk,
)
from turns import float32 as float32
from turns import float64 as float64

import ksam_jax

# ------------------------------------------------- a switch, and each method by itself


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
    "by_coverage": functools.partial(
        ksam_jax.k_sam, rho=rising, k=ksam_jax.by_coverage(0.8, (2, 5, N), decay=0.5)
    ),
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
    "of several sizes": joined("plain", "by_coverage", at=[2]),
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
        assert_close(pair[0], pair[1], 1e-12, 1e-12)
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
        # What a step doesn't look at, as the info of the last one, isn't taken from it.
        given = params, state._replace(info=None, both_finite=None)
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
    loss, traces = loss if form == "batch" else own, []

    @quick_jit
    def update(state: Any, params: Any, batch: Any) -> Any:
        traces.append(1)
        found = tx.update(None, state, params, loss_fn=loss, batch=batch, has_aux=True)
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
    assert len(traces) == 1


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


def test_a_climb_that_overflows_alone_is_seen_through_a_switch():
    """The updates are finite: it was a plain step. A plain step passes the gradient on."""
    late_sam = ksam_jax.join_methods([METHODS["plain"](), ksam_jax.sam(RHO)], [1])
    tx: Any = ksam_jax.dynamic_loss_scale(optax.chain(late_sam, optax.sgd(RATE)))
    update, params = quick_jit(updater(tx, loss_fn)), as_tree(WEIGHTS)
    good = as_tree(numbers(0).gradient(WEIGHTS))
    bad = jax.tree.map(lambda g: g * jnp.inf, good)
    state, batch = tx.init(params), batches(1)[0]
    for given, steps, expected in (
        (bad, 0, np.zeros(4)),
        (good, 1, flat(good)),
        (bad, 1, np.zeros(4)),
        (good, 2, numbers(0).sam(WEIGHTS)),
    ):
        updates, state = update(state, params, batch, given)
        np.testing.assert_allclose(flat(updates), -RATE * expected, rtol=1e-12)
        assert int(state.inner[0].steps) == steps
    assert int(state.skipped) == 2


def test_aux_that_nobody_took_changes_no_later_step():
    tx, with_aux = compiled("late").tx, batched(example_loss_with_aux)
    update = updater(tx, with_aux, has_aux=True)
    found = walk(update, tx.init(as_tree(WEIGHTS)), batches(4))
    assert_close([s[:2] for s in found], [s[:2] for s in run_of("late")[:4]], 1e-12)
    first = numbers(3).slopes[:, 0] * float(found[3][3]["u"][0])
    np.testing.assert_allclose(found[3][2].aux["first"], first, rtol=1e-12)


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
    tx: Any = ksam_jax.every(2, first, second)
    params, case, traces = as_tree(WEIGHTS), in_turn(2, "plain", "plain"), []

    def told(params: Any, batch: Any) -> Any:
        traces.append(1)
        return loss_fn(params, batch)

    parts = [optax.with_extra_args_support(x) for x in (first, second)]
    with jax.numpy_dtype_promotion("standard"):  # Adam needs it.
        update = quick_jit(updater(tx, told))
        alone = [quick_jit(updater(part, loss_fn)) for part in parts]
        state, states = tx.init(params), [part.init(params) for part in parts]
        before, first_trace = abstract(state), 0
        for t, batch in enumerate(batches(5)):
            updates, state = update(state, params, batch)
            first_trace = len(traces) if t == 0 else first_trace
            i = case.turn(t)
            expected, states[i] = alone[i](states[i], params, batch)
            assert_close(updates, expected, 1e-12, 1e-12)
            info, other = ksam_jax.get_info(state), ksam_jax.get_info(states[i])
            assert_close(info, other, 1e-12, 1e-12)
            assert abstract(state) == before
            params = optax.apply_updates(params, updates)
    assert len(traces) == first_trace > 0

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
    second = ksam_jax.k_momentum_sam(rho=rho, k=3, decay=decay, mean_over="chosen")
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
        ksam_jax.highest_remembered_loss(
            k, N, index=lambda b: jnp.arange(len(b["a"])), mean_over="chosen"
        )
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


@contextlib.contextmanager
def as_users_have_it() -> Any:
    """Without the type checks that only the tests switch on."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def step_of(tx: Any) -> Any:
    params = as_tree(WEIGHTS)
    return updater(tx, loss_fn)(tx.init(params), params, batches(1)[0])


def init_of(tx: Any) -> Any:
    return tx.init(as_tree(WEIGHTS))


# What is wrong is not to be found by a type checker.
wrong: Any = ksam_jax
plain, sam, k_sam = wrong.mean_gradient, wrong.sam, wrong.k_sam
join, every = wrong.join_methods, wrong.every
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
        r"join_methods\(boundaries=2147483648\).*below 2\*\*31; got 2147483648",
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
        r"every\(otherwise=None\): otherwise must be given where method isn't one of",
    ),
    "an injected one without otherwise": (
        lambda: every(2, optax.inject_hyperparams(sam)(rho=0.1)),
        ValueError,
        r"every\(otherwise=None\): otherwise must be given where method isn't one of",
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
        TypeError,
        r"update\(state=\.\.\.\): state must be what init or the last update returned",
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
        lambda: wrong.look_sam(sync_ascent=False, **along),
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
    with as_users_have_it(), pytest.raises(kind, match=re.compile(match, re.DOTALL)):
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
