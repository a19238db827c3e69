"""Switches, GSAM and LookSAM on several devices, against NumPy: 8 virtual CPU devices.

And from compiled HLO: which collectives stand in which branch, and that all devices take
the same one, since what decides it is the count of steps alone.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import QUICK, assert_close, mean_loss, quick_jit, stacked, updater
from test_two_gradients import look_by_hand, without
from test_when_paid import Program, network, network_loss, products
from turns import (
    RATE,
    RHO,
    WEIGHTS,
    Numbers,
    as_batch,
    as_tree,
    example_loss,
    flat,
    loss_fn,
    moved,
)

import ksam_jax
from experiments.costs.devices.collectives import Collective, in_hlo

DEVICES, EACH, STEPS = 8, 3, 5
BOUNDARY = 2


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


# ------------------------------------------------------------------- in NumPy


def numbers(t: int) -> Numbers:
    """A batch whose parts differ from device to device."""
    rng = np.random.default_rng(80 + t)
    shift = np.repeat(rng.normal(size=(DEVICES, 4)), EACH, axis=0)
    n = DEVICES * EACH
    return Numbers(shift + rng.normal(0.3, 1.0, (n, 4)), rng.normal(0.2, 1.0, (n, 4)))


def parts(whole: Numbers) -> list[Numbers]:
    """What each device has."""
    halves = [np.split(array, DEVICES) for array in whole]
    return [Numbers(*pair) for pair in zip(*halves, strict=True)]


def climbed(w: np.ndarray, g: np.ndarray) -> np.ndarray:
    return w + RHO * g / np.linalg.norm(g)


def plain(w: np.ndarray, whole: Numbers) -> np.ndarray:
    return whole.gradient(w)


def k_sam(w: np.ndarray, whole: Numbers, sync: bool) -> np.ndarray:
    """Each device has the one of its examples whose loss is highest."""
    own = [(part, [int(part.losses(w).argmax())]) for part in parts(whole)]
    uphill = [part.gradient(w, rows) for part, rows in own]
    if sync:
        uphill = [np.mean(uphill, axis=0)] * DEVICES
    found = [
        part.gradient(climbed(w, g), rows)
        for (part, rows), g in zip(own, uphill, strict=True)
    ]
    return np.mean(found, axis=0)


def sam_apart(w: np.ndarray, whole: Numbers) -> np.ndarray:
    return np.mean([p.gradient(climbed(w, p.gradient(w))) for p in parts(whole)], axis=0)


def walk(step: Callable[[int, np.ndarray, Numbers], np.ndarray]) -> np.ndarray:
    """The updates of a run by hand."""
    w, found = WEIGHTS, []
    for t in range(STEPS):
        found.append(step(t, w, numbers(t)))
        w = w - RATE * found[-1]
    return np.stack(found)


# ----------------------------------------------------------------- ways to spread it


class Trained(NamedTuple):
    updates: Any
    info: Any


def train(tx: Any, params: Any, batches: Any, loss: Any = loss_fn) -> Trained:
    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        updates, state = updater(tx, loss)(state, params, batch)
        return (moved(params, updates), state), (updates, ksam_jax.get_info(state))

    _, found = lax.scan(step, (params, tx.init(params)), batches)
    return Trained(*found)


def inputs() -> Any:
    return stacked([as_batch(numbers(t)) for t in range(STEPS)])


def mesh(kind: AxisType = AxisType.Auto) -> Any:
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(kind,))


def in_shard_map(make: Any, check_vma: bool, **common: Any) -> Trained:
    run = functools.partial(train, make(axis_name="data", **common))
    spread = jax.shard_map(
        run,
        mesh=mesh(),
        in_specs=(P(), P(None, "data")),
        out_specs=P(),
        check_vma=check_vma,
    )
    return quick_jit(spread)(as_tree(WEIGHTS), inputs())


def in_vmap(make: Any, **common: Any) -> Trained:
    run = functools.partial(train, make(axis_name="data", **common))
    split = jax.tree.map(lambda x: x.reshape(STEPS, DEVICES, EACH, 4), inputs())
    spread = jax.vmap(run, in_axes=(None, 1), out_axes=None, axis_name="data")
    return quick_jit(spread)(as_tree(WEIGHTS), split)


def in_groups(make: Any, **common: Any) -> Trained:
    run = functools.partial(train, make(groups=DEVICES, **common))
    return quick_jit(run)(as_tree(WEIGHTS), inputs())


def on_a_mesh(make: Any, kind: AxisType, **common: Any) -> Trained:
    run, here = functools.partial(train, make(groups=DEVICES, **common)), mesh(kind)
    with jax.set_mesh(here):
        params = jax.device_put(as_tree(WEIGHTS), NamedSharding(here, P()))
        batches = jax.device_put(inputs(), NamedSharding(here, P(None, "data")))
        return jax.device_get(quick_jit(run)(params, batches))


WAYS: dict[str, Callable[..., Trained]] = {
    "shard_map": functools.partial(in_shard_map, check_vma=True),
    "shard_map, check_vma=False": functools.partial(in_shard_map, check_vma=False),
    "vmap": in_vmap,
    "groups": in_groups,
    "groups, Auto mesh": functools.partial(on_a_mesh, kind=AxisType.Auto),
    "groups, Explicit mesh": functools.partial(on_a_mesh, kind=AxisType.Explicit),
}
ways = pytest.mark.parametrize("way", WAYS)


def steps_of(found: Trained) -> np.ndarray:
    each = [jax.tree.map(lambda x, t=t: x[t], found.updates) for t in range(STEPS)]
    return np.stack([flat(updates) for updates in each])


# ---------------------------------------------------- a switch is what NumPy makes of it


def late(**common: Any) -> Any:
    plain_one = ksam_jax.mean_gradient(**common)
    return ksam_jax.join_methods(
        [plain_one, ksam_jax.k_sam(RHO, k=1, mean_over="chosen", **common)], [BOUNDARY]
    )


def now_and_then(**common: Any) -> Any:
    """Of which the plain steps know the axis and the groups from the method."""
    return ksam_jax.every(2, ksam_jax.k_sam(RHO, k=1, mean_over="chosen", **common))


def nested(**common: Any) -> Any:
    """Every second step SAM, until its turn is over."""
    first = ksam_jax.every(2, ksam_jax.sam(RHO, **common))
    return ksam_jax.join_methods(
        [first, ksam_jax.k_sam(RHO, k=1, mean_over="chosen", **common)], [3]
    )


@pytest.mark.parametrize("sync", [True, False])
@ways
def test_a_late_k_sam_on_devices_is_that_of_numpy(way, sync):
    found = WAYS[way](late, sync_ascent=sync)

    def by_hand(t: int, w: np.ndarray, whole: Numbers) -> np.ndarray:
        return plain(w, whole) if t < BOUNDARY else k_sam(w, whole, sync)

    np.testing.assert_allclose(steps_of(found), walk(by_hand), rtol=1e-10)
    radii = [0.0] * BOUNDARY + [RHO] * (STEPS - BOUNDARY)
    np.testing.assert_allclose(found.info.perturbation_norm, radii, rtol=1e-12)
    plain_info = jax.tree.map(lambda x: x[:BOUNDARY], found.info)
    np.testing.assert_allclose(plain_info.loss, plain_info.perturbed_loss, rtol=1e-15)
    np.testing.assert_array_equal(plain_info.sharpness, 0.0)
    np.testing.assert_allclose(plain_info.cosine, 1.0, rtol=1e-12)
    lengths = np.linalg.norm(walk(by_hand)[:BOUNDARY], axis=1)
    np.testing.assert_allclose(plain_info.ascent_norm, lengths, rtol=1e-12)
    loss = numbers(0).losses(WEIGHTS).mean()
    assert float(plain_info.loss[0]) == pytest.approx(loss, rel=1e-12)


def test_climbing_together_or_apart_are_two_methods():
    """Otherwise the comparison above would not tell one from the other."""
    together, apart = [k_sam(WEIGHTS, numbers(3), sync) for sync in (True, False)]
    assert np.abs(together - apart).max() > 1e-2
    assert np.abs(together - plain(WEIGHTS, numbers(3))).max() > 1e-2


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize(
    "way",
    [
        "shard_map",
        "shard_map, check_vma=False",
        "groups, Auto mesh",
        "groups, Explicit mesh",
    ],
)
def test_plain_steps_in_between_are_averaged_over_the_method_s_devices(way, sync):
    def by_hand(t: int, w: np.ndarray, whole: Numbers) -> np.ndarray:
        return k_sam(w, whole, sync) if t % 2 == 0 else plain(w, whole)

    found = WAYS[way](now_and_then, sync_ascent=sync)
    np.testing.assert_allclose(steps_of(found), walk(by_hand), rtol=1e-10)


@pytest.mark.parametrize(
    ("way", "sync"),
    [
        ("shard_map", True),
        ("shard_map, check_vma=False", False),
        ("groups, Auto mesh", False),
        ("groups, Explicit mesh", False),
    ],
)
def test_a_switch_in_a_switch_on_devices(way, sync):
    def by_hand(t: int, w: np.ndarray, whole: Numbers) -> np.ndarray:
        if t >= 3:
            return k_sam(w, whole, sync)
        if t % 2:
            return plain(w, whole)
        return whole.sam(w) if sync else sam_apart(w, whole)

    found = WAYS[way](nested, sync_ascent=sync)
    np.testing.assert_allclose(steps_of(found), walk(by_hand), rtol=1e-10)


@pytest.mark.parametrize("check_vma", [True, False])
def test_over_two_axes_of_a_mesh_it_is_the_same(check_vma):
    axes = ("rows", "columns")
    tx = late(axis_name=axes, sync_ascent=False)
    spread = jax.shard_map(
        functools.partial(train, tx),
        mesh=jax.make_mesh((4, 2), axes, axis_types=(AxisType.Auto,) * 2),
        in_specs=(P(), P(None, axes)),
        out_specs=P(),
        check_vma=check_vma,
    )
    found = quick_jit(spread)(as_tree(WEIGHTS), inputs())

    def by_hand(t: int, w: np.ndarray, whole: Numbers) -> np.ndarray:
        return plain(w, whole) if t < BOUNDARY else k_sam(w, whole, False)

    np.testing.assert_allclose(steps_of(found), walk(by_hand), rtol=1e-10)


def chains(**common: Any) -> Any:
    """Two methods, each with an optimizer of its own, in front of a rate of minus one."""
    first = optax.chain(ksam_jax.mean_gradient(**common), optax.trace(0.9))
    second = optax.chain(
        ksam_jax.k_sam(RHO, k=1, mean_over="chosen", **common), optax.scale_by_rms(0.5)
    )
    return ksam_jax.join_methods([first, second], [BOUNDARY])


@pytest.mark.parametrize("way", ["shard_map", "groups, Explicit mesh"])
def test_chains_on_devices_are_those_on_one(way):
    with jax.numpy_dtype_promotion("standard"):
        found, one = WAYS[way](chains), in_groups(chains)
    np.testing.assert_allclose(steps_of(found), steps_of(one), rtol=1e-10)
    np.testing.assert_allclose(steps_of(one)[0], plain(WEIGHTS, numbers(0)), rtol=1e-12)


def scaled(**common: Any) -> Any:
    chain = optax.chain(late(**common), optax.scale(1.0))
    return ksam_jax.dynamic_loss_scale(chain, initial=2.0**6)


def spoilt(t: int) -> Numbers:
    """In step 1 one example of the third device is bad, in step 3 all of the fourth."""
    slopes, curves = numbers(t)
    bad = {1: slice(2 * EACH, 2 * EACH + 1), 3: slice(3 * EACH, 4 * EACH)}.get(t, slice(0))
    slopes[bad] = np.nan
    return Numbers(slopes, curves)


@pytest.mark.parametrize("way", ["shard_map", "groups, Auto mesh"])
def test_under_a_loss_scale_all_devices_skip_or_none_does(way, monkeypatch):
    """A plain step and one of K-SAM; the boundary counts the steps that are made."""

    def by_hand(t: int, w: np.ndarray, whole: Numbers) -> np.ndarray:
        if t in (1, 3):
            return np.zeros(4)
        return plain(w, whole) if t < 3 else k_sam(w, whole, True)

    expected = walk(by_hand)
    batches = stacked([as_batch(spoilt(t)) for t in range(STEPS)])
    monkeypatch.setitem(globals(), "inputs", lambda: batches)
    found = WAYS[way](scaled)
    np.testing.assert_allclose(steps_of(found), expected, rtol=1e-10)
    # A skipped step leaves the info of the one before.
    radii = [0.0, 0.0, 0.0, 0.0, RHO]
    np.testing.assert_allclose(found.info.perturbation_norm, radii, rtol=1e-12)


# ----------------------------------------------------------------- mean_gradient


def spread_step(tx: Any, check_vma: bool, loss: Any = loss_fn, **extra: Any) -> Any:
    """`step(params, batch, given)` on all devices; `given` is the same on each."""

    def step(params: Any, batch: Any, given: Any) -> Any:
        update = updater(tx, loss, **extra)
        updates, state = update(tx.init(params), params, batch, given)
        aux, state = ksam_jax.take_aux(state)
        return updates, aux, ksam_jax.get_info(state)

    return jax.shard_map(
        step,
        mesh=mesh(),
        in_specs=(P(), P("data"), P()),
        out_specs=P(),
        check_vma=check_vma,
    )


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("form", ["batch", "per_example", "microbatches"])
def test_the_mean_gradient_of_devices_is_that_of_the_batch(form, check_vma):
    own = ksam_jax.per_example(example_loss)
    count = EACH if form == "microbatches" else None
    tx = ksam_jax.mean_gradient(axis_name="data", num_microbatches=count)
    step = spread_step(tx, check_vma, own if form == "per_example" else loss_fn)
    batch, params = as_batch(numbers(0)), as_tree(WEIGHTS)
    updates, aux, info = quick_jit(step)(params, batch, None)
    gradient = plain(WEIGHTS, numbers(0))
    np.testing.assert_allclose(flat(updates), gradient, rtol=1e-12)
    assert_close(updates, jax.grad(mean_loss(loss_fn))(params, batch), 1e-12, 1e-12)
    assert aux is None
    loss = numbers(0).losses(WEIGHTS).mean()
    expected = [loss, loss, 0.0, np.linalg.norm(gradient), 0.0, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(info, expected, rtol=1e-12)


@pytest.mark.parametrize("check_vma", [True, False])
def test_a_given_gradient_comes_out_on_all_devices(check_vma):
    tx = ksam_jax.mean_gradient(axis_name="data")
    given = as_tree(np.array([3.0, -1.0, 0.5, 2.0]))
    step = quick_jit(spread_step(tx, check_vma))
    updates, _, info = step(as_tree(WEIGHTS), as_batch(numbers(0)), given)
    assert_close(updates, given, 1e-15, 1e-15)
    assert not info.known.loss
    assert float(info.ascent_norm) == pytest.approx(np.linalg.norm(flat(given)), rel=1e-12)


@pytest.mark.parametrize("check_vma", [True, False])
def test_gradients_given_by_each_device_are_averaged(check_vma):
    tx: Any = ksam_jax.mean_gradient(axis_name="data")

    def step(params: Any, batch: Any) -> Any:
        local = lax.pcast(params, "data", to="varying")
        given = jax.grad(mean_loss(loss_fn))(local, batch)
        return updater(tx, loss_fn)(tx.init(params), params, batch, given)[0]

    spread = jax.shard_map(
        step, mesh=mesh(), in_specs=(P(), P("data")), out_specs=P(), check_vma=check_vma
    )
    updates = quick_jit(spread)(as_tree(WEIGHTS), as_batch(numbers(0)))
    np.testing.assert_allclose(flat(updates), plain(WEIGHTS, numbers(0)), rtol=1e-12)


@pytest.mark.parametrize("check_vma", [True, False])
def test_statistics_of_a_plain_step_are_averaged(check_vma):
    def with_statistics(params: Any, batch: Any) -> Any:
        aux = {"mean": jnp.mean(batch["c"], 0), "size": jnp.array(len(batch["a"]))}
        return loss_fn(params, batch), aux

    tx = ksam_jax.mean_gradient(axis_name="data")
    step = quick_jit(spread_step(tx, check_vma, with_statistics, has_aux=True))
    updates, aux, _ = step(as_tree(WEIGHTS), as_batch(numbers(0)), None)
    np.testing.assert_allclose(flat(updates), plain(WEIGHTS, numbers(0)), rtol=1e-12)
    np.testing.assert_allclose(aux["mean"], numbers(0).curves.mean(0), rtol=1e-12)
    assert int(aux["size"]) == EACH


def test_aux_has_one_form_in_both_branches_of_a_switch_on_devices():
    def with_aux(params: Any, example: Any) -> Any:
        return example_loss(params, example), {"first": example["a"][0] * params["u"][0]}

    tx: Any = late(axis_name="data", sync_ascent=False)

    def run(params: Any, batches: Any) -> Any:
        def step(carry: Any, batch: Any) -> Any:
            params, state = carry
            loss = ksam_jax.per_example(with_aux)
            updates, state = updater(tx, loss, has_aux=True)(state, params, batch)
            aux, state = ksam_jax.take_aux(state)
            return (moved(params, updates), state), (params["u"], aux["first"])

        return lax.scan(step, (params, tx.init(params)), batches)[1]

    rows = P(None, "data")
    spread = jax.shard_map(run, mesh=mesh(), in_specs=(P(), rows), out_specs=(P(), rows))
    weights, aux = quick_jit(spread)(as_tree(WEIGHTS), inputs())
    for t in range(STEPS):
        expected = numbers(t).slopes[:, 0] * float(weights[t, 0])
        np.testing.assert_allclose(aux[t], expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("sync", [True, False])
def test_statistics_have_one_form_in_both_branches_of_groups(kind, sync):
    """Also numbers that aren't averaged."""

    def with_statistics(params: Any, batch: Any) -> Any:
        is_steep = batch["c"] > -jnp.inf
        aux = {"mean": jnp.mean(batch["c"], 0), "size": jnp.sum(is_steep[:, 0])}
        return loss_fn(params, batch), aux

    tx: Any = late(groups=DEVICES, sync_ascent=sync)
    traces = []

    def step(state: Any, params: Any, batch: Any) -> Any:
        traces.append(1)
        update = updater(tx, with_statistics, has_aux=True)
        return ksam_jax.take_aux(update(state, params, batch)[1])

    here, step = mesh(kind), quick_jit(step)
    with jax.set_mesh(here):
        params = jax.device_put(as_tree(WEIGHTS), NamedSharding(here, P()))
        batch = jax.device_put(as_batch(numbers(0)), NamedSharding(here, P("data")))
        state, sizes = tx.init(params), []
        for _ in range(BOUNDARY + 1):
            aux, state = step(state, params, batch)
            mean = numbers(0).curves.mean(0)
            np.testing.assert_allclose(jax.device_get(aux["mean"]), mean, rtol=1e-12)
            sizes.append(int(aux["size"]))
    # K-SAM's loss sees one group at a time where groups climb apart.
    assert sizes[0] == sizes[1] == DEVICES * EACH
    assert sizes[2] == (DEVICES * EACH if sync else EACH)
    assert len(traces) == 1


