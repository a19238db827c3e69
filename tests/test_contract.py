"""One table of every public method, run through everything Optax and JAX do to it."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
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
    is_finite,
    is_same,
    is_zero,
    mean_loss,
    mlp,
    mlp_batch,
    mlp_dropout_loss,
    mlp_loss,
    mlp_loss_with_aux,
    on_one_worker,
    quick_jit,
    stacked,
    traced,
    updater,
)

import ksam_jax
from ksam_jax.trees._keys import drawn_alone

RHO = 0.1


class JitterState(NamedTuple):
    """State leaves that arithmetic on states would break: a bool and a typed key."""

    started: Any
    key: Any


def jitter():
    """A user's own perturbation: flips the signs of some coordinates at random."""

    def init_fn(params):
        del params
        return JitterState(jnp.array(False), jax.random.key(5))

    def update_fn(updates, state, params=None):
        del params
        key, sub = jax.random.split(state.key)
        leaves, treedef = jax.tree.flatten(updates)
        keys = jax.random.split(sub, len(leaves))
        flipped = [
            g * jax.random.rademacher(k, g.shape).astype(g.dtype)
            for k, g in zip(keys, leaves, strict=True)
        ]
        return treedef.unflatten(flipped), JitterState(jnp.array(True), key)

    return optax.GradientTransformation(init_fn, update_fn)


# Spelled out in each: `optax.inject_hyperparams` can't pass `**common` on.


def k_friendly(rho=RHO, k=0.25, mask=None, perturbed_dtype=None):
    """F-SAM's direction with K-SAM's examples."""
    chosen = ksam_jax.highest_loss(k, mean_over="chosen")
    climb = optax.chain(ksam_jax.subtract_ema(), ksam_jax.scale_to_radius(rho))
    return ksam_jax.sharpness_aware(
        climb,
        ascent=chosen,
        descent=chosen,
        mask=mask,
        perturbed_dtype=perturbed_dtype,
    )


def esam_random_ascent(rho=RHO, gamma=0.5, seed=0, mask=None, perturbed_dtype=None):
    """ESAM's mask and descent after a climb on a random quarter."""
    climb = optax.chain(ksam_jax.scale_to_radius(rho), ksam_jax.random_mask(0.6, seed=seed))
    return ksam_jax.sharpness_aware(
        climb,
        ascent=ksam_jax.random_subset(0.25, seed=seed),
        descent=ksam_jax.largest_increase(gamma, mean_over="chosen"),
        mask=mask,
        perturbed_dtype=perturbed_dtype,
    )


def row_numbers(batch):
    """The numbers of a batch that has the whole data set, in order."""
    return jnp.arange(jax.tree.leaves(batch)[0].shape[0])


def remembered(rho=RHO, mask=None, perturbed_dtype=None):
    """K-SAM on the examples whose loss was highest when they were last used."""
    chosen = ksam_jax.highest_remembered_loss(
        0.25, 10, index=row_numbers, mean_over="chosen"
    )
    return ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(rho),
        ascent=chosen,
        descent=chosen,
        mask=mask,
        perturbed_dtype=perturbed_dtype,
    )


def custom(rho=RHO, mask=None, perturbed_dtype=None):
    """A perturbation of the user's own, with bools and keys in its state."""
    climb = optax.chain(jitter(), ksam_jax.scale_to_radius(rho))
    return ksam_jax.sharpness_aware(climb, mask=mask, perturbed_dtype=perturbed_dtype)


class Row(NamedTuple):
    """One line of the table: how to make the method and how its loss is passed."""

    make: Any
    static: tuple = ()
    takes_seed: bool = False
    climbs_on_all: bool = True
    keep: str | None = None

    def loss(self, example_loss=mlp_loss):
        """The loss as the row passes it: batch-level, or through `per_example`."""
        if self.keep is None:
            return batched(example_loss)
        return ksam_jax.per_example(example_loss, keep=self.keep)


def warmed_up(rho=RHO, k=0.25, mask=None, perturbed_dtype=None):
    """A plain step, and K-SAM from then on."""
    common: dict[str, Any] = {"mask": mask, "perturbed_dtype": perturbed_dtype}
    return ksam_jax.join_methods(
        [ksam_jax.mean_gradient(**common), ksam_jax.k_sam(rho, k, **common)], [1]
    )


def le_sam(rho=RHO, mask=None, perturbed_dtype=None):
    """LE-SAM whose budget is what the table calls rho, of any length."""
    common: dict[str, Any] = {"mask": mask, "perturbed_dtype": perturbed_dtype}
    return ksam_jax.le_sam(sigma=rho, max_rho=None, **common)


# As published, a mean over the chosen; the default is another row.
esam = functools.partial(ksam_jax.esam, mean_over="chosen")
esam_tensor = functools.partial(esam, mask_per="tensor")
momentum_sam = functools.partial(ksam_jax.momentum_sam, decay=0.9)
# As published, a fixed k and the mean over the chosen; the default is another row.
k_sam = functools.partial(ksam_jax.k_sam, k=0.25, mean_over="chosen")
k_momentum_sam = functools.partial(
    ksam_jax.k_momentum_sam, k=0.25, decay=0.9, mean_over="chosen"
)

