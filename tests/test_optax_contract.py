"""Optax's public tests of its optimizers, asked of our methods in front of a base.

Each test names those of Optax 0.2.8 that it stands for: `contrib` is ContribTest of
contrib/_common_test.py, and alias, base, combine and sharding are _src/*_test.py. More of
them are in test_contract.py: chains with eight bases and wrappers, schedules, unknown
arguments, no second compilation, and checkpoints.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import (
    Draw,
    abstract,
    assert_close,
    assert_same,
    descend,
    initial,
    is_same,
    is_zero,
    on_one_worker,
    quick_jit,
    traced,
    updater,
)

import ksam_jax

RHO, RATE, N = 0.02, 0.1, 6

# ------------------------------------------------------------- methods and problems


def of_parts(rho):
    """Three answers that no paper combines, with a state in each of the three places."""
    return ksam_jax.sharpness_aware(
        optax.chain(ksam_jax.subtract_ema(), ksam_jax.scale_to_radius(rho)),
        ascent=ksam_jax.random_subset(0.5),
        descent=ksam_jax.highest_remembered_loss(0.5, num_examples=N),
    )


# As the paper has it.
QUARTER = functools.partial(ksam_jax.k_sam, k=0.25, mean_over="chosen")

METHODS: dict[str, Any] = {
    "sam": ksam_jax.sam,
    "asam": ksam_jax.asam,
    "random_sam": ksam_jax.random_sam,
    "k_sam": QUARTER,
    "esam": ksam_jax.esam,
    "f_sam": ksam_jax.f_sam,
    "momentum_sam": functools.partial(ksam_jax.momentum_sam, decay=0.9),
    "k_momentum_sam": functools.partial(
        ksam_jax.k_momentum_sam, k=0.25, decay=0.9, mean_over="chosen"
    ),
    "of_parts": of_parts,
    "loss_scaled": QUARTER,
}
# The others' states and steps are made of the same parts.
MAIN = ("k_sam", "loss_scaled")


def quick_rows(quick):
    each = [on_one_worker(name, slow=name not in quick) for name in METHODS]
    return pytest.mark.parametrize("name", each)


rows, main_rows = quick_rows(METHODS), quick_rows(MAIN)


def chained(name, rho, base, chain=optax.chain) -> Any:
    """The method in front of a base optimizer, as a user would write it."""
    made = chain(METHODS[name](rho=rho), base)
    return ksam_jax.dynamic_loss_scale(made) if name == "loss_scaled" else made


def momentum(rate: Any = RATE):
    return optax.sgd(rate, momentum=0.9)


def batch():
    """Factors of the loss: every subset of the examples has the same minimum."""
    factor = jnp.array([0.7, 1.3, 0.9, 1.2, 1.1, 0.8], jnp.float32)
    return {"factor": factor, "index": jnp.arange(N)}


def loss_of(objective, dtype=jnp.float32):
    """Optax's objectives have no examples: each of ours has its own multiple of it."""

    def example_loss(params, example):
        value = objective(params)
        return (example["factor"].astype(value.dtype) * value).astype(dtype)

    return ksam_jax.per_example(example_loss)


def squared_distance(goal):
    def objective(params):
        gaps = jax.tree.leaves(jax.tree.map(lambda p, g: p - g, params, goal))
        return sum(jnp.sum(jnp.real(gap * jnp.conj(gap))) for gap in gaps)

    return objective


def pair(dtype=jnp.float32):
    draw = Draw(3)
    return {"a": draw((3,), dtype=dtype), "b": draw((2, 2), dtype=dtype)}


def pair_loss(dtype=jnp.float32, losses_in=jnp.float32):
    goal = jax.tree.map(lambda p: 1 - 2 * p, pair(dtype))
    return loss_of(squared_distance(goal), losses_in)


# ----------------------------------------- what a chain may be, and what may go around


def named(method, base):
    return optax.named_chain(("method", method), ("base", base))