# ------------------------------------------------------------------- sharded weights

WIDE = np.random.default_rng(7).normal(0.2, 1.0, 2 * DEVICES)


def wide_batch() -> Any:
    rng = np.random.default_rng(8)
    shape = DEVICES * EACH, len(WIDE)
    return {"a": rng.normal(0.3, 1.0, shape), "c": rng.normal(0.2, 1.0, shape)}


def wide_loss(params: Any, batch: Any) -> Any:
    """Gathers the weights where it uses them, as FSDP does."""
    w = params["w"]
    if any(jax.typeof(w).sharding.spec):
        w = jax.sharding.reshard(w, P())
    return batch["a"] @ w + batch["c"] @ (w * w) / 2


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", ["late", "late, apart", "look_sam"])
def test_sharded_weights_get_sharded_updates_in_either_branch(name, kind):
    tx = {
        "late": lambda: late(groups=DEVICES),
        "late, apart": lambda: late(groups=DEVICES, sync_ascent=False),
        "look_sam": lambda: ksam_jax.look_sam(RHO, 0.7, 2, groups=DEVICES),
    }[name]()
    here, runs = mesh(kind), []
    for spec in (P("data"), P()):
        with jax.set_mesh(here):
            place = NamedSharding(here, spec)
            params = {"w": jax.device_put(jnp.asarray(WIDE), place)}
            batch = jax.device_put(wide_batch(), NamedSharding(here, P("data")))
            update, state = quick_jit(updater(tx, wide_loss)), tx.init(params)
            for _ in range(BOUNDARY + 1):
                updates, after = update(state, params, batch)
                if kind == AxisType.Explicit:
                    assert jax.typeof(updates["w"]) == jax.typeof(params["w"])
                    before = jax.tree.map(jax.typeof, state)
                    assert jax.tree.map(jax.typeof, after) == before
                state, params = after, moved(params, updates)
            runs.append(jax.device_get(params["w"]))
    np.testing.assert_allclose(*runs, rtol=1e-10)