TABLE = {
    "sam": Row(ksam_jax.sam),
    "asam": Row(ksam_jax.asam),
    "random_sam": Row(ksam_jax.random_sam, ("m",), True, climbs_on_all=False),
    "k_sam": Row(k_sam, ("k", "skip"), climbs_on_all=False),
    "k_sam_by_coverage": Row(
        functools.partial(ksam_jax.k_sam, k=ksam_jax.by_coverage(0.5, climb_up_to=0.5)),
        ("skip",),
        climbs_on_all=False,
        keep="all",
    ),
    "k_sam_shared": Row(k_sam, ("k", "skip"), climbs_on_all=False, keep="all"),
    "esam": Row(esam, ("gamma",), True),
    "esam_tensor_shared": Row(esam_tensor, ("gamma",), True, keep="all"),
    "esam_over_batch": Row(ksam_jax.esam, ("gamma",), True, keep="all"),
    "f_sam": Row(ksam_jax.f_sam),
    "momentum_sam": Row(momentum_sam, climbs_on_all=False),
    "k_momentum_sam_shared": Row(
        k_momentum_sam, ("k", "skip"), climbs_on_all=False, keep="all"
    ),
    "gsam": Row(ksam_jax.gsam),
    "vasso": Row(ksam_jax.vasso),
    "look_sam": Row(functools.partial(ksam_jax.look_sam, period=1)),
    "le_sam": Row(le_sam),
    "adaptive_momentum_sam": Row(
        functools.partial(ksam_jax.adaptive_momentum_sam, decay=0.9), climbs_on_all=False
    ),
    "warmed_up": Row(warmed_up, ("k",), climbs_on_all=False),
    "remembered": Row(remembered, climbs_on_all=False),
    "k_friendly": Row(k_friendly, ("k",), climbs_on_all=False, keep="matmuls"),
    "esam_random_ascent": Row(
        esam_random_ascent, ("gamma",), True, climbs_on_all=False, keep="nothing"
    ),
    "custom": Row(custom),
}


# The others are made of the same parts, and `make test-slow` runs them.
MAIN = ("sam", "k_sam", "esam", "f_sam", "momentum_sam")


def rows(names=TABLE):
    """Parametrizes a test over rows of the table."""
    return pytest.mark.parametrize(
        "name", [on_one_worker(name, slow=name not in MAIN) for name in names]
    )


ON_ALL = [name for name, row in TABLE.items() if row.climbs_on_all]
# Its first step is a plain one, which can use a gradient over the whole batch.
NOT_ON_ALL = [n for n, row in TABLE.items() if not row.climbs_on_all and n != "warmed_up"]
# Its count, and with it a schedule, begins a step later.
FROM_THE_START = [name for name in TABLE if name != "warmed_up"]
# What comes out of the others is the mean gradient at the perturbed weights, of which the
# perturbation can be read off in a bowl.
UNCOMBINED = [name for name in TABLE if name not in ("gsam", "esam_over_batch")]
ON_NONE = ["momentum_sam", "k_momentum_sam_shared", "adaptive_momentum_sam"]
SEEDED = [name for name, row in TABLE.items() if row.takes_seed]
DETERMINISTIC = [name for name in TABLE if name not in (*SEEDED, "custom")]
# A corrupt batch leaves its trace in a memory of losses.
FORGETFUL = [name for name in DETERMINISTIC if name != "remembered"]
HIGHEST_LOSS = ["k_sam", "k_sam_shared", "k_friendly", "k_momentum_sam_shared"]
CHOOSES_DESCENT = ["esam", "esam_tensor_shared", "esam_random_ascent", *HIGHEST_LOSS]


# The gradients of a method along a trajectory, compiled once per row. Every base
# optimizer sees a gradient and nothing else, so what a chain must do follows from them.

BATCHES = [mlp_batch(seed) for seed in range(4)]


class Compiled(NamedTuple):
    """A row's transformation with one compiled update, and its count of traces."""

    tx: Any
    update: Any
    traces: list


@functools.cache
def compiled(name):
    """`update(state, params, batch)` of a row, compiled once for the whole file."""
    tx, traces = TABLE[name].make(rho=RHO), []
    update = updater(tx, TABLE[name].loss())

    @quick_jit
    def counted(state, params, batch):
        traces.append(name)
        return update(state, params, batch)

    return Compiled(tx, counted, traces)


def walk(name, params, batches):
    """Gradients, final parameters and final state of plain descent with a row."""
    method, gradients = compiled(name), []
    state = method.tx.init(params)
    for batch in batches:
        updates, state = method.update(state, params, batch)
        gradients.append(updates)
        params = descend(params, updates)
    return gradients, params, state


# Base optimizers after the method, in optax.chain


def learning_rate(count):
    return 0.1 / (1.0 + jnp.asarray(count, jnp.float32))


def layers_apart(params):
    """`optax.partition`'s labels."""
    return {name: name for name in params}


