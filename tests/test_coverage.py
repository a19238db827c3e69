"""k by coverage, against NumPy in float64: which size runs, and what it makes of it."""

import functools
import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from problems import quick_jit
from test_oracles import (
    LEARNING_RATE,
    MOMENTUM,
    N,
    as_jax,
    batches,
    check_trees_equal,
    loss_in_form,
    stacked,
    start,
)

import ksam_jax

SHARE, AMONG, DECAY, RHO = 0.6, (0.2, 0.4, 1.0), 0.7, 0.15


@pytest.fixture(autouse=True)
def float64() -> Any:
    with jax.enable_x64(True):
        yield


# -------------------------------------------------------------------- the oracle


class Memory:
    """The average of what each size has carried, and whose turn it is."""

    def __init__(self, while_falling: float | None = None, window: int = 20) -> None:
        self.carried: np.ndarray | None = None
        self.ran: list[int] = []
        self.while_falling, self.window = while_falling, window
        self.means: list[float] = []
        self.climbs = True

    def averages(self) -> list[np.float32]:
        """Of the mean loss, after each step."""
        weight, found = np.float32(min(1.0, 4 / self.window)), [np.float32(self.means[0])]
        for mean in self.means[1:]:
            found.append(found[-1] + weight * (np.float32(mean) - found[-1]))
        return found

    def is_falling(self) -> bool:
        """Whether at every look the average was lower by that share than at the last."""
        if self.while_falling is None:
            return False
        if not self.means:
            return True
        average = self.averages()
        # The first step is no look, also where the window is one step.
        looks = [average[0], *average[max(self.window - 1, 1) :: self.window]]
        return all(b < (1 - self.while_falling) * a for a, b in itertools.pairwise(looks))

    def size(self) -> float:
        """The smallest size that has carried enough; at first the largest."""
        turn = len(AMONG) - 1
        self.climbs = not self.is_falling()
        if not self.climbs:
            turn = 0
        elif self.carried is not None:
            enough = [i for i, c in enumerate(self.carried) if c >= SHARE]
            turn = enough[0] if enough else turn
        self.ran.append(turn)
        return AMONG[turn]

    def see(self, losses: list[float], skip: int) -> None:
        ranked = sorted((max(x, 0.0) for x in losses), reverse=True)[skip:]
        self.means.append(float(np.mean([max(x, 0.0) for x in losses])))
        sizes = [min(oracles.count(a, len(losses)), len(ranked)) for a in AMONG]
        new = np.array([sum(ranked[:k]) / sum(ranked) for k in sizes], np.float32)
        old = new if self.carried is None else self.carried
        self.carried = (new + np.float32(DECAY) * (old - new)).astype(np.float32)


def k_sam_by_coverage(
    memory: Memory, mean_over: str, skip: int = 0, climb_up_to: float = 1 / 3
) -> oracles.Method:
    """K-SAM of that size; above `climb_up_to` the descent alone."""

    def step(t: int, params: oracles.Tree, batch: oracles.Batch) -> oracles.Step:
        size, losses = memory.size(), oracles.losses(params, batch)
        memory.see(losses, skip)
        taken = min(oracles.count(size, N), N - skip)
        radius = RHO if memory.climbs and size <= climb_up_to else 0.0
        return oracles.k_sam(lambda _: radius, taken, skip, mean_over)(t, params, batch)

    return step


def k_momentum_by_coverage(
    memory: Memory, decay: float, climb_up_to: float = 1 / 3
) -> oracles.Method:
    past: list[oracles.Tree] = []

    def step(t: int, params: oracles.Tree, batch: oracles.Batch) -> oracles.Step:
        m = past[-1] if past else oracles.scaled(params, 0.0)
        size = memory.size()
        radius = RHO if memory.climbs and size <= climb_up_to else 0.0
        eps = oracles.to_radius(oracles.scaled(m, -1.0), radius)
        moved = oracles.add(params, eps)
        losses = oracles.losses(moved, batch)
        examples = oracles.highest(losses, oracles.count(size, N))
        memory.see(losses, 0)
        u = oracles.mean_gradient(moved, batch, examples, "batch")
        past.append(oracles.add(oracles.scaled(m, decay), oracles.scaled(u, 1 - decay)))
        return oracles.Step(u, eps, oracles.scaled(m, -1.0), examples)

    return step


def coverage(**given: Any) -> Any:
    return ksam_jax.by_coverage(SHARE, AMONG, decay=DECAY, **given)