# ------------------------------------------------------------------ GSAM and LookSAM


def gsam_by_hand(t: int, w: np.ndarray, whole: Numbers) -> np.ndarray:
    g, h = whole.gradient(w), whole.sam(w)
    return h - 0.4 * without(g, h)


@ways
def test_gsam_on_devices_combines_averages(way):
    found = WAYS[way](functools.partial(ksam_jax.gsam, RHO, 0.4))
    np.testing.assert_allclose(steps_of(found), walk(gsam_by_hand), rtol=1e-9)


@ways
def test_look_sam_on_devices_remembers_of_averages(way):
    found = WAYS[way](functools.partial(ksam_jax.look_sam, RHO, 0.7, 3))
    expected = look_by_hand(0.7, 3, STEPS, numbers)
    np.testing.assert_allclose(steps_of(found), expected, rtol=1e-9)


# ------------------------------------------------------- what stands in which branch


class Compiled(NamedTuple):
    program: Program
    plain: list[Collective]
    sharp: list[Collective]
    outside: list[Collective]


def read(compiled: Any) -> Compiled:
    program = Program(compiled.as_text())
    first, second = [in_hlo("\n".join(lines)) for lines in program.branches()]
    return Compiled(program, first, second, in_hlo("\n".join(program.outside())))


def stepper(tx: Any) -> Any:
    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = updater(tx, network_loss)(state, params, batch)
        info = ksam_jax.get_info(state)
        return optax.apply_updates(params, updates), state, info.perturbed_loss

    return step


