"""Several devices against a naive reference on one, in float64: 8 virtual CPU devices.

Every way to spread a step: `jax.shard_map` with and without `check_vma`, `jax.vmap` with
an axis name, and `groups` under `jax.jit`, with the batch on one device, sharded over a
mesh of Auto axes, and of Explicit axes.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import device_oracles
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from device_oracles import Answers
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import quick_jit, slow_but
from test_oracles import (
    FEATURES,
    LEARNING_RATE,
    MOMENTUM,
    as_jax,
    check_trees_equal,
    constant,
    drawn_masks,
    loss_in_form,
    rising,
    rising_by_hand,
    start,
)

import ksam_jax

DEVICES, EACH, STEPS = 8, 5, 20
N = DEVICES * EACH
DATA_SET = 70
SEED, M = 7, 2


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


# ------------------------------------------------------------------------- data


@functools.cache
def batches() -> list[oracles.Batch]:
    """Batches whose parts differ from device to device."""
    rng = np.random.default_rng(21)
    teacher = rng.normal(0.0, 1.0, (FEATURES, 3))
    found = []
    for _ in range(STEPS):
        x = (
            rng.normal(0.3, 1.1, (N, FEATURES))
            + np.repeat(rng.normal(size=DEVICES), EACH)[:, None]
        )
        noisy = x @ teacher + rng.normal(0.0, 1.0, (N, 3))
        found.append(oracles.Batch(x, noisy.argmax(1).astype(np.int32)))
    return found


@functools.cache
def numbers() -> list[list[int]]:
    rng = np.random.default_rng(22)
    return [rng.permutation(DATA_SET)[:N].tolist() for _ in range(STEPS)]


def stacked() -> Any:
    x = np.stack([batch.inputs for batch in batches()])
    y = np.stack([batch.labels for batch in batches()])
    return {"x": jnp.asarray(x), "y": jnp.asarray(y), "index": jnp.asarray(numbers())}


@functools.cache
def drawn_subsets() -> list[list[list[int]]]:
    """The random subsets of each step and device, read from outside.

    Example i has the loss w_i^2 / 2. With a climb of each device's own the weights of the
    examples that it climbed on are the only ones that have moved away from 1.
    """
    tx: Any = ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(1.0),
        ascent=ksam_jax.random_subset(M, seed=SEED),
        groups=DEVICES,
        sync_ascent=False,
    )
    w = jnp.ones(N)

    def step(state: Any, _: None) -> Any:
        gradient, state = tx.update(
            None, state, w, loss_fn=lambda w, i: w[i] ** 2 / 2, batch=jnp.arange(N)
        )
        return state, gradient * N > 1.0 + 1e-6

    _, moved = lax.scan(step, tx.init(w), length=STEPS)
    parts = np.asarray(moved).reshape(STEPS, DEVICES, EACH)
    return [[np.flatnonzero(part).tolist() for part in row] for row in parts]


# ------------------------------------------------------------- ways to spread it


class Trained(NamedTuple):
    params: Any
    info: Any


def train(tx: Any, loss_fn: Any, params: Any, batches: Any) -> Trained:
    tx = optax.chain(tx, optax.sgd(LEARNING_RATE, momentum=MOMENTUM))

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        updates, state = tx.update(None, state, params, loss_fn=loss_fn, batch=batch)
        return (optax.apply_updates(params, updates), state), ksam_jax.get_info(state)

    (params, _), info = lax.scan(step, (params, tx.init(params)), batches)
    return Trained(params, info)


def mesh(kind: AxisType = AxisType.Auto, n: int = DEVICES) -> Any:
    return jax.make_mesh((n,), ("data",), axis_types=(kind,), devices=jax.devices()[:n])


def in_shard_map(method: Any, loss_fn: Any, sync: bool, check_vma: bool) -> Trained:
    run = functools.partial(train, method(axis_name="data", sync_ascent=sync), loss_fn)
    specs = (P(), P(None, "data"))
    spread = jax.shard_map(
        run, mesh=mesh(), in_specs=specs, out_specs=P(), check_vma=check_vma
    )
    return quick_jit(spread)(as_jax(start()), stacked())


def in_vmap(method: Any, loss_fn: Any, sync: bool) -> Trained:
    run = functools.partial(train, method(axis_name="data", sync_ascent=sync), loss_fn)
    parts = jax.tree.map(lambda x: x.reshape(STEPS, DEVICES, EACH, *x.shape[2:]), stacked())
    spread = jax.vmap(run, in_axes=(None, 1), out_axes=None, axis_name="data")
    return quick_jit(spread)(as_jax(start()), parts)


def in_groups(method: Any, loss_fn: Any, sync: bool) -> Trained:
    tx = method(groups=DEVICES, sync_ascent=sync)
    run = functools.partial(train, tx, loss_fn)
    return quick_jit(run)(as_jax(start()), stacked())


def in_sharded_groups(method: Any, loss_fn: Any, sync: bool, kind: AxisType) -> Trained:
    tx = method(groups=DEVICES, sync_ascent=sync)
    run = functools.partial(train, tx, loss_fn)
    here = mesh(kind)
    with jax.set_mesh(here):
        params = jax.device_put(as_jax(start()), NamedSharding(here, P()))
        batches = jax.device_put(stacked(), NamedSharding(here, P(None, "data")))
        return jax.device_get(quick_jit(run)(params, batches))


WAYS: dict[str, Callable[..., Trained]] = {
    "shard_map": functools.partial(in_shard_map, check_vma=True),
    "shard_map, check_vma=False": functools.partial(in_shard_map, check_vma=False),
    "vmap": in_vmap,
    "groups": in_groups,
    "groups, Auto mesh": functools.partial(in_sharded_groups, kind=AxisType.Auto),
    "groups, Explicit mesh": functools.partial(in_sharded_groups, kind=AxisType.Explicit),
}

# ------------------------------------------------------------------- the methods


def with_memory(ascent: Any, k: Any) -> Callable[..., Any]:
    def method(**devices: Any) -> Any:
        remembered = ksam_jax.highest_remembered_loss(k, DATA_SET)
        return ksam_jax.sharpness_aware(
            ksam_jax.scale_to_radius(rising()),
            ascent=ascent or remembered,
            descent=remembered,
            **devices,
        )

    return method


class Case(NamedTuple):
    method: Callable[..., Any]
    answers: Callable[[], Answers]


CASES = {
    "sam": Case(
        functools.partial(ksam_jax.sam, rho=rising()),
        lambda: device_oracles.sam(rising_by_hand),
    ),
    "asam": Case(
        functools.partial(ksam_jax.asam, rho=rising(), eta=0.02),
        lambda: device_oracles.asam(rising_by_hand, eta=0.02),
    ),
    "random_sam": Case(
        functools.partial(ksam_jax.random_sam, rho=rising(), m=M, seed=SEED),
        lambda: device_oracles.random_sam(rising_by_hand, drawn_subsets()),
    ),
    "k_sam": Case(
        functools.partial(ksam_jax.k_sam, rho=rising(), k=0.4),
        lambda: device_oracles.k_sam(rising_by_hand, 0.4),
    ),
    "esam": Case(
        functools.partial(ksam_jax.esam, rho=rising(), beta=0.6, gamma=3, seed=SEED),
        lambda: device_oracles.esam(rising_by_hand, 3, drawn_masks("coordinate")),
    ),
    "f_sam": Case(
        functools.partial(ksam_jax.f_sam, rho=0.2, sigma=0.8, decay=0.6),
        lambda: device_oracles.f_sam(constant(0.2), 0.8, 0.6),
    ),
    "momentum_sam": Case(
        functools.partial(ksam_jax.momentum_sam, rho=rising()),
        lambda: device_oracles.k_momentum_sam(rising_by_hand, 1.0),
    ),
    "k_momentum_sam": Case(
        functools.partial(ksam_jax.k_momentum_sam, rho=rising(), k=2),
        lambda: device_oracles.k_momentum_sam(rising_by_hand, 2),
    ),
    "remembered k_sam": Case(
        with_memory(None, 2),
        lambda: device_oracles.remembered_k_sam(rising_by_hand, 2, numbers()),
    ),
    "remembered momentum_sam": Case(
        with_memory(ksam_jax.past_descent(), 0.4),
        lambda: device_oracles.remembered_momentum_sam(rising_by_hand, 0.4, numbers()),
    ),
}
MAIN = ("k_sam", "random_sam")


@functools.cache
def reference(name: str, sync: bool) -> oracles.Run:
    method = device_oracles.on_devices(CASES[name].answers(), DEVICES, sync)
    return oracles.train(method, start(), batches(), LEARNING_RATE, MOMENTUM)


@functools.cache
def trained(name: str, way: str, sync: bool, form: str) -> Trained:
    return WAYS[way](CASES[name].method, loss_in_form(form), sync)


def runs() -> Iterator[tuple[str, str, bool, str]]:
    for name in CASES:
        for sync in (True, False):
            if name == "f_sam" and not sync:
                continue
            if "momentum" in name and not sync and name != "k_momentum_sam":
                continue
            yield name, "shard_map", sync, "all"
            yield name, "groups, Auto mesh", sync, "all"
            if name in MAIN:
                yield name, "shard_map, check_vma=False", sync, "batch"
                yield name, "groups, Explicit mesh", sync, "batch"
    for sync in (True, False):
        yield "remembered k_sam", "groups, Explicit mesh", sync, "all"
        yield "k_sam", "groups, Explicit mesh", sync, "all"
        yield "k_sam", "vmap", sync, "batch"
        yield "remembered k_sam", "vmap", sync, "all"
        yield "random_sam", "groups", sync, "batch"


def marked() -> Iterator[Any]:
    """Quick are the two main ways, for the main methods; of the others one way."""
    for name, way, sync, form in runs():
        is_main = way in ("shard_map", "groups, Auto mesh") and (sync or name == "k_sam")
        is_quick = is_main and (name == "k_sam" or way == "shard_map")
        marks = () if is_quick else pytest.mark.slow
        yield pytest.param(name, way, sync, form, marks=marks)


@pytest.mark.parametrize(("name", "way", "sync", "form"), list(marked()))
def test_devices_train_as_the_reference_on_one(name, way, sync, form):
    check_trees_equal(trained(name, way, sync, form).params, reference(name, sync).params)


# --------------------------------------------------------- what else is synchronized


def test_the_runs_learn_and_climbing_apart_is_another_method():
    """Otherwise the comparison above would compare runs in which nothing happens."""
    together, apart = reference("k_sam", True), reference("k_sam", False)
    assert together.loss[-1] < 0.7 * together.loss[0]
    difference = together.params["w1"] - apart.params["w1"]
    assert np.abs(difference).max() > 1e-3
    subsets = drawn_subsets()
    assert any(len({tuple(part) for part in row}) > 1 for row in subsets)


def test_info_of_a_synchronized_climb_is_of_the_averaged_gradients():
    info, run = trained("sam", "shard_map", True, "all").info, reference("sam", True)
    np.testing.assert_allclose(info.loss, run.loss, rtol=1e-9)
    np.testing.assert_allclose(info.perturbed_loss, run.perturbed_loss, rtol=1e-9)
    np.testing.assert_allclose(info.sharpness, run.sharpness, rtol=1e-7, atol=1e-11)
    norms = [oracles.norm(step.ascent) for step in run.steps]
    np.testing.assert_allclose(info.ascent_norm, norms, rtol=1e-9)
    np.testing.assert_allclose(info.cosine, run.cosine, rtol=1e-9)


@pytest.mark.parametrize("way", ["shard_map", "groups, Auto mesh"])
def test_info_of_devices_that_climb_apart_is_their_mean(way):
    info, steps = trained("k_sam", way, False, "all").info, reference("k_sam", False).steps
    batch, own = batches()[0], []
    for device in range(DEVICES):
        part = device_oracles.split(batch, DEVICES)[device]
        losses = oracles.losses(start(), part)
        rows = oracles.highest(losses, 2)
        own.append(oracles.norm(oracles.mean_gradient(start(), part, rows, "batch")))
    np.testing.assert_allclose(info.ascent_norm[0], np.mean(own), rtol=1e-9)
    assert abs(np.mean(own) - oracles.norm(steps[0].ascent)) > 1e-3
    radii = [rising_by_hand(t) for t in range(STEPS)]
    np.testing.assert_allclose(info.perturbation_norm, radii, rtol=1e-9)


def one_batch() -> Any:
    return jax.tree.map(lambda leaf: leaf[0], stacked())


def losses_and_statistics(params: Any, batch: Any) -> Any:
    """A batch-level loss whose aux is a mean, a count and a number per example."""
    hidden = jnp.tanh(batch["x"] @ params["w1"])
    losses = loss_in_form("batch")(params, batch)
    return losses, {"mean": hidden.mean(0), "size": jnp.asarray(hidden.shape[0])}


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("check_vma", [True, False])
def test_statistics_are_averaged_over_devices_and_what_is_no_float_stays(sync, check_vma):
    tx: Any = ksam_jax.k_sam(k=2, axis_name="data", sync_ascent=sync)

    def step(params: Any, batch: Any) -> Any:
        _, state = tx.update(
            None,
            tx.init(params),
            params,
            loss_fn=losses_and_statistics,
            batch=batch,
            has_aux=True,
        )
        return ksam_jax.take_aux(state)[0]

    spread = jax.shard_map(
        step,
        mesh=mesh(),
        in_specs=(P(), P("data")),
        out_specs=P(),
        check_vma=check_vma,
    )
    aux = quick_jit(spread)(as_jax(start()), one_batch())
    expected = np.tanh(batches()[0].inputs @ start()["w1"]).mean(0)
    np.testing.assert_allclose(aux["mean"], expected, rtol=1e-10)
    assert int(aux["size"]) == EACH


@pytest.mark.parametrize("is_sharded", [True, False])
def test_statistics_are_averaged_over_groups_that_climb_apart(is_sharded):
    """The loss also closes over a traced value, as one with BatchNorm's state does."""
    tx: Any = ksam_jax.k_sam(k=2, groups=DEVICES, sync_ascent=False)

    @quick_jit
    def step(params: Any, batch: Any, shift: Any) -> Any:
        def loss_fn(params: Any, batch: Any) -> Any:
            moved = batch | {"x": batch["x"] + shift}
            return losses_and_statistics(params, moved)

        state = tx.init(params)
        _, state = tx.update(
            None, state, params, loss_fn=loss_fn, batch=batch, has_aux=True
        )
        return ksam_jax.take_aux(state)[0]

    shift = jnp.asarray(0.25)
    if is_sharded:
        with jax.set_mesh(mesh()):
            batch = jax.device_put(one_batch(), NamedSharding(mesh(), P("data")))
            aux = jax.device_get(step(as_jax(start()), batch, shift))
    else:
        aux = step(as_jax(start()), one_batch(), shift)
    expected = np.tanh((batches()[0].inputs + 0.25) @ start()["w1"]).mean(0)
    np.testing.assert_allclose(aux["mean"], expected, rtol=1e-10)
    assert int(aux["size"]) == EACH