def trained(tx: Any, form: str) -> Any:
    chain: Any = optax.chain(tx, optax.sgd(LEARNING_RATE, momentum=MOMENTUM))

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        loss = loss_in_form(form)
        updates, state = chain.update(None, state, params, loss_fn=loss, batch=batch)
        return (optax.apply_updates(params, updates), state), ksam_jax.get_info(state)

    @quick_jit
    def run(params: Any, given: Any) -> Any:
        (params, state), info = lax.scan(step, (params, chain.init(params)), given)
        return params, state, info

    return run(as_jax(start()), stacked())


def oracle_run(method: oracles.Method) -> oracles.Run:
    return oracles.train(method, start(), batches(), LEARNING_RATE, MOMENTUM)


@pytest.mark.parametrize("form", ["batch", "all"])
@pytest.mark.parametrize(
    ("mean_over", "skip", "climb_up_to"),
    [("chosen", 0, 1 / 3), ("batch", 0, 0.4), ("batch", 2, 1 / 3), ("batch", 0, 1.0)],
)
def test_k_sam_equals_the_numpy_reference(mean_over, skip, climb_up_to, form):
    memory = Memory()
    expected = oracle_run(k_sam_by_coverage(memory, mean_over, skip, climb_up_to))
    k = coverage(climb_up_to=climb_up_to)
    tx = ksam_jax.k_sam(RHO, k, skip or None, mean_over)
    params, state, info = trained(tx, form)
    check_trees_equal(params, expected.params, 1e-9)
    ran = [len(step.descent_examples) / N for step in expected.steps]
    np.testing.assert_allclose(info.examples, ran)
    # Otherwise the sizes would not have changed on the way.
    assert len(set(memory.ran)) > 1
    known: Any = memory.carried
    np.testing.assert_allclose(state[0].ascent.carried, known, rtol=1e-5)
    np.testing.assert_allclose(info.loss, expected.loss, rtol=1e-9)
    np.testing.assert_allclose(info.cosine, expected.cosine, rtol=1e-9)


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_while_the_loss_falls_the_smallest_size_equals_the_numpy_reference(window):
    memory = Memory(while_falling=0.02, window=window)
    tx = ksam_jax.k_sam(RHO, coverage(while_falling=0.02, window=window), mean_over="batch")
    params, state, info = trained(tx, "batch")
    expected = oracle_run(k_sam_by_coverage(memory, "batch"))
    check_trees_equal(params, expected.params, 1e-9)
    ran = [len(step.descent_examples) / N for step in expected.steps]
    np.testing.assert_allclose(info.examples, ran)
    known: Any = memory.averages()
    np.testing.assert_allclose(state[0].ascent.loss, known[-1], rtol=1e-6)
    # The smallest first; what takes over isn't it, or nothing would show.
    assert memory.ran[:window] == [0] * window
    assert window == 1 or 0 not in memory.ran[-2:]
    assert bool(state[0].ascent.is_falling) == memory.is_falling()


@pytest.mark.parametrize("climb_up_to", [0.1, 1 / 3, 0.4, 1.0])
@pytest.mark.parametrize("while_falling", [None, 0.02])
def test_k_momentum_sam_equals_the_numpy_reference(while_falling, climb_up_to):
    memory = Memory(while_falling, window=3)
    expected = oracle_run(k_momentum_by_coverage(memory, 0.9, climb_up_to))
    k = coverage(while_falling=while_falling, window=3, climb_up_to=climb_up_to)
    tx = ksam_jax.k_momentum_sam(RHO, k, 0.9, mean_over="batch")
    params, _, info = trained(tx, "all")
    check_trees_equal(params, expected.params, 1e-9)
    assert len(set(memory.ran)) > 1
    ran = [len(step.descent_examples) / N for step in expected.steps]
    np.testing.assert_allclose(info.examples, ran)


# --------------------------------------------------------------- what it promises


def linear(w: Any, batch: Any) -> jax.Array:
    """Losses that are the numbers of the batch, whatever w is; gradient 1 for each."""
    return batch + jnp.sum(w) - lax.stop_gradient(jnp.sum(w))


def walk(losses: Any, steps: int = 4, share: float = 0.7) -> Any:
    tx: Any = ksam_jax.k_sam(k=ksam_jax.by_coverage(share, (1 / 8, 1 / 4, 1 / 2, 1.0)))
    w = jnp.zeros(2)
    state = tx.init(w)

    @quick_jit
    def step(state: Any) -> Any:
        return tx.update(None, state, w, loss_fn=linear, batch=jnp.asarray(losses))[1]

    for _ in range(steps):
        state = step(state)
    return ksam_jax.get_info(state)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.69314718, -2.0])
def test_equal_losses_mean_all_examples(value):
    assert float(walk(np.full(16, value)).examples) == 1.0