def shapes_of(tx: Any) -> Any:
    def of() -> Any:
        params, batch = network()
        return params, tx.init(params), batch

    with jax.enable_x64(False):
        return jax.eval_shape(of)


@functools.cache
def on_devices(make: Any, check_vma: bool, **common: Any) -> Compiled:
    tx: Any = optax.chain(make(axis_name="data", **common), optax.sgd(0.1, momentum=0.9))
    spread = jax.shard_map(
        stepper(tx),
        mesh=mesh(),
        in_specs=(P(), P(), P("data")),
        out_specs=P(),
        check_vma=check_vma,
    )
    with jax.enable_x64(False):
        # All arguments are kept, so that they are numbered as they are given.
        lowered = jax.jit(spread, keep_unused=True).lower(*shapes_of(tx))
        return read(lowered.compile(QUICK))


@functools.cache
def on_mesh(make: Any, kind: AxisType, **common: Any) -> Compiled:
    tx: Any = optax.chain(make(groups=DEVICES, **common), optax.sgd(0.1, momentum=0.9))
    here = mesh(kind)

    def placed(spec: P, tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(here, spec)
            ),
            tree,
        )

    with jax.enable_x64(False), jax.set_mesh(here):
        params, state, batch = shapes_of(tx)
        given = placed(P(), params), placed(P(), state), placed(P("data"), batch)
        return read(jax.jit(stepper(tx), keep_unused=True).lower(*given).compile(QUICK))