@pytest.mark.parametrize("way", ["axis", "groups", "groups apart"])
def test_aux_of_single_examples_stays_in_the_order_of_the_batch(way):
    common: dict[str, Any] = {
        "axis": {"axis_name": "data"},
        "groups": {"groups": DEVICES},
        "groups apart": {"groups": DEVICES, "sync_ascent": False},
    }[way]
    tx: Any = ksam_jax.k_sam(k=2, **common)

    def loss(params: Any, example: Any) -> Any:
        return jnp.sum(params["w1"] ** 2) * example["x"][0], example["x"][1]

    def step(params: Any, batch: Any) -> Any:
        loss_fn, state = ksam_jax.per_example(loss), tx.init(params)
        _, state = tx.update(
            None, state, params, loss_fn=loss_fn, batch=batch, has_aux=True
        )
        return ksam_jax.take_aux(state)[0]

    if way == "axis":
        step = jax.shard_map(
            step, mesh=mesh(), in_specs=(P(), P("data")), out_specs=P("data")
        )
    aux = quick_jit(step)(as_jax(start()), one_batch())
    np.testing.assert_array_equal(aux, batches()[0].inputs[:, 1])


@pytest.mark.parametrize("name", slow_but(("k_sam",), ("k_sam", "random_sam", "esam")))
@pytest.mark.parametrize("sync", [True, False])
def test_one_device_is_no_device(name, sync):
    """An axis of size one, or one group, changes nothing: not even what is drawn."""
    method = getattr(ksam_jax, name)
    params, batch = as_jax(start()), one_batch()
    loss_fn = loss_in_form("batch")

    def stepped(tx: Any) -> Any:
        def step(params: Any, batch: Any) -> Any:
            return tx.update(None, tx.init(params), params, loss_fn=loss_fn, batch=batch)[0]

        return step

    axis = jax.vmap(
        stepped(method(axis_name="data", sync_ascent=sync)),
        in_axes=(None, 0),
        out_axes=None,
        axis_name="data",
    )
    run = quick_jit(
        lambda params, batch: (
            stepped(method())(params, batch),
            axis(params, jax.tree.map(lambda x: x[None], batch)),
            stepped(method(groups=1, sync_ascent=sync))(params, batch),
        )
    )
    plain, on_axis, in_group = run(params, batch)
    check_trees_equal(on_axis, plain, rtol=1e-12)
    check_trees_equal(in_group, plain, rtol=1e-12)