def parts_apart():
    """The optimizer of "a" can't do without `value`, that of "b" doesn't know it."""
    return optax.partition(
        {"polyak": optax.polyak_sgd(), "plain": optax.sgd(RATE)},
        {"a": "polyak", "b": "plain"},
    )


def injected(name):
    def make(rho, learning_rate):
        return chained(name, rho, momentum(learning_rate))

    return optax.inject_hyperparams(make)(rho=RHO, learning_rate=RATE)


def scheduled(name):
    constant = optax.constant_schedule
    return chained(name, constant(RHO), momentum(constant(RATE)))


def accumulating(name):
    return chained(
        name, RHO, optax.MultiSteps(optax.sgd(RATE), 2).gradient_transformation()
    )


VARIANTS = {
    "gradient": lambda name: chained(name, RHO, optax.identity()),
    "chain": lambda name: chained(name, RHO, momentum()),
    "named": lambda name: chained(name, RHO, momentum(), named),
    "injected": injected,
    "scheduled": scheduled,
    "accumulating": accumulating,
    "partition": lambda name: chained(name, RHO, parts_apart()),
}


class Steps(NamedTuple):
    """Updates of two steps, the state before the first and that after the second."""

    updates: Any
    before: Any
    after: Any
    traces: int


@functools.cache
def stepped(name) -> dict[str, Steps]:
    """Two steps of all variants in one program, in which XLA computes a method once."""
    txs, traces, walked = {v: make(name) for v, make in VARIANTS.items()}, [], []

    @quick_jit
    def step(states, params, batch, value):
        traces.append(name)
        extra = {"value": value, "nobody_expects_this": "anything"}
        found = {
            v: updater(tx, pair_loss(), **extra)(states[v], params, batch)
            for v, tx in txs.items()
        }
        return {v: f[0] for v, f in found.items()}, {v: f[1] for v, f in found.items()}

    params = pair()
    states = before = quick_jit(lambda p: {v: tx.init(p) for v, tx in txs.items()})(params)
    for value in (2.0, 3.0):
        with jax.numpy_dtype_promotion("standard"):  # Optax's MultiSteps needs it.
            updates, states = step(states, params, batch(), jnp.float32(value))
        walked.append(updates)
        params = descend(params, updates["gradient"])
    return {
        v: Steps([u[v] for u in walked], before[v], states[v], len(traces)) for v in txs
    }


@main_rows
def test_methods_and_chains_are_transformations_that_take_extra_arguments(name):
    """base and combine ExtraArgsTest: test_isinstance, test_extra_args_chaining."""
    for tx in (METHODS[name](rho=RHO), chained(name, RHO, momentum())):
        assert isinstance(tx, optax.GradientTransformation)
        assert isinstance(tx, optax.GradientTransformationExtraArgs)
        assert optax.with_extra_args_support(tx) is tx
    assert stepped(name)["chain"].traces == 1


@main_rows
def test_params_may_be_passed_by_position_or_by_name(name):
    """base test_typing, combine test_extra_args_positional_params."""
    tx, params = chained(name, RHO, momentum()), pair()
    given = {"loss_fn": pair_loss(), "batch": batch()}

    def positional(state, params):
        return tx.update(None, state, params, **given)

    def by_name(state, params):
        return tx.update(updates=None, state=state, params=params, **given)

    state = tx.init(params)
    assert traced(positional, state, params) == traced(by_name, state, params)


@main_rows
def test_a_named_chain_is_the_chain_with_its_states_by_name(name):
    """combine ComposeTest and NamedChainTest."""
    found = stepped(name)
    assert_same(found["named"].updates, found["chain"].updates)
    state, expected = found["named"].after, found["chain"].after
    if name == "loss_scaled":
        state, expected = state.inner, expected.inner
    assert isinstance(expected, tuple)
    assert_same(tuple(state[part] for part in ("method", "base")), expected)