SIZE = sum(w.size for w in network()[0])
ASCENT = Collective("all-reduce", 3, SIZE, 4 * SIZE)
# The gradient with the numbers of the info: without the three that compare the two
# gradients where those are averages, which are the same on all devices.
TOLD = len(ksam_jax.SharpnessAwareInfo._fields)
DESCENT = Collective("all-reduce", 4, SIZE + TOLD - 3, 4 * (SIZE + TOLD - 3))
ALL = Collective("all-reduce", 4, SIZE + TOLD, 4 * (SIZE + TOLD))
vma = pytest.mark.parametrize("check_vma", [True, False])


def early(**common: Any) -> Any:
    method = ksam_jax.k_sam(k=0.25, **common)
    return ksam_jax.join_methods([ksam_jax.mean_gradient(**common), method], [1000])


@vma
def test_a_plain_step_reduces_once_and_a_climb_once_more(check_vma):
    found = on_devices(early, check_vma)
    assert found.plain == [DESCENT]
    assert found.sharp == [ASCENT, DESCENT]
    assert found.outside == []


@vma
def test_devices_that_climb_apart_reduce_once_in_either_branch(check_vma):
    found = on_devices(early, check_vma, sync_ascent=False)
    assert (found.plain, found.sharp, found.outside) == ([DESCENT], [ALL], [])