def test_a_gradient_handed_in_is_averaged_whether_it_already_is_or_not():
    tx: Any = ksam_jax.sam(0.3, axis_name="data")
    loss_fn = loss_in_form("batch")

    def step(params: Any, batch: Any) -> Any:
        def gradient(params: Any) -> Any:
            return jax.grad(lambda p: loss_fn(p, batch).mean())(params)

        own = gradient(jax.lax.pcast(params, "data", to="varying"))
        found = [
            tx.update(given, tx.init(params), params, loss_fn=loss_fn, batch=batch)[0]
            for given in (None, own, jax.lax.pmean(own, "data"))
        ]
        return tuple(found)

    spread = jax.shard_map(step, mesh=mesh(), in_specs=(P(), P("data")), out_specs=P())
    computed, own, averaged = quick_jit(spread)(as_jax(start()), one_batch())
    check_trees_equal(own, computed, rtol=1e-12)
    check_trees_equal(averaged, computed, rtol=1e-12)


def test_groups_of_every_device_are_the_groups_of_the_whole():
    """Four devices with two groups each are eight groups, random draws and all."""
    found = []
    for name in ("k_sam", "random_sam"):
        tx = CASES[name].method(axis_name="data", groups=2, sync_ascent=False)
        run = functools.partial(train, tx, loss_in_form("batch"))
        specs = (P(), P(None, "data"))
        spread = jax.shard_map(run, mesh=mesh(n=4), in_specs=specs, out_specs=P())
        found.append(quick_jit(spread)(as_jax(start()), stacked()).params)
    check_trees_equal(found[0], reference("k_sam", False).params)
    check_trees_equal(found[1], reference("random_sam", False).params)