@main_rows
def test_extra_arguments_reach_the_optimizer_that_needs_them(name):
    """combine ExtraArgsTest.test_extra_args and PartitionTest.test_extra_args."""
    found = stepped(name)
    polyak = optax.polyak_sgd()
    for gradient, updates, value in zip(
        found["gradient"].updates, found["partition"].updates, (2.0, 3.0), strict=True
    ):
        state = polyak.init(gradient["a"])
        expected, _ = polyak.update(gradient["a"], state, gradient["a"], value=value)
        assert_close(updates["a"], expected)
        assert_close(updates["b"], -jnp.float32(RATE) * gradient["b"])
    tx, params = VARIANTS["partition"](name), pair()
    without = updater(tx, pair_loss())
    with pytest.raises(TypeError, match="value"):
        jax.eval_shape(without, initial(tx, params), params, batch())


@main_rows
def test_injected_hyperparameters_give_the_same_updates_and_states(name):
    """contrib and alias test_optimizers_can_be_wrapped_in_inject_hyperparams."""
    found = stepped(name)
    assert_close(found["injected"].updates, found["chain"].updates, 1e-5, 1e-6)
    for at in ("before", "after"):
        state = getattr(found["injected"], at)
        assert_close(state.inner_state, getattr(found["chain"], at), 1e-5, 1e-5)
        values = {n: float(optax.tree.get(state, n)) for n in ("rho", "learning_rate")}
        assert values == pytest.approx({"rho": RHO, "learning_rate": RATE})


@main_rows
def test_a_constant_schedule_is_the_constant(name):
    """contrib test_optimizers_accept_learning_rate_schedule_..., and of our radius."""
    found = stepped(name)
    assert_close(found["scheduled"].updates, found["chain"].updates, 1e-5, 1e-6)


@main_rows
def test_accumulation_waits_and_then_steps_along_the_mean_of_the_gradients(name):
    """contrib and alias test_gradient_accumulation, around the base as it has to be."""
    found = stepped(name)
    (first, second), gradients = found["accumulating"].updates, found["gradient"].updates
    assert is_zero(first)
    mean = jax.tree.map(lambda g, h: -jnp.float32(RATE) * (g + h) / 2, *gradients)
    assert_close(second, mean)
    assert not is_zero(second)


# --------------------------------------------------------------------------- states


@quick_rows(("k_sam", "f_sam", "of_parts"))
def test_init_is_the_same_compiled_and_has_its_shapes(name):
    """contrib and alias: `jax.jit(opt.init)`."""
    tx, params = chained(name, RHO, momentum()), pair()
    state = initial(tx, params)
    assert_same(stepped(name)["chain"].before, state)
    assert abstract(jax.eval_shape(tx.init, params)) == abstract(state)


@rows
def test_init_takes_shapes_in_place_of_arrays(name):
    """sharding test_init_with_abstract_input."""
    tx, params = chained(name, RHO, momentum()), pair()
    shapes = jax.eval_shape(lambda: params)
    assert abstract(tx.init(shapes)) == abstract(initial(tx, params))


@main_rows
def test_map_params_that_changes_nothing_leaves_the_state(name):
    """contrib test_optimizers and alias test_optimization: tree.map_params."""
    tx = chained(name, RHO, momentum())
    state = stepped(name)["chain"].after
    assert_same(optax.tree.map_params(tx, lambda leaf: leaf, state), state)


# How many trees in the state have the shape of the parameters: with an average of its own
# the method's is one, and the base's momentum is always one.
COPIES = {"f_sam": 2, "momentum_sam": 2, "k_momentum_sam": 2, "of_parts": 2}


@rows
def test_map_params_gives_every_copy_of_the_parameters_its_sharding(name):
    """What tree.map_params is for: momentum, and the averages that some methods keep."""
    tx = chained(name, RHO, momentum())
    specs = {"a": P("x"), "b": P(None, "x")}
    found = optax.tree.map_params(
        tx,
        lambda _, spec: spec,
        tx.init(pair()),
        specs,
        transform_non_params=lambda _: None,
    )
    leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, P))
    assert leaves == list(specs.values()) * COPIES.get(name, 1)


def test_map_params_sees_through_a_mask():
    tx: Any = optax.chain(ksam_jax.f_sam(RHO, mask={"a": True, "b": False}), momentum())
    state = tx.init(pair())
    assert_same(optax.tree.map_params(tx, lambda leaf: leaf, state), state)