def matrices(params):
    """`optax.masked`'s mask: matrices and not biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def momentum():
    return optax.sgd(0.2, momentum=0.9)


def nested():
    """All four wrappers around one base."""
    decayed = optax.chain(
        optax.masked(optax.add_decayed_weights(0.1), matrices), optax.adam(0.01)
    )
    parts = optax.partition({"hidden": momentum(), "out": decayed}, layers_apart)
    several = optax.MultiSteps(parts, every_k_schedule=2).gradient_transformation()
    return optax.apply_if_finite(several, 3)


BASES = {
    "clip_decay_schedule_momentum": optax.chain(
        optax.clip_by_global_norm(0.2),
        optax.add_decayed_weights(0.05),
        optax.sgd(learning_rate, momentum=0.9),
    ),
    "adamw": optax.adamw(learning_rate, weight_decay=0.01),
    "muon": optax.contrib.muon(learning_rate),
    "partition": optax.partition(
        {"hidden": momentum(), "out": optax.adam(0.01)}, layers_apart
    ),
    "masked": optax.chain(
        optax.masked(optax.add_decayed_weights(0.1), matrices), momentum()
    ),
    "multi_steps": optax.MultiSteps(momentum(), 2).gradient_transformation(),
    "apply_if_finite": optax.apply_if_finite(momentum(), 3),
    "all_wrappers": nested(),
}

# `all_wrappers` has the four wrappers; one row takes each of them alone as well.
# The others are made of the same parts.
FOR_ALL_ROWS = ["clip_decay_schedule_momentum", "adamw", "muon", "all_wrappers"]


@functools.cache
def compiled_base(base):
    return quick_jit(BASES[base].update)


@functools.cache
def chained_updates(name):
    """Gradients along three steps, and the updates of `chain(method, base)` for each.

    All the bases are in one program, so the method in front of them is compiled once.
    """
    row, params = TABLE[name], mlp().params
    gradients, _, _ = walk(name, params, BATCHES[:3])
    bases = BASES if name == "k_sam" else FOR_ALL_ROWS
    chains = {b: optax.chain(row.make(rho=RHO), BASES[b]) for b in bases}

    @quick_jit
    def step(method_state, base_states, params, batch):
        found = {
            base: updater(tx, row.loss())((method_state, state), params, batch)
            for (base, tx), state in zip(chains.items(), base_states, strict=True)
        }
        updates = {base: updates for base, (updates, _) in found.items()}
        after = [state for _, state in found.values()]
        return updates, after[0][0], [state[1] for state in after]

    states = [initial(tx, params) for tx in chains.values()]
    method_state, base_states, steps = states[0][0], [s[1] for s in states], []
    for gradient, batch in zip(gradients, BATCHES, strict=False):
        with jax.numpy_dtype_promotion("standard"):  # Optax's Adam and Muon need it.
            updates, method_state, base_states = step(
                method_state, base_states, params, batch
            )
        steps.append(updates)
        params = descend(params, gradient)
    return gradients, steps


@pytest.mark.parametrize(
    ("name", "base"),
    [
        *(
            on_one_worker(name, base, slow=name not in MAIN)
            for name in TABLE
            for base in FOR_ALL_ROWS
        ),
        *(on_one_worker("k_sam", base) for base in BASES if base not in FOR_ALL_ROWS),
    ],
)
def test_a_chain_feeds_the_base_optimizer_the_descent_gradient(name, base):
    gradients, steps = chained_updates(name)
    params, expected = mlp().params, []
    state = BASES[base].init(params)
    for gradient in gradients:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = compiled_base(base)(gradient, state, params)
        expected.append(updates)
        params = descend(params, gradient)
    # Muon orthogonalizes, which enlarges rounding; the others hardly do.
    tolerance = 1e-3 if base == "muon" else 2e-5
    assert_close([step[base] for step in steps], expected, tolerance, tolerance)
    assert not all(is_zero(updates) for updates in expected)


# Hyperparameters: schedules, inject_hyperparams, vmap


@functools.cache
def injected(name):
    """A row whose rho (and seed) sit in the state, and its compiled update."""
    row = TABLE[name]
    tx = optax.inject_hyperparams(row.make, static_args=row.static)(rho=RHO)
    return tx, quick_jit(updater(tx, row.loss()))


def inject(state, **values):
    """The state of `inject_hyperparams` with other values in it."""
    arrays = {name: jnp.asarray(value) for name, value in values.items()}
    return state._replace(hyperparams=state.hyperparams | arrays)


@rows()
def test_an_injected_rho_gives_the_same_steps_and_can_be_overwritten(name):
    tx, update = injected(name)
    params = mlp().params
    expected, _, _ = walk(name, params, BATCHES[:2])
    # In the second step, since momentum has no perturbation in the first.
    first, before = update(tx.init(params), params, BATCHES[0])
    params = descend(params, first)
    same, state = update(before, params, BATCHES[1])
    assert_close([first, same], expected)
    norm = float(ksam_jax.get_info(state).perturbation_norm)

    doubled = inject(before, rho=jnp.float32(2 * RHO))
    other, state = update(doubled, params, BATCHES[1])
    assert not is_same(same, other)
    assert float(ksam_jax.get_info(state).perturbation_norm) == pytest.approx(
        2 * norm, rel=1e-4
    )


def rising(count):
    """A radius that is another one at every step."""
    return RHO * (1 + jnp.asarray(count, jnp.float32))


@rows(FROM_THE_START)
def test_a_scheduled_rho_advances_step_by_step(name):
    row, params = TABLE[name], mlp().params
    tx = row.make(rho=rising)
    scheduled = quick_jit(updater(tx, row.loss()))
    constant_tx, constant = injected(name)
    state, constant_state = tx.init(params), constant_tx.init(params)
    for step, batch in enumerate(BATCHES[:3]):
        updates, state = scheduled(state, params, batch)
        constant_state = inject(constant_state, rho=rising(step))
        expected, constant_state = constant(constant_state, params, batch)
        assert_close(updates, expected)
        params = descend(params, updates)


@rows(["sam", "k_sam_shared", "esam", "f_sam"])
def test_inject_hyperparams_advances_a_scheduled_rho_as_the_method_does(name):
    row, params = TABLE[name], mlp().params
    by_hand, by_injection = (
        row.make(rho=rising),
        optax.inject_hyperparams(row.make, static_args=row.static)(rho=rising),
    )

    @quick_jit
    def both(states, params, batch):
        first = updater(by_hand, row.loss())(states[0], params, batch)
        second = updater(by_injection, row.loss())(states[1], params, batch)
        return (first[0], second[0]), (first[1], second[1])

    states = (initial(by_hand, params), initial(by_injection, params))
    for batch in BATCHES[:3]:
        (expected, updates), states = both(states, params, batch)
        assert_close(updates, expected)
        params = descend(params, updates)
    np.testing.assert_allclose(states[1].hyperparams["rho"], 3 * RHO, 1e-6)


@rows()
def test_vmap_of_whole_runs_over_seeds_and_rho_equals_single_runs(name):
    row = TABLE[name]

    def run(seed, rho, params):
        tx = row.make(rho=rho, **({"seed": seed} if row.takes_seed else {}))

        def step(carry, batch):
            params, state = carry
            updates, state = updater(tx, row.loss())(state, params, batch)
            return (descend(params, updates), state), ksam_jax.get_info(state).cosine

        start = (params, tx.init(params))
        (params, _), cosines = jax.lax.scan(step, start, stacked(BATCHES[:2]))
        return params, cosines

    def run_alone(seed, rho, params):
        tx, update = injected(name)
        seeds = {"seed": jnp.int32(seed)} if row.takes_seed else {}
        state, cosines = inject(tx.init(params), rho=jnp.float32(rho), **seeds), []
        for batch in BATCHES[:2]:
            updates, state = update(state, params, batch)
            params = descend(params, updates)
            cosines.append(ksam_jax.get_info(state).cosine)
        return params, jnp.stack(cosines)

    # At radius 0 every rise is rounding, and which of them is the largest is chance.
    seeds, radii = (0, 1, 7), (0.02 if "esam" in name else 0.0, 0.1, 0.3)
    starts = [mlp(seed).params for seed in seeds]
    together = quick_jit(jax.vmap(run))(jnp.array(seeds), jnp.array(radii), stacked(starts))
    for i, one in enumerate(zip(seeds, radii, starts, strict=True)):
        actual = jax.tree.map(lambda x, i=i: x[i], together)
        assert_close(actual, run_alone(*one), 1e-5, 1e-5)


@rows(SEEDED)
def test_different_seeds_give_different_steps(name):
    tx, update = injected(name)
    params = mlp().params
    *steps, again = [
        update(inject(tx.init(params), seed=jnp.int32(s)), params, BATCHES[0])[0]
        for s in (3, 4, 5, 6, 7, 3)
    ]
    # A mask drawn for whole tensors has few outcomes: two seeds alone may agree.
    assert not all(is_same(steps[0], other) for other in steps[1:])
    assert is_same(steps[0], again)


# What a transformation promises to Optax and to JAX


@rows()
def test_unknown_extra_arguments_change_nothing(name):
    row, problem = TABLE[name], mlp()
    tx, loss_fn = row.make(rho=RHO), row.loss()
    state = tx.init(problem.params)

    def jaxpr(**extra):
        update = updater(tx, loss_fn, **extra)
        return traced(update, state, problem.params, problem.batch)

    assert jaxpr(value=jnp.ones(3), key="anything", unknown=None) == jaxpr()


@rows()
@pytest.mark.parametrize(
    ("dtype", "perturbed_dtype"), [("bfloat16", jnp.float32), ("float16", None)]
)
def test_updates_have_the_dtype_of_params_and_the_state_never_changes(
    name, dtype, perturbed_dtype
):
    problem = mlp(dtype=jnp.dtype(dtype))
    check_types(name, problem.params, problem.batch, perturbed_dtype)


@rows(["sam", "k_sam_shared", "esam", "f_sam", "custom", "momentum_sam", "remembered"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_under_x64_params_keep_their_dtype_and_the_state_never_changes(name, dtype):
    with jax.enable_x64(True):
        problem = mlp(dtype=jnp.dtype(dtype))
        check_types(name, problem.params, problem.batch, None)


def check_types(name, params, batch, perturbed_dtype):
    """Structure, shapes, dtypes and weak types before and after an update."""
    row = TABLE[name]
    tx = row.make(rho=RHO, perturbed_dtype=perturbed_dtype)
    state = jax.eval_shape(tx.init, params)
    update = updater(tx, row.loss())
    updates, after = jax.eval_shape(update, state, params, batch)
    assert abstract(updates) == abstract(params)
    assert abstract(after) == abstract(state)
    assert abstract(state) == abstract(tx.init(params))


@rows(["k_sam_shared", "k_friendly"])
def test_float64_steps_agree_with_float32_ones_to_float32_precision(name):
    (narrow,), _, _ = walk(name, mlp().params, BATCHES[:1])
    with jax.enable_x64(True):
        row, problem = TABLE[name], mlp(dtype=jnp.float64)
        tx = row.make(rho=RHO)
        update = quick_jit(updater(tx, row.loss()))
        wide, state = update(tx.init(problem.params), problem.params, problem.batch)
        assert ksam_jax.get_info(state).perturbed_loss.dtype == jnp.float64
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), wide)
    assert_close(wide, narrow, 1e-5, 1e-5)


@rows()
def test_many_steps_compile_once(name):
    walk(name, mlp().params, BATCHES)
    assert len(compiled(name).traces) == 1


@rows()
def test_a_donating_scan_in_which_cond_skips_a_step_equals_the_loop(name):
    row = TABLE[name]
    tx = row.make(rho=RHO)
    update = updater(tx, row.loss())

    def step(carry, flag_batch):
        flag, batch = flag_batch

        def take(params, state):
            updates, state = update(state, params, batch)
            return descend(params, updates), state

        return jax.lax.cond(flag, take, lambda *same: same, *carry), None

    @functools.partial(quick_jit, donate_argnums=(0, 1))
    def run(params, state, flags, batches):
        carry, _ = jax.lax.scan(step, (params, state), (flags, batches))
        return carry

    params = mlp().params
    state = tx.init(params)
    flags = jnp.array([True, False, True, True])
    actual = run(params, state, flags, stacked(BATCHES))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((params, state)))

    kept = [batch for batch, flag in zip(BATCHES, flags, strict=True) if flag]
    _, *expected = walk(name, mlp().params, kept)
    assert_close(actual, tuple(expected), 1e-5, 1e-5)


@rows()
def test_the_initial_state_owns_its_buffers(name):
    params = mlp().params
    state = compiled(name).tx.init(params)
    leaves = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves((params, state))
    ]
    pointers = {x.unsafe_buffer_pointer() for x in leaves}
    assert len(pointers) == len(leaves)


@rows()
def test_an_orbax_checkpoint_continues_bit_for_bit(name, tmp_path):
    method = compiled(name)
    _, params, state = walk(name, mlp().params, BATCHES[:2])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", (params, state))
        checkpointer.wait_until_finished()
        target = jax.tree.map(jnp.zeros_like, (params, state))
        restored = checkpointer.restore(tmp_path / "checkpoint", target)
    assert_same(restored, (params, state))
    expected, actual = (params, state), restored
    for batch in BATCHES[2:]:
        expected, actual = [
            (descend(p, updates), after)
            for p, s in (expected, actual)
            for updates, after in [method.update(s, p, batch)]
        ]
        assert_same(actual, expected)


def test_update_works_without_jit():
    tx, params = k_sam(rho=RHO, k=2), jnp.array([1.0, -2.0])
    slopes = jnp.array([[1.0, 1.0], [3.0, 0.0], [0.0, -4.0]])
    batch = bowl_batch(slopes, curvature=0.0)
    updates, _ = updater(tx, batched(bowl_loss))(tx.init(params), params, batch)
    assert_close(updates, jnp.array([1.5, -2.0]))


# Gradients that are zero, constant, NaN or infinite


def with_factors(batch, factors):
    return batch | {"factor": jnp.asarray(factors, jnp.float32)}


def poisoned(value, rows=(4,)):
    """The first batch with the loss of some examples turned into `value`."""
    factors = np.ones(10)
    factors[list(rows)] = value
    return with_factors(BATCHES[0], factors)


@rows()
def test_zero_gradients_give_a_zero_step_and_the_next_step_is_normal(name):
    method, params = compiled(name), mlp().params
    zero = with_factors(BATCHES[0], np.zeros(10))
    updates, state = method.update(method.tx.init(params), params, zero)
    assert is_zero(updates)
    assert float(ksam_jax.get_info(state).perturbation_norm) == 0.0
    for batch in BATCHES[1:3]:  # Momentum has a direction again one step later.
        updates, state = method.update(state, params, batch)
        assert is_finite(updates)
        assert not is_zero(updates)
    assert float(ksam_jax.get_info(state).perturbation_norm) > 0.0


@pytest.mark.parametrize("make", [ksam_jax.f_sam, k_friendly])
def test_a_constant_gradient_leaves_f_sam_at_the_plain_step(make):
    draw, tx = Draw(3), make(rho=RHO)
    params, slope = [{"a": draw((3,)), "b": draw((2, 2))} for _ in range(2)]
    slopes = jax.tree.map(lambda s: jnp.stack([s] * 5), slope)
    batch = bowl_batch(slopes, curvature=0.0)
    update = quick_jit(updater(tx, batched(bowl_loss)))
    state, norms = tx.init(params), []
    for _ in range(4):
        updates, state = update(state, params, batch)
        assert_close(updates, slope, 1e-6, 1e-6)
        params = descend(params, updates)
        norms.append(float(ksam_jax.get_info(state).perturbation_norm))
    assert norms == pytest.approx([RHO, 0, 0, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@rows(HIGHEST_LOSS)
def test_highest_loss_steps_as_if_a_corrupt_example_had_the_lowest_loss(name, value):
    method, params = compiled(name), mlp().params
    updates, state = method.update(method.tx.init(params), params, poisoned(value))
    info = ksam_jax.get_info(state)
    assert not np.isfinite(info.perturbed_loss if name in ON_NONE else info.loss)
    expected, _ = method.update(method.tx.init(params), params, poisoned(0.0))
    assert_close(updates, expected)


@rows(HIGHEST_LOSS)
def test_highest_loss_averages_over_the_finite_examples_if_too_few_are_left(name):
    method, params = compiled(name), mlp().params
    # Three of ten are asked for and two are left: as if there were only those two.
    left = poisoned(np.nan, rows=range(2, 10))
    updates, _ = method.update(method.tx.init(params), params, left)
    two = jax.tree.map(lambda leaf: leaf[:2], BATCHES[0])
    tx = TABLE[name].make(rho=RHO, k=2)
    update = quick_jit(updater(tx, batched(mlp_loss)))
    expected, _ = update(tx.init(params), params, two)
    assert_close(updates, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@rows(CHOOSES_DESCENT)
def test_methods_that_choose_the_descent_examples_survive_a_corrupt_one(name, value):
    method, params = compiled(name), mlp().params
    state = method.tx.init(params)
    for batch in (poisoned(value), poisoned(value, rows=(0, 9)), BATCHES[1]):
        updates, state = method.update(state, params, batch)
        assert is_finite(updates)
        params = descend(params, updates)


@rows()
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_apply_if_finite_around_the_base_skips_a_wholly_corrupt_batch(name, value):
    method, params = compiled(name), mlp().params
    _, _, state = walk(name, params, BATCHES[1:2])
    base_state = BASES["apply_if_finite"].init(params)
    gradient, after = method.update(state, params, poisoned(value, rows=range(10)))
    assert not is_finite(gradient)
    updates, base_after = compiled_base("apply_if_finite")(gradient, base_state, params)
    assert is_zero(updates)
    assert int(base_after.total_notfinite) == 1
    recovered, _ = method.update(after, params, BATCHES[2])
    assert is_finite(recovered)


@rows(FORGETFUL)
def test_a_corrupt_batch_leaves_no_trace_in_the_next_step(name):
    method, params = compiled(name), mlp().params
    _, _, clean = walk(name, params, BATCHES[1:3])
    _, after = method.update(clean, params, poisoned(np.nan, rows=range(10)))
    expected, _ = method.update(clean, params, BATCHES[3])
    recovered, _ = method.update(after, params, BATCHES[3])
    assert_same(recovered, expected)


@rows()
def test_debug_nans_finds_nothing_on_clean_data(name):
    row, params = TABLE[name], mlp().params
    with jax.debug_nans(True):
        tx = row.make(rho=RHO)
        update, state = quick_jit(updater(tx, row.loss())), tx.init(params)
        for batch in (*BATCHES[:2], with_factors(BATCHES[2], np.zeros(10))):
            updates, state = update(state, params, batch)
            params = descend(params, updates)
    assert is_finite(params)


# perturbed_dtype and mask


@rows()
def test_perturbed_dtype_is_the_dtype_that_the_second_pass_sees(name):
    row, problem = TABLE[name], mlp(dtype=jnp.bfloat16)

    def dtypes_seen(perturbed_dtype):
        seen = set()

        def recording(params, example):
            seen.update(str(p.dtype) for p in jax.tree.leaves(params))
            return mlp_loss(params, example)

        tx = row.make(rho=RHO, perturbed_dtype=perturbed_dtype)
        state = jax.eval_shape(tx.init, problem.params)
        update = updater(tx, row.loss(recording))
        jax.eval_shape(update, state, problem.params, problem.batch)
        return seen

    at_clean_weights = set() if name in ON_NONE else {"bfloat16"}
    assert dtypes_seen(None) == {"bfloat16"}
    assert dtypes_seen(jnp.float32) == at_clean_weights | {"float32"}


class Bowl(NamedTuple):
    """A quadratic problem whose descent gradient shows the perturbation."""

    params: Any
    slope: Any

    def batch(self, n=5):
        return bowl_batch(jax.tree.map(lambda s: jnp.stack([s] * n), self.slope))

    def epsilon(self, updates):
        """The perturbation behind a descent gradient."""
        return jax.tree.map(lambda u, w, s: u - (w + s), updates, self.params, self.slope)


def bowl(seed=0):
    draw = Draw(seed)
    shapes = {"a": (3,), "b": (2, 3), "c": ()}
    return Bowl(*[{n: draw(s) for n, s in shapes.items()} for _ in range(2)])


@rows(UNCOMBINED)
def test_mask_perturbs_its_parameters_as_if_there_were_no_others(name):
    row, problem = TABLE[name], bowl()
    part = Bowl(*[{n: tree[n] for n in ("a", "c")} for tree in problem])
    masked = row.make(rho=RHO, mask={"a": True, "b": False, "c": True})
    unmasked = row.make(rho=RHO)

    def epsilon(tx, problem):
        update, state = updater(tx, row.loss(bowl_loss)), tx.init(problem.params)
        updates, state = update(state, problem.params, problem.batch())
        return problem.epsilon(updates), ksam_jax.get_info(state).perturbation_norm

    (found, norm), (expected, expected_norm) = quick_jit(
        lambda: (epsilon(masked, problem), epsilon(unmasked, part))
    )()
    np.testing.assert_allclose(found["b"], 0.0, atol=5e-7)
    np.testing.assert_allclose(norm, optax.tree.norm(found), 1e-5, 1e-6)
    if name in DETERMINISTIC:
        assert_close({n: found[n] for n in ("a", "c")}, expected, 1e-5, 1e-6)
        np.testing.assert_allclose(norm, expected_norm, 1e-5)
    else:  # Its draws may depend on how many parameters there are.
        assert 0 < float(norm) <= 1.01 * RHO / 0.6


@rows(["sam", "k_sam_shared", "esam", "f_sam", "momentum_sam", "custom"])
def test_mask_may_be_a_function_of_params_or_a_prefix(name):
    row, problem = TABLE[name], mlp()
    full = {"hidden": {"w": True, "b": True}, "out": {"w": False}}

    def jaxpr(mask):
        tx = row.make(rho=RHO, mask=mask)
        state = tx.init(problem.params)
        update = updater(tx, row.loss())
        return str(jax.make_jaxpr(update)(state, problem.params, problem.batch))

    by_function = jaxpr(
        lambda params: jax.tree.map_with_path(
            lambda path, _: path[0].key == "hidden", params
        )
    )
    assert jaxpr(full) == by_function == jaxpr({"hidden": True, "out": False})


# Auxiliary outputs, and a gradient that the caller already has


@functools.cache
def compiled_with_aux(name):
    """A row's compiled update with aux: `(updates, aux, state)`."""
    tx, traces = TABLE[name].make(rho=RHO), []
    update = updater(tx, TABLE[name].loss(mlp_loss_with_aux), has_aux=True)

    @quick_jit
    def counted(state, params, batch, updates=None):
        traces.append(name)
        updates, state = update(state, params, batch, updates)
        aux, state = ksam_jax.take_aux(state)
        return updates, aux, state

    return Compiled(tx, counted, traces)