def test_a_group_without_a_finite_loss_makes_the_step_so():
    """The mean over groups has no other honest value: `apply_if_finite` skips it."""
    batch = one_batch()
    x = np.array(batch["x"])
    x[EACH : 2 * EACH] = np.nan
    for sync in (True, False):
        tx: Any = ksam_jax.k_sam(k=2, groups=DEVICES, sync_ascent=sync)

        @quick_jit
        def step(params: Any, batch: Any, tx: Any = tx) -> Any:
            loss_fn, state = loss_in_form("batch"), tx.init(params)
            return tx.update(None, state, params, loss_fn=loss_fn, batch=batch)[0]

        gradient = step(as_jax(start()), batch | {"x": jnp.asarray(x)})
        assert np.isnan(gradient["w1"]).all()
        # One bad example in a group has no weight.
        x_one = np.array(batch["x"])
        x_one[EACH] = np.nan
        gradient = step(as_jax(start()), batch | {"x": jnp.asarray(x_one)})
        assert np.isfinite(gradient["w1"]).all()


def test_a_gradient_summed_over_the_devices_is_no_climb_of_its_own():
    """What `jax.grad` gives under check_vma=True, where params are the same everywhere."""
    tx: Any = ksam_jax.sam(0.3, axis_name="data", sync_ascent=False)
    loss_fn = loss_in_form("batch")

    def step(params: Any, batch: Any) -> Any:
        given = jax.grad(lambda p: loss_fn(p, batch).mean())(params)
        return tx.update(given, tx.init(params), params, loss_fn=loss_fn, batch=batch)[0]

    spread = jax.shard_map(step, mesh=mesh(), in_specs=(P(), P("data")), out_specs=P())
    match = r"sync_ascent=False.*device's own gradient.*jax.lax.pcast\(params, 'data'"
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(spread, as_jax(start()), one_batch())