@vma
def test_look_sam_reduces_twice_in_its_sam_steps_and_once_in_between(check_vma):
    found = on_devices(ksam_jax.look_sam, check_vma)
    sharp, plain_one = found.plain, found.sharp  # The SAM step is its first branch.
    assert (sharp, plain_one, found.outside) == ([ASCENT, DESCENT], [DESCENT], [])


def steps_parameter(tx: Any) -> int:
    """The place of the switch's count among the arguments of a compiled step."""
    leaves, _ = jax.tree.flatten_with_path(shapes_of(tx))
    (place,) = [
        i
        for i, (path, _) in enumerate(leaves)
        if str(path[-1]) == ".steps" and "methods" not in jax.tree_util.keystr(path)
    ]
    return place


def check_predicate(found: Compiled, tx: Any) -> None:
    """What decides is made of the count of steps alone, and of nothing that differs."""
    lines, parameters = found.program.predicate()
    (only,) = parameters
    assert f"s32[] parameter({steps_parameter(tx)})" in only
    text = "\n".join(lines)
    assert in_hlo(text) == []
    assert "partition-id" not in text
    assert "replica-id" not in text


@vma
@pytest.mark.parametrize("make", [early, ksam_jax.look_sam])
def test_every_device_takes_the_same_branch(make, check_vma):
    tx = optax.chain(make(axis_name="data"), optax.sgd(0.1, momentum=0.9))
    check_predicate(on_devices(make, check_vma), tx)