@quick_jit
def clean_aux(params, batch):
    return batched(mlp_loss_with_aux)(params, batch)[1]


@rows()
def test_aux_is_that_of_the_clean_pass_and_changes_nothing_else(name):
    method, params = compiled_with_aux(name), mlp().params
    state = method.tx.init(params)
    gradients, _, without_aux = walk(name, params, BATCHES[:2])
    traces = len(method.traces)
    for batch, expected in zip(BATCHES, gradients, strict=False):
        updates, aux, state = method.update(state, params, batch)
        assert_close(updates, expected)
        assert_close(aux, clean_aux(params, batch))
        params = descend(params, expected)
    assert len(method.traces) == traces + 1
    assert abstract(state) == abstract(without_aux)
    assert_close(state[:3], without_aux[:3], 1e-5, 1e-5)


def test_aux_is_found_and_taken_inside_a_chain_and_a_scan():
    row, problem = TABLE["k_sam"], mlp()
    tx = optax.chain(row.make(rho=RHO), optax.clip_by_global_norm(1.0), optax.sgd(0.3))
    update = updater(tx, row.loss(mlp_loss_with_aux), has_aux=True)

    def step(carry, batch):
        params, state = carry
        updates, state = update(state, params, batch)
        aux, state = ksam_jax.take_aux(state)
        return (optax.apply_updates(params, updates), state), aux

    start = (problem.params, tx.init(problem.params))
    run = quick_jit(functools.partial(jax.lax.scan, step))
    (_, state), aux = run(start, stacked(BATCHES[:2]))
    assert abstract(state) == abstract(start[1])
    first = jax.tree.map(lambda a: a[0], aux)
    assert_close(first, clean_aux(problem.params, BATCHES[0]))