def test_devices_may_lie_along_a_mesh_and_a_vmap_at_once():
    tx: Any = CASES["k_sam"].method(axis_name=("data", "part"))
    run = functools.partial(train, tx, loss_in_form("batch"))

    def local(params: Any, batches: Any) -> Any:
        parts = jax.tree.map(lambda x: x.reshape(STEPS, 2, EACH, *x.shape[2:]), batches)
        mapped = jax.vmap(run, in_axes=(None, 1), out_axes=None, axis_name="part")
        return mapped(params, parts).params

    spread = jax.shard_map(
        local,
        mesh=mesh(n=4),
        in_specs=(P(), P(None, "data")),
        out_specs=P(),
        # JAX 0.10 to 0.12 have no collective over a vmapped axis inside with True.
        check_vma=False,
    )
    found = quick_jit(spread)(as_jax(start()), stacked())
    check_trees_equal(found, reference("k_sam", True).params)


@pytest.mark.parametrize("name", ["k_sam", "random_sam"])
def test_explicit_axes_need_no_mesh_to_be_set(name):
    """Not even to draw other examples in each group."""
    here = mesh(AxisType.Explicit)
    run = functools.partial(train, CASES[name].method(groups=8), loss_in_form("batch"))
    params = jax.device_put(as_jax(start()), NamedSharding(here, P()))
    batches = jax.device_put(stacked(), NamedSharding(here, P(None, "data")))
    found = jax.device_get(quick_jit(run)(params, batches).params)
    check_trees_equal(found, reference(name, True).params)