kinds = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])


@kinds
@pytest.mark.parametrize("sync", [True, False])
def test_under_jit_the_branches_of_groups_reduce_as_those_of_devices(kind, sync):
    found = on_mesh(early, kind, sync_ascent=sync)
    reduced = [
        [c for c in branch if c.kind == "all-reduce" and c.elements >= SIZE]
        for branch in (found.plain, found.sharp, found.outside)
    ]
    assert [len(branch) for branch in reduced] == [1, 1 + sync, 0]
    # Besides, a few numbers of the info, and the losses that groups are selected by.
    rest = [c for c in [*found.plain, *found.sharp] if c.elements < SIZE]
    assert all(c.elements <= 512 for c in rest)
    assert {c.kind for c in found.plain} == {"all-reduce"}
    assert [c.kind for c in found.outside if c.elements > 1] == []
    tx = optax.chain(early(groups=DEVICES), optax.sgd(0.1, momentum=0.9))
    check_predicate(found, tx)


@vma
def test_each_device_computes_its_part_in_either_branch(check_vma):
    """The products of one device are an eighth of those of the batch."""
    found = on_devices(early, check_vma)
    params, batch = network()
    n, (d, width), out = len(batch["y"]), params[0].shape, params[-1].shape[1]
    plain_ones, sharp = map(products, found.program.branches())
    forward = [n * d * width, n * width * width, n * width * out]
    backward = [*forward, n * width * width, n * width * out]
    assert plain_ones == sorted(x // DEVICES for x in [*forward, *backward])
    quarter = [x // 4 for x in [*forward, *backward]]
    assert sharp == sorted(x // DEVICES for x in [*forward, *quarter, *quarter])