def test_aux_left_in_the_state_costs_one_retrace_and_no_wrong_step():
    problem, traces = mlp(), []
    tx = ksam_jax.sam(rho=RHO)
    update = updater(tx, batched(mlp_loss_with_aux), has_aux=True)

    @quick_jit
    def counted(state, params, batch):
        traces.append(1)
        return update(state, params, batch)

    state, steps = tx.init(problem.params), []
    for batch in BATCHES[:3]:
        updates, state = counted(state, problem.params, batch)
        steps.append(updates)
    assert len(traces) == 2
    (expected,), _, _ = walk("sam", problem.params, BATCHES[2:3])
    assert_close(steps[-1], expected)


@rows(ON_ALL)
def test_the_mean_gradient_as_updates_gives_the_same_step_with_and_without_aux(name):
    row, params = TABLE[name], mlp().params
    tx, with_aux = row.make(rho=RHO), compiled_with_aux(name)
    update = quick_jit(updater(tx, row.loss()))
    gradient_of = quick_jit(jax.grad(mean_loss(batched(mlp_loss))))
    gradients, _, _ = walk(name, params, BATCHES[:2])
    state, state_with_aux = tx.init(params), tx.init(params)
    for batch, expected in zip(BATCHES, gradients, strict=False):
        gradient = gradient_of(params, batch)
        updates, state = update(state, params, batch, gradient)
        assert_close(updates, expected)
        updates, aux, state_with_aux = with_aux.update(
            state_with_aux, params, batch, gradient
        )
        assert_close(updates, expected)
        assert_close(aux, clean_aux(params, batch))
        params = descend(params, expected)
    assert abstract(state) == abstract(state_with_aux) == abstract(tx.init(params))