@pytest.mark.parametrize("common", [{}, {"groups": 4}, {"groups": 4, "sync_ascent": False}])
def test_groups_that_lie_on_several_devices_are_refused_where_types_tell(common):
    here = mesh(AxisType.Explicit)
    tx: Any = ksam_jax.k_sam(k=2, **common)

    def step(params: Any, batch: Any) -> Any:
        loss_fn, state = loss_in_form("batch"), tx.init(params)
        return tx.update(None, state, params, loss_fn=loss_fn, batch=batch)[0]

    batch = jax.device_put(one_batch(), NamedSharding(here, P("data")))
    match = r"k_sam\(groups=[14]\): groups must be a multiple.* is 8.*pass groups=8"
    with jax.set_mesh(here), pytest.raises(ValueError, match=match):
        jax.jit(step).lower(as_jax(start()), batch)


BY_COVERAGE = "k_sam by coverage"


@pytest.mark.parametrize("form", ["batch", "all"])
@pytest.mark.parametrize("name", slow_but(("k_sam", BY_COVERAGE), [*CASES, BY_COVERAGE]))
def test_explicit_axes_of_one_device_divide_nothing(name, form):
    """As on a workstation with one accelerator: they need no groups."""
    method = CASES[name].method if name in CASES else ksam_jax.k_sam
    run = functools.partial(train, method(), loss_in_form(form))
    here = jax.make_mesh((1, 8), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(here):
        params = jax.device_put(as_jax(start()), NamedSharding(here, P()))
        batches = jax.device_put(stacked(), NamedSharding(here, P(None, "data")))
        found = jax.device_get(quick_jit(run)(params, batches).params)
    alone = quick_jit(run)(as_jax(start()), stacked())
    check_trees_equal(found, alone.params)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_chosen_lie_along_the_axis_of_one_device_as_the_batch_does(groups):
    """A loss that maps over it sees one placement in both passes; who chooses sees none."""
    here = mesh(AxisType.Explicit, 1)
    seen = []

    def learn(batch: Any, chosen: Any, losses: Any, state: Any, join: Any) -> Any:
        seen.extend([chosen.indices.shape, jax.typeof(losses).sharding.spec[0]])
        return state + jnp.max(join(losses))

    def choose(evidence: Any, state: Any) -> Any:
        return ksam_jax.Chosen(jnp.argsort(-evidence.first)[:2], jnp.full(2, 0.5)), state

    hardest = ksam_jax.Selection(choose, {"first"}, lambda: jnp.zeros(()), learn)
    climb = ksam_jax.scale_to_radius(0.1)
    tx: Any = ksam_jax.sharpness_aware(
        climb, ascent=hardest, descent=hardest, groups=groups
    )
    plain = loss_in_form("batch")

    def mapped(params: Any, batch: Any) -> Any:
        specs = {"in_specs": (P(), P("data")), "out_specs": P("data")}
        return jax.shard_map(plain, mesh=here, **specs)(params, batch)

    def step(params: Any, batch: Any, loss_fn: Any) -> Any:
        return tx.update(None, tx.init(params), params, loss_fn=loss_fn, batch=batch)[0]

    params = as_jax(start())
    spread = jax.device_put(one_batch(), NamedSharding(here, P("data")))
    with jax.set_mesh(here):
        found = jax.jit(functools.partial(step, loss_fn=mapped))(params, spread)
    check_trees_equal(found, step(params, one_batch(), plain))
    shape = (2,) if groups == 1 else (2, 2)
    assert seen == [shape, None] * 2
    # A batch that is a constant of the step has no mesh but its own.
    constant = jax.jit(lambda params: step(params, spread, plain))(params)
    check_trees_equal(constant, found)


@pytest.mark.parametrize("n", [1, DEVICES])
def test_a_mask_lies_where_the_losses_do(n):
    losses = jnp.array([0.5, 3.0, jnp.nan, 1.0, 0.0, 2.0, 3.0, 0.1])
    spread = jax.device_put(losses, NamedSharding(mesh(AxisType.Explicit, n), P("data")))
    for mask in (ksam_jax.top_k_mask, jax.jit(ksam_jax.top_k_mask, static_argnums=1)):
        found = mask(spread, 3)
        assert found.tolist() == [0, 1, 0, 0, 0, 1, 1, 0]
        assert jax.typeof(found).sharding.spec == P("data")


def sharded(params: Any, here: Any) -> Any:
    """Along the longest axis of four, over four devices."""

    def place(leaf: Any) -> Any:
        axis = next((i for i, n in enumerate(leaf.shape) if n % 4 == 0), None)
        spec = P() if axis is None else P(*(None,) * axis, "data")
        return jax.device_put(leaf, NamedSharding(here, spec))

    return jax.tree.map(place, params)


@pytest.mark.parametrize(
    ("name", "sync"),
    [("k_sam", False), ("esam", True), ("k_momentum_sam", False), ("f_sam", True)],
)
def test_weights_that_explicit_axes_shard_train_as_whole_ones(name, sync):
    """Four devices with two groups each; the loss gathers the weights that it uses."""
    here = mesh(AxisType.Explicit, 4)
    tx = CASES[name].method(groups=DEVICES, sync_ascent=sync)

    def loss_fn(params: Any, batch: Any) -> Any:
        whole = jax.tree.map(lambda w: jax.sharding.reshard(w, P()), params)
        return loss_in_form("batch")(whole, batch)

    with jax.set_mesh(here):
        params = sharded(as_jax(start()), here)
        batches = jax.device_put(stacked(), NamedSharding(here, P(None, "data")))
        found = quick_jit(functools.partial(train, tx, loss_fn))(params, batches)
        assert found.params["w1"].sharding.spec == P(None, "data")
        check_trees_equal(jax.device_get(found.params), reference(name, sync).params)