@rows
def test_fields_of_the_state_can_be_read_and_set_by_name(name):
    """alias test_explicit_dtype and others: optax.tree.get and set."""
    state = stepped(name)["chain"].after
    info = ksam_jax.get_info(state)
    assert_same(optax.tree.get(state, "SharpnessAwareState").info, info)
    for field in info._fields:
        assert_same(optax.tree.get(state, field), getattr(info, field))
    changed = optax.tree.set(state, cosine=jnp.float32(0.25), both_finite=jnp.array(False))
    assert float(ksam_jax.get_info(changed).cosine) == 0.25
    assert abstract(changed) == abstract(state)
    expected = {f: x for f, x in info._asdict().items() if f != "cosine"}
    found = ksam_jax.get_info(changed)._asdict()
    assert_same({f: found[f] for f in expected}, expected)


@pytest.mark.xdist_group("loss_scaled")
def test_the_loss_scale_can_be_read_and_set_by_name():
    state = stepped("loss_scaled")["chain"].after
    assert float(optax.tree.get(state, "scale")) == 2.0**15
    assert float(optax.tree.set(state, scale=jnp.float32(8.0)).scale) == 8.0


@main_rows
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_step_that_cond_may_skip_keeps_every_type(name, dtype):
    """contrib and alias test_preserve_dtype, test_state_shape_dtype_shard_stability."""
    with jax.enable_x64(dtype == "float64"):
        params = pair(jnp.dtype(dtype))
        # Of another dtype than the parameters, to confuse it, as Optax's tests do.
        other = jnp.bfloat16 if dtype == "float16" else jnp.float16
        tx = chained(name, RHO, momentum())
        update = updater(tx, pair_loss(jnp.dtype(dtype), other))

        def step(flag, params, state):
            return jax.lax.cond(
                flag, lambda: update(state, params, batch()), lambda: (params, state)
            )

        state = initial(tx, params)
        found = jax.eval_shape(step, True, params, state)
        assert abstract(found) == abstract((params, state))


# ---------------------------------------------------------------------- convergence


class Target(NamedTuple):
    """Where training starts, and where it should end."""

    start: Any
    goal: Any


def array(values, dtype: Any = np.float32):
    return np.array(values, dtype)


TARGETS = {
    "parabola": Target(array([-1, 10, 1]), array([1, -1, 1])),
    "complex_parabola": Target(
        array([-1, 10, 1], np.complex64), array([1 + 1j, -1 - 1j, 1 + 1j], np.complex64)
    ),
    "matrix_parabola": Target(array([[0, 0], [0, 0]]), array([[3, -2], [1, 4]])),
    "mixed_tensors": Target(
        (array([0, 0, 0]), array([[0, 0], [0, 0]])),
        (array([1, -1, 2]), array([[1, 0], [-1, 1]])),
    ),
}
STEPS = 60


def trained(tx, objective, start, steps):
    """Parameters after every step under lax.scan, and how far each of them climbed."""
    update = updater(tx, loss_of(objective))

    def step(carry, _):
        params, state = carry
        updates, state = update(state, params, batch())
        params = optax.apply_updates(params, updates)
        climbed = ksam_jax.get_info(state).perturbation_norm
        return (params, state), (params, climbed)

    return jax.lax.scan(step, (start, tx.init(start)), length=steps)[1]


@functools.cache
def converged(name):
    """All targets in one program."""
    tx = chained(name, RHO, optax.sgd(RATE))

    def run(targets):
        return {
            which: trained(tx, squared_distance(target.goal), target.start, 2 * STEPS)
            for which, target in targets.items()
        }

    return quick_jit(run)(jax.tree.map(jnp.asarray, TARGETS))