@rows(NOT_ON_ALL)
def test_methods_that_do_not_climb_on_everything_refuse_a_gradient(name):
    row, problem = TABLE[name], mlp()
    tx = row.make(rho=RHO)
    state, update = tx.init(problem.params), updater(tx, row.loss())
    with pytest.raises(ValueError, match="pass None"):
        update(state, problem.params, problem.batch, updates=problem.params)


# Containers of parameters and of batches


class Pair(NamedTuple):
    first: Any
    second: Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["weight", "rest"],
    meta_fields=["title"],
)
@dataclasses.dataclass(frozen=True)
class Layer:
    """A user's own parameter container, with a field that isn't an array."""

    weight: Any
    rest: Any
    title: str = "layer"


CONTAINERS = {
    "tuple": lambda a, b, c: (a, b, c),
    "list": lambda a, b, c: [a, b, c],
    "namedtuple": lambda a, b, c: Pair(a, (b, c)),
    "nested": lambda a, b, c: {"x": {"y": [a]}, "z": (b, {"w": c})},
    "dataclass": lambda a, b, c: Layer(a, {"b": b, "c": c}),
    "with_empty_parts": lambda a, b, c: {"a": (a, None, ()), "b": {}, "c": [b, c]},
}
SOME = ["asam", "k_sam_shared", "esam_tensor_shared", "f_sam", "momentum_sam"]