@pytest.mark.parametrize(
    ("highest", "examples"), [(2, 1 / 8), (4, 1 / 4), (5, 1 / 2), (9, 1.0)]
)
def test_as_few_as_carry_the_share_are_run(highest, examples):
    """Sixteen losses, so many of them 1 and the others almost nothing."""
    info = walk(np.where(np.arange(16) < highest, 1.0, 1e-6), share=0.9)
    assert float(info.examples) == examples
    assert float(info.carried) >= 0.9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -5.0])
def test_bad_and_negative_losses_carry_nothing(bad):
    losses = np.where(np.arange(16) < 2, 1.0, 1e-6)
    losses[3:6] = bad
    info = walk(losses)
    assert float(info.examples) == 1 / 8
    assert float(info.carried) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("losses", "most"),
    [
        # Falls by a tenth in each of nine steps: no more between the looks at 12 and 16.
        ([0.9 ** min(t, 9) for t in range(20)], 16),
        ([1.0] * 12, 4),
        ([0.0] * 12, 4),
        ([-1.0] * 12, 4),
        ([math.nan] * 12, 4),
        ([2.0**t for t in range(12)], 4),
        ([1.0] * 2 + [math.nan] * 10, 4),
        ([0.5**t if t != 3 else math.inf for t in range(12)], 4),
        ([3e38, *[1.0] * 11], 8),
    ],
)
def test_only_a_loss_that_falls_lets_the_smallest_size_go_on(losses, most):
    k = ksam_jax.by_coverage(0.7, (1 / 4, 1.0), while_falling=0.1, window=4)
    tx: Any = ksam_jax.k_sam(k=k)
    w = jnp.zeros(2)
    state, ran = tx.init(w), []
    update = quick_jit(functools.partial(tx.update, None, loss_fn=linear))
    for loss in losses:
        _, state = update(state, w, batch=jnp.full(8, loss))
        ran.append(float(state.info.examples))
    # Equal losses: what takes over takes all, and for good.
    assert ran == [0.25] * most + [1.0] * (len(ran) - most)


def test_a_step_of_huge_losses_leaves_nothing_that_is_no_number():
    with jax.enable_x64(False):
        tx: Any = ksam_jax.k_sam(k=ksam_jax.by_coverage(0.8, while_falling=0.1))
        w = jnp.zeros(2)
        state = tx.init(w)
        for losses in ([1.0] * 4 + [0.01] * 4, [2e38] * 8, [1.0] * 8):
            batch = jnp.asarray(losses, "float32")
            _, state = tx.update(None, state, w, loss_fn=linear, batch=batch)
        assert np.all(np.isfinite(state.ascent.carried))
        assert np.isfinite(state.ascent.loss)


def test_a_step_that_takes_all_has_no_climb_but_a_schedule_goes_on():
    """Its radius in the third step is that of a count of 2."""
    rho: Any = optax.linear_schedule(0.1, 0.4, 3)
    k = ksam_jax.by_coverage(0.7, decay=0.0)
    tx: Any = ksam_jax.k_sam(rho, k)
    w = jnp.ones(3)
    state, radii = tx.init(w), []
    equal, one = jnp.ones(8), jnp.zeros(8).at[0].set(1.0)
    for batch in (equal, one, one, equal, one, one):
        update = functools.partial(tx.update, None, state, w, loss_fn=linear)
        _, state = update(batch=batch)
        radii.append(float(ksam_jax.get_info(state).perturbation_norm))
    # What the losses of a step say holds in the next.
    climbs = [False, False, True, True, False, True]
    expected = [float(rho(t)) if climbs[t] else 0.0 for t in range(6)]
    assert radii == pytest.approx(expected, rel=1e-6)


# -------------------------------------------------------------------- on devices


def device_step(tx: Any, check_vma: bool) -> Any:
    kinds = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((8,), ("data",), kinds, devices=jax.devices())
    w = jnp.ones(3)

    def step(state: Any, batch: Any) -> Any:
        return tx.update(None, state, w, loss_fn=linear, batch=batch)

    spread = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=(P(), P()),
        check_vma=check_vma,
    )
    return tx.init(w), jax.jit(spread)


@pytest.mark.parametrize("while_falling", [None, 0.1])
@pytest.mark.parametrize("check_vma", [True, False])
def test_all_devices_run_the_same_size_and_equal_groups_on_one(check_vma, while_falling):
    k = ksam_jax.by_coverage(0.7, climb_up_to=0.5, while_falling=while_falling, window=2)
    tx = ksam_jax.k_sam(k=k, axis_name="data", mean_over="batch")
    state, step = device_step(tx, check_vma)
    # Each device has four examples, and another share of its loss in the highest.
    batch = jnp.asarray(np.random.default_rng(2).exponential(size=32) ** 3)
    one: Any = ksam_jax.k_sam(k=k, groups=8, mean_over="batch")
    w = jnp.ones(3)
    other, seen = one.init(w), []
    for _ in range(4):
        updates, state = step(state, batch)
        expected, other = one.update(None, other, w, loss_fn=linear, batch=batch)
        np.testing.assert_allclose(updates, expected, rtol=1e-12)
        np.testing.assert_allclose(state.ascent.carried, other.ascent.carried, rtol=1e-6)
        seen.append(float(state.info.examples))
        assert seen[-1] == float(other.info.examples)
    assert len(set(seen)) > 1