@main_rows
@pytest.mark.parametrize("which", TARGETS)
def test_quadratics_converge_to_within_the_radius_of_the_climb(name, which):
    """contrib test_optimizers and alias test_optimization.

    A climb of fixed length never ends in the minimum itself. The gradient at w + epsilon
    is c (w + epsilon - goal) with c of 2 * 0.7 or more, so a step leaves at most
    (1 - 0.1 c) of the distance and adds at most 0.1 c |epsilon|: in the end the distance
    is at most the longest climb. Optax's 3e-2 has to hold as well.
    """
    walked, climbed = converged(name)[which]
    goal = TARGETS[which].goal
    gaps = jax.tree.map(lambda w, g: np.abs(np.asarray(w) - g), walked, goal)
    squares = [np.square(x).reshape(2 * STEPS, -1).sum(1) for x in jax.tree.leaves(gaps)]
    distance = np.sqrt(sum(squares))
    rest = (1 - 2 * 0.7 * RATE) ** STEPS * distance[STEPS - 1]
    assert distance[-1] <= rest + np.max(climbed[STEPS:]) * 1.001 + 1e-6
    assert np.max(climbed[STEPS:]) > RHO / 2
    for gap, g in zip(jax.tree.leaves(gaps), jax.tree.leaves(goal), strict=True):
        assert np.all(gap[-1] <= 3e-2 + 3e-2 * np.abs(g))


def rosenbrock(params):
    x, y = params
    return jnp.square(1 - x) + 100 * jnp.square(y - jnp.square(x))


@main_rows
def test_rosenbrock_converges_under_a_radius_that_decays(name):
    """contrib test_optimizers and alias test_optimization.

    The valley is 2500 times as steep across as along, and less so near its beginning, where
    a fixed radius holds the weights: with SAM and 0.02 at (0.81, 0.65). So the radius goes
    to zero here, as 1 / t.
    """
    tx = chained(name, lambda t: RHO / (1 + t.astype(jnp.float32) / 100), momentum(1e-3))
    start = jnp.zeros(2, jnp.float32)
    walked, climbed = quick_jit(lambda p: trained(tx, rosenbrock, p, 3000))(start)
    np.testing.assert_allclose(walked[-1], np.ones(2), rtol=3e-2, atol=3e-2)
    # The longest of several, since ESAM may draw no coordinate at all.
    assert 0 < np.max(climbed[-50:]) < np.max(climbed[10:60]) / 10


# ------------------------------------------------------------------------- shardings


def placed(kind) -> Any:
    """A mesh of eight devices, and weights along it as in Optax's tests."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    weights = jnp.full((2, 8, 4), 0.5, jnp.float16)
    return mesh, jax.device_put(weights, NamedSharding(mesh, P(None, "x")))


def one(params):
    """Somewhere else than the weights are, summed in float32."""
    return jnp.sum(jnp.square(params.astype(jnp.float32) - 1))


def types(tree):
    return jax.tree.map(jax.typeof, tree)


@main_rows
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_an_update_keeps_the_sharding_types_of_init_traced_or_not(name, kind):
    """sharding test_state_sharding_type_init_match_update, ..._preserved_with_jit."""
    mesh, params = placed(kind)
    tx, seen = chained(name, RHO, momentum()), []

    def step(state, params):
        seen.append(types(updater(tx, loss_of(one))(state, params, batch())))

    with jax.set_mesh(mesh):
        state = initial(tx, params)
        assert types(quick_jit(tx.init)(params)) == types(state)
        jax.eval_shape(step, state, params)
        assert seen == [types((params, state))]


@main_rows
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_a_compiled_step_leaves_everything_where_the_parameters_are(name, kind):
    """The same of the arrays themselves: of each that has the shape of the parameters."""
    mesh, params = placed(kind)
    tx = chained(name, RHO, momentum())
    with jax.set_mesh(mesh):
        state = tx.init(params)
        updates, after = quick_jit(updater(tx, loss_of(one)))(state, params, batch())
        assert types((updates, after)) == types((params, state))
    copies = [x for x in jax.tree.leaves((updates, state, after)) if x.ndim == 3]
    assert len(copies) == 1 + 2 * COPIES.get(name, 1)
    for leaf in copies:
        assert leaf.sharding.is_equivalent_to(params.sharding, 3)
    assert not is_same(state, after)