@functools.cache
def dict_gradients():
    return container_gradients(lambda a, b, c: {"a": a, "b": b, "c": c})


def container_gradients(container):
    """Steps of a few methods on a bowl whose params sit in `container`."""
    params, slope = [container(*[tree[n] for n in "abc"]) for tree in bowl()]

    def gradient(name, params, batch):
        tx = TABLE[name].make(rho=RHO)
        update = updater(tx, TABLE[name].loss(bowl_loss))
        return update(tx.init(params), params, batch)[0]

    updates = quick_jit(
        lambda params, batch: [gradient(name, params, batch) for name in SOME]
    )(params, Bowl(params, slope).batch())
    assert jax.tree.structure(updates) == jax.tree.structure([params] * len(SOME))
    return [jax.tree.leaves(u) for u in updates]


@pytest.mark.parametrize("container", CONTAINERS)
def test_params_may_sit_in_any_container_and_have_no_axes(container):
    assert_close(container_gradients(CONTAINERS[container]), dict_gradients())


@rows(["sam", "random_sam", "k_sam", "k_sam_shared", "esam"])
def test_numpy_batches_give_the_same_step(name):
    row, problem = TABLE[name], mlp()
    tx = row.make(rho=RHO)
    update = updater(tx, row.loss())
    batch = {leaf: problem.batch[leaf] for leaf in ("x", "y", "factor")}
    numpy_batch = {
        "x": np.asarray(batch["x"]),
        "y": np.asarray(batch["y"], np.int64),
        "factor": np.ones(10, np.float16),
    }
    # The arrays are constants of the compiled step, so the library sees NumPy's own.
    first, second = quick_jit(
        lambda params: [update(tx.init(params), params, b)[0] for b in (numpy_batch, batch)]
    )(problem.params)
    assert_close(first, second)


@rows(["sam", "k_sam_shared", "esam_tensor_shared"])
def test_typed_dropout_keys_in_the_batch_drop_the_same_units_in_both_passes(name):
    row, problem = TABLE[name], mlp()
    tx = row.make(rho=0.0)
    update = quick_jit(updater(tx, row.loss(mlp_dropout_loss)))
    state = tx.init(problem.params)
    _, state = update(state, problem.params, problem.batch)
    info = ksam_jax.get_info(state)
    assert abs(float(info.sharpness)) < 1e-6
    # With keys that the step has remade, if they are of a kind that draws together.
    losses = batched(mlp_dropout_loss)(problem.params, drawn_alone(problem.batch))
    np.testing.assert_allclose(info.loss, jnp.mean(losses), 1e-6)