def test_no_collective_is_added():
    """K-SAM's two in the size that climbs, SGD's one in those that don't."""
    found = {}
    for name, k in {"one size": 0.25, "sizes": ksam_jax.by_coverage(0.7)}.items():
        tx = ksam_jax.k_sam(k=k, axis_name="data")
        state, step = device_step(tx, check_vma=True)
        text = step.lower(state, jnp.ones(32)).compile().as_text()
        found[name] = len(re.findall(r"= .*\ball-reduce(?:-start)?\(", text))
    assert found["one size"] == 2
    assert found["sizes"] == 2 + 1 + 1


def test_what_is_carried_is_the_same_of_groups_however_they_are_made():
    batch = jnp.asarray(np.random.default_rng(3).exponential(size=32) ** 2)
    w = jnp.ones(3)
    tx = ksam_jax.k_sam(k=0.5, axis_name="data")
    state, step = device_step(tx, check_vma=True)
    found = [step(state, batch)[1].info.carried]
    for sync_ascent in (True, False):
        one: Any = ksam_jax.k_sam(k=0.5, groups=8, sync_ascent=sync_ascent)
        _, state = one.update(None, one.init(w), w, loss_fn=linear, batch=batch)
        found.append(state.info.carried)
    parts = -np.sort(-np.asarray(batch).reshape(8, 4), axis=1)
    expected = np.mean(parts[:, :2].sum(1) / parts.sum(1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# ------------------------------------------------------------------ bad arguments


def test_no_step_climbs_where_that_would_cost_more_than_sgd():
    """With a fixed size it does; along past steps, which is free, there's no more of it."""

    def radius(tx: Any) -> float:
        w = jnp.ones(3)
        state = tx.init(w)
        for _ in range(2):
            update = functools.partial(tx.update, None, state, w, loss_fn=linear)
            _, state = update(batch=jnp.ones(12))
        return float(ksam_jax.get_info(state).perturbation_norm)

    for among in (0.375, 1 / 2, 1.0, 5, 12):
        k = ksam_jax.by_coverage(0.7, (among,))
        assert radius(ksam_jax.k_sam(0.1, k)) == 0.0
        assert radius(ksam_jax.k_momentum_sam(0.1, k)) == 0.0
    for among in (1 / 3, 4):
        k = ksam_jax.by_coverage(0.7, (among,))
        assert radius(ksam_jax.k_sam(0.1, k)) == pytest.approx(0.1)
        assert radius(ksam_jax.k_momentum_sam(0.1, k)) == pytest.approx(0.1)
    assert radius(ksam_jax.k_sam(0.1, 1.0)) == pytest.approx(0.1)


def test_a_step_has_one_size():
    two = [ksam_jax.highest_loss(ksam_jax.by_coverage()) for _ in range(2)]
    radius = ksam_jax.scale_to_radius(0.1)
    match = "ascent and descent must be one object where both take by_coverage"
    with pytest.raises(ValueError, match=match):
        ksam_jax.sharpness_aware(radius, ascent=two[0], descent=two[1])
    ksam_jax.sharpness_aware(radius, ascent=two[0], descent=two[0])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"share": 0.0}, "share must be in (0, 1]"),
        ({"share": 1.5}, "share must be in (0, 1]"),
        ({"share": np.nan}, "share must be in (0, 1]"),
        ({"decay": 1.0}, "decay must be in [0, 1)"),
        ({"among": ()}, "among must have 1 or more items"),
        ({"among": (0.5, 0.25)}, "among must be in rising order"),
        ({"among": (0.5, 0.5)}, "among must be in rising order"),
        ({"among": (0.5, 2.0)}, "among must be an integer >= 1"),
        ({"while_falling": 0.0}, "while_falling must be in (0, 1), or None"),
        ({"while_falling": 1.0}, "while_falling must be in (0, 1), or None"),
        ({"window": 0}, "window must be an integer >= 1"),
        ({"climb_up_to": 0.0}, "climb_up_to must be an integer >= 1"),
    ],
)
def test_a_wrong_argument_is_named(given, words):
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        ksam_jax.by_coverage(**given)
