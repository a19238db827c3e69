"""Loss scaling: exact where nothing overflows, and a step undone where something does."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import (
    QUICK,
    abstract,
    accepted,
    assert_close,
    assert_same,
    batched,
    descend,
    initial,
    is_finite,
    is_same,
    is_zero,
    mlp,
    mlp_loss,
    mlp_loss_with_aux,
    on_one_worker,
    quick_jit,
    stacked,
    updater,
)
from test_contract import BATCHES, ON_NONE, RHO, TABLE, rows

import ksam_jax

POWERS = (2.0**15, 2.0**24, 2.0**-6)
# XLA on a CPU computes float16 in float32, and may leave out what rounds.
STRICT = accepted({**QUICK, "xla_allow_excess_precision": False})


def complex_loss(params, example):
    """Of complex weights: |w0 + w1 . x|^2 and its phase."""
    value = params["w"] @ example["x"].astype(jnp.complex64) + params["b"]
    return jnp.abs(value) ** 2 + jnp.real(value) * example["factor"]


SGD = optax.sgd(0.2, momentum=0.9)


@functools.cache
def stepped(name):
    """A row's chain, wrapped; its compiled update, and the traces of it."""
    # "matmuls" refuses a loss that closes over the very params, as the trap does.
    row = TABLE[name]._replace(keep=TABLE[name].keep and "all")
    chain = optax.chain(row.make(rho=RHO), SGD)
    tx: Any = ksam_jax.dynamic_loss_scale(chain, initial=2.0**10)
    traces = []

    @quick_jit
    def step(state, params, batch):
        traces.append(name)
        loss_fn = row.loss(spoilt(mlp_loss, params))
        return tx.update(None, state, params, loss_fn=loss_fn, batch=batch)

    return tx, step, traces


@rows()
def test_a_power_of_two_changes_no_bit_of_any_method(name):
    tx, step, _ = stepped(name)
    params, bent = mlp().params, []
    state = initial(tx, params)
    for batch in map(with_traps, BATCHES[:2]):
        at_one = state._replace(scale=jnp.float32(1.0))
        expected, first = step(at_one, params, batch)
        for scale in POWERS:
            at_scale = state._replace(scale=jnp.float32(scale))
            updates, after = step(at_scale, params, batch)
            assert_same(updates, expected)
            assert_same(after.inner, first.inner)
            assert bool(after.finite)
        odd = state._replace(scale=jnp.float32(1537.3))
        updates, _ = step(odd, params, batch)
        assert_close(updates, expected, rtol=1e-4, atol=1e-5)
        bent.append(is_same(updates, expected))
        params, state = descend(params, expected), state._replace(inner=first.inner)
    # Another number rounds: the scale did take part.
    assert not all(bent)


def check_exact(tx: Any, loss_fn, params):
    """No bit differs between scales that are powers of two, and nothing from no scale."""

    @quick_jit
    def step(batch, scale=None):
        extra = {"loss_fn": loss_fn, "batch": batch, "loss_scale": scale}
        found = tx.update(None, tx.init(params), params, **extra)
        return jax.tree.map(lambda x: jnp.stack([jnp.real(x), jnp.imag(x)]), found)

    # Without a scale it is another program, in which XLA may round elsewhere.
    plain, first = step(BATCHES[0]), step(BATCHES[0], jnp.float32(1.0))
    assert_close(first, plain)
    assert abstract(first) == abstract(plain)
    for scale in POWERS:
        assert_same(step(BATCHES[0], jnp.float32(scale)), first)
    assert not is_same(step(BATCHES[0], jnp.float32(1537.3))[0], first[0])


OTHER_WAYS = {
    "sam in parts": (ksam_jax.sam, {"num_microbatches": 5}),
    "k_sam in parts": (ksam_jax.k_sam, {"k": 4, "num_microbatches": 2}),
    "groups apart": (ksam_jax.k_sam, {"k": 2, "groups": 2, "sync_ascent": False}),
    "a shared forward pass": (ksam_jax.k_sam, {"k": 3}),
    "mask": (ksam_jax.sam, {"mask": {"hidden": False, "out": True}}),
}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_a_power_of_two_changes_no_bit_on_any_way_to_a_gradient(way):
    method, options = OTHER_WAYS[way]
    loss_fn = batched(mlp_loss)
    if way == "a shared forward pass":
        loss_fn = ksam_jax.per_example(mlp_loss, keep="all")
    check_exact(method(RHO, **options), loss_fn, mlp().params)


def test_a_power_of_two_changes_no_bit_of_complex_weights():
    w = jnp.array([0.5 - 1j, 0.25 + 0.5j, -1.0 + 0.125j], jnp.complex64)
    params = {"w": w, "b": jnp.array(0.5 + 0.25j, jnp.complex64)}
    check_exact(ksam_jax.f_sam(RHO), batched(complex_loss), params)


def test_a_gradient_handed_in_is_that_of_the_unscaled_loss():
    problem = mlp()
    tx: Any = ksam_jax.sam(RHO)
    loss_fn = batched(mlp_loss)
    given = jax.grad(lambda p: jnp.mean(loss_fn(p, problem.batch)))(problem.params)
    step = quick_jit(
        lambda given, **scale: tx.update(
            given,
            tx.init(problem.params),
            problem.params,
            loss_fn=loss_fn,
            batch=problem.batch,
            **scale,
        )
    )
    assert_same(step(given, loss_scale=jnp.float32(256.0)), step(given))


@pytest.mark.parametrize("scale", [2.0**-10, 0.3, 1, 777.7, 2.0**24])
def test_the_radius_does_not_see_the_scale(scale):
    _, state = eager(scale)
    norm = float(ksam_jax.get_info(state).perturbation_norm)
    assert norm == pytest.approx(RHO, rel=1e-5)


@functools.cache
def k_sam_step():
    problem = mlp()
    tx: Any = ksam_jax.k_sam(RHO, k=3)
    update = functools.partial(tx.update, loss_fn=batched(mlp_loss), batch=problem.batch)
    return quick_jit(
        lambda scale: update(
            None, tx.init(problem.params), problem.params, loss_scale=scale
        )
    )


def eager(scale):
    return k_sam_step()(jnp.float32(scale))


# ------------------------------------------------------------------ real float16

FEATURES, WIDTH, N = 6, 5, 8
TINY = 1e-7


def half_loss(params, batch):
    """A network in float16 whose loss is tiny, and so is what comes back through it."""
    x, low = batch["x"].astype(jnp.float16), to_half(params)
    logits = jnp.tanh(x @ low["w"]) @ low["v"]
    return TINY * jax.nn.softplus(batch["sign"] * logits.astype(jnp.float32))


def to_half(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float16), tree)


def half_problem():
    rng = np.random.default_rng(3)
    params = {"w": rng.normal(0.1, 0.5, (FEATURES, WIDTH)), "v": rng.normal(0, 1, WIDTH)}
    batch = {"x": rng.normal(0.3, 1, (N, FEATURES)), "sign": rng.choice([-1.0, 1.0], N)}
    return jax.tree.map(np.float32, (params, batch))


def by_hand(params, batch):
    """Its gradient, of the mean loss, in float64."""
    p, b = jax.tree.map(np.float64, (params, batch))
    hidden = np.tanh(b["x"] @ p["w"])
    logits = hidden @ p["v"]
    back = TINY / N * b["sign"] / (1 + np.exp(-b["sign"] * logits))
    inner = np.outer(back, p["v"]) * (1 - hidden**2)
    return {"w": b["x"].T @ inner, "v": hidden.T @ back}


def recorder():
    """A perturbation that keeps the gradient that it was given, for us to look at."""

    def update_fn(updates, state, params=None):
        del state, params
        return updates, updates

    return optax.GradientTransformation(lambda params: params, update_fn)


def cosine(a, b):
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_in_float16_both_gradients_vanish_without_a_scale_and_not_with_it():
    params, batch = half_problem()
    climb = optax.chain(recorder(), ksam_jax.scale_to_radius(RHO))
    tx: Any = ksam_jax.sharpness_aware(climb)

    def step(scale):
        return tx.update(
            None,
            tx.init(params),
            params,
            loss_fn=half_loss,
            batch=batch,
            loss_scale=scale,
        )

    lost, state = jax.jit(lambda: step(None), compiler_options=STRICT)()
    assert is_zero(lost)
    assert is_zero(state.perturbation[0])
    assert float(state.info.perturbation_norm) == 0

    found, state = jax.jit(step, compiler_options=STRICT)(jnp.float32(2.0**15))
    ascent = by_hand(params, batch)
    assert cosine(state.perturbation[0], ascent) > 0.999
    length = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(ascent)))
    assert float(state.info.ascent_norm) == pytest.approx(length, rel=0.01)
    assert float(state.info.perturbation_norm) == pytest.approx(RHO, rel=1e-5)
    moved = jax.tree.map(lambda p, g: p + RHO * g / length, params, ascent)
    descent = by_hand(moved, batch)
    assert cosine(found, descent) > 0.999
    # The two differ by more than what float16 rounds.
    assert cosine(found, ascent) < cosine(found, descent) - 1e-4


@pytest.mark.parametrize("parts", [1, 2])
def test_losses_in_float16_take_a_scale_that_is_no_number_in_float16(parts):
    n = 2**10
    tx: Any = ksam_jax.sam(RHO, num_microbatches=parts)
    w = jnp.ones(1)

    @functools.partial(jax.jit, compiler_options=STRICT)
    def step(batch):
        return tx.update(
            None,
            tx.init(w),
            w,
            loss_fn=lambda w, b: 0.25 * (b * w).astype(jnp.float16),
            batch=batch,
            loss_scale=jnp.float32(2.0**24),
        )

    found, state = step(jnp.full(n, 0.5))
    assert found.tolist() == [0.125]
    assert bool(state.both_finite)


# ------------------------------------------------- the whole algorithm, by hand

LIMIT, RATE, MOMENTUM, STEPS = 65504.0, 0.02, 0.9, 80


@jax.custom_vjp
def gate(x):
    """The identity, back through which a number above float16's largest overflows."""
    return x


gate.defvjp(
    lambda x: (x, None),
    lambda _, g: (jnp.where(jnp.abs(g) > LIMIT, jnp.inf * jnp.sign(g), g),),
)


def gated_loss(w, batch):
    return jnp.square(gate(batch["x"] @ w) - batch["y"]) / 2


def regression():
    rng = np.random.default_rng(5)
    x = rng.normal(0.2, 1.0, (STEPS, N, 3))
    return {"x": x, "y": x @ np.array([30.0, -20.0, 10.0]) + rng.normal(0, 30, (STEPS, N))}


def train_by_hand(rho):
    """SAM and momentum with a dynamic scale, as one would write it down in NumPy."""
    w, trace, scale, good = np.zeros(3), np.zeros(3), 2.0**13, 0
    scales, kinds = [], []

    def gradient(w, x, y) -> Any:
        back = scale / N * (x @ w - y)
        back = np.where(np.abs(back) > LIMIT, np.inf, back)
        return None if np.isinf(back).any() else x.T @ back / scale

    for x, y in zip(*regression().values(), strict=True):
        clean = x.T @ (x @ w - y) / N
        ascent = gradient(w, x, y)
        descent = gradient(w + rho * clean / np.linalg.norm(clean), x, y)
        kinds.append((ascent is not None, descent is not None))
        if all(kinds[-1]):
            trace = descent + MOMENTUM * trace
            w = w - RATE * trace
            good += 1
            if good == 4:
                scale, good = min(2 * scale, 2.0**14), 0
        else:
            scale, good = max(scale / 2, 2.0**12), 0
        scales.append(scale)
    return w, trace, scales, kinds


def test_training_is_that_of_a_reference_written_in_numpy():
    rho = 3.0
    w, trace, scales, kinds = train_by_hand(rho)
    # The climb alone, the descent alone, and both; and the scale meets both its bounds.
    assert set(kinds) == {(True, True), (False, True), (True, False), (False, False)}
    assert set(scales) == {2.0**12, 2.0**13, 2.0**14}
    tx: Any = ksam_jax.dynamic_loss_scale(
        optax.chain(ksam_jax.sam(rho), optax.sgd(RATE, momentum=MOMENTUM)),
        initial=2.0**13,
        growth_interval=4,
        minimum=2.0**12,
        maximum=2.0**14,
    )

    def step(carry, batch):
        w, state = carry
        updates, state = tx.update(None, state, w, loss_fn=gated_loss, batch=batch)
        return (optax.apply_updates(w, updates), state), (state.scale, state.finite)

    with jax.enable_x64(True):
        start = jnp.zeros(3)
        run = quick_jit(lambda w, rows: jax.lax.scan(step, (w, tx.init(w)), rows))
        (found, state), (told, finite) = run(start, regression())
        np.testing.assert_array_equal(told, scales)
        np.testing.assert_array_equal(finite, [all(kind) for kind in kinds])
        np.testing.assert_allclose(found, w, rtol=1e-11)
        np.testing.assert_allclose(jax.tree.leaves(state.inner[1])[0], trace, rtol=1e-9)
        assert int(state.skipped) == sum(not all(kind) for kind in kinds)


# --------------------------------------------------- either gradient, any method


def spoilt(example_loss, start):
    """The loss, whose gradient is NaN at or away from `start` if the example says so.

    The loss itself stays finite, as when only the backward pass overflows.
    """

    def loss(params, example):
        found = example_loss(params, example)
        same = jax.tree.map(lambda p, s: jnp.all(p == s), params, start)
        at_start = jnp.all(jnp.stack(jax.tree.leaves(same)))
        is_bad = jnp.where(at_start, example["bad_here"], example["bad_there"])
        # The root of zero has an infinite slope, and infinity times zero is NaN.
        total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))
        trap = jnp.sqrt((1 - is_bad.astype(jnp.float32)) * (1 + 0 * total)) - 1
        value, aux = found if isinstance(found, tuple) else (found, None)
        value = value + jnp.where(is_bad, trap + 1, trap)
        return value if aux is None else (value, aux)

    return loss


def with_traps(batch, here=False, there=False):
    n = len(batch["factor"])
    return batch | {"bad_here": jnp.full(n, here), "bad_there": jnp.full(n, there)}


@rows()
def test_either_gradient_alone_undoes_the_step_of_any_method(name):
    tx, step, traces = stepped(name)
    params = mlp().params
    # A step first, since momentum has no perturbation before.
    updates, state = step(initial(tx, params), params, with_traps(BATCHES[0]))
    assert not is_zero(updates)
    params = optax.apply_updates(params, updates)
    expected, after = step(state, params, with_traps(BATCHES[1]))
    for here, there in [(True, False), (False, True), (True, True)]:
        batch = with_traps(BATCHES[1], here, there)
        updates, left = step(state, params, batch)
        if name in ON_NONE and not there:
            assert bool(left.finite)
            assert_same(updates, expected)
            continue
        assert is_zero(updates)
        assert_same(left.inner, state.inner)
        assert (float(left.scale), bool(left.finite)) == (2.0**9, False)
        assert (int(left.skipped), int(left.good_steps)) == (1, 0)
        # The next good step is the one that this would have been.
        updates, again = step(left, params, with_traps(BATCHES[1]))
        assert_same(updates, expected)
        assert_same(again.inner, after.inner)
        assert (int(again.skipped), int(again.good_steps)) == (1, 1)
    assert traces == [name]


def test_a_descent_gradient_that_the_base_optimizer_hides_undoes_the_step_too():
    params = mlp().params
    hidden = optax.apply_if_finite(SGD, 3)
    tx: Any = ksam_jax.dynamic_loss_scale(optax.chain(ksam_jax.sam(RHO), hidden))
    state = initial(tx, params)
    step = quick_jit(updater(tx, batched(spoilt(mlp_loss, params))))
    _, made = step(state, params, with_traps(BATCHES[0]))
    assert bool(made.finite)
    updates, left = step(state, params, with_traps(BATCHES[0], there=True))
    assert is_zero(updates)
    assert not bool(left.finite)
    assert_same(left.inner, state.inner)


def test_a_climb_that_overflows_on_examples_that_the_descent_leaves_out():
    """ESAM without a climb descends on the first half: the last example isn't in it."""
    params = mlp().params
    method: Any = ksam_jax.esam(RHO)
    tx: Any = ksam_jax.dynamic_loss_scale(method)
    loss_fn = batched(spoilt(mlp_loss, params))
    batch = with_traps(BATCHES[0])
    batch = batch | {"bad_here": batch["bad_here"].at[-1].set(True)}
    # Without the wrapper it passes for a plain step.
    plain, _ = quick_jit(updater(method, loss_fn))(method.init(params), params, batch)
    assert is_finite(plain)
    state = initial(tx, params)
    updates, left = quick_jit(updater(tx, loss_fn))(state, params, batch)
    assert is_zero(updates)
    assert not bool(left.finite)
    assert_same(left.inner, state.inner)


def test_an_ascent_gradient_handed_in_that_overflowed_undoes_the_step():
    problem, tx = mlp(), ksam_jax.dynamic_loss_scale(ksam_jax.sam(RHO))
    step = quick_jit(updater(tx, batched(mlp_loss)))
    given = jax.tree.map(lambda p: jnp.full_like(p, jnp.inf), problem.params)
    state = tx.init(problem.params)
    updates, state = step(state, problem.params, problem.batch, given)
    assert is_zero(updates)
    assert not bool(state.finite)


def test_aux_of_a_skipped_step_can_be_taken_and_leaves_the_state_at_rest():
    params = mlp().params
    tx = ksam_jax.dynamic_loss_scale(optax.chain(ksam_jax.sam(RHO), SGD))
    loss_fn = batched(spoilt(mlp_loss_with_aux, params))
    step = quick_jit(updater(tx, loss_fn, has_aux=True))
    start = tx.init(params)
    seen = {}
    for bad in (False, True):
        _, state = step(start, params, with_traps(BATCHES[0], there=bad))
        seen[bad], state = ksam_jax.take_aux(state)
        assert bool(state.finite) != bad
        assert abstract(state) == abstract(start)
    assert seen[True]["logit"].shape == (10,)
    assert_same(seen[True], seen[False])
    # Forgotten aux doesn't stay in place of what is new.
    _, first = step(start, params, with_traps(BATCHES[0]))
    _, second = step(first, params, with_traps(BATCHES[1], there=True))
    _, expected = step(start, params, with_traps(BATCHES[1], there=True))
    assert_same(ksam_jax.take_aux(second)[0], ksam_jax.take_aux(expected)[0])


def test_info_is_that_of_the_last_step_that_was_made():
    params = mlp().params
    tx: Any = ksam_jax.dynamic_loss_scale(ksam_jax.sam(RHO))
    step = quick_jit(updater(tx, batched(spoilt(mlp_loss, params))))
    _, made = step(tx.init(params), params, with_traps(BATCHES[0]))
    _, state = step(made, params, with_traps(BATCHES[1], here=True))
    assert_same(ksam_jax.get_info(state), ksam_jax.get_info(made))
    assert float(ksam_jax.get_info(state).perturbation_norm) == pytest.approx(RHO, 1e-5)


# ------------------------------------------------------------- what JAX does to it


def test_the_scale_halves_to_its_minimum_and_stays():
    params = mlp().params
    tx: Any = ksam_jax.dynamic_loss_scale(ksam_jax.sam(RHO), initial=8.0, minimum=3.0)
    step = quick_jit(updater(tx, batched(spoilt(mlp_loss, params))))
    state, scales = tx.init(params), []
    for _ in range(3):
        _, state = step(state, params, with_traps(BATCHES[0], here=True))
        scales.append(float(state.scale))
    assert scales == [4.0, 3.0, 3.0]
    assert int(state.skipped) == 3


def test_donation_checkpoint_and_injection(tmp_path):
    """One compiled program with all three: a state out of a file, given away."""
    params = mlp().params

    def make(rho, initial):
        chain = optax.chain(ksam_jax.k_sam(rho, k=3), SGD)
        return ksam_jax.dynamic_loss_scale(chain, initial, growth_interval=1)

    tx = optax.inject_hyperparams(make)(rho=RHO, initial=16.0)
    update = updater(tx, batched(mlp_loss))
    plain = make(RHO, 16.0)
    step = quick_jit(update, donate_argnums=0)
    state = initial(tx, params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.tree.map(jnp.array, state))
    updates, after = step(restored, params, BATCHES[0])
    # What the last step told isn't read, and so not taken.
    given = restored.inner_state._replace(finite=None)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    expected, _ = quick_jit(updater(plain, batched(mlp_loss)))(
        plain.init(params), params, BATCHES[0]
    )
    assert_close(updates, expected)
    assert float(after.inner_state.scale) == 32.0
    assert float(ksam_jax.get_info(after).perturbation_norm) == pytest.approx(RHO, 1e-5)


# ---------------------------------------------------------------------- 8 devices


def eight(kind=AxisType.Auto):
    return jax.make_mesh((8,), ("data",), axis_types=(kind,))


def part(batch, way):
    """16 examples, the batch of one device in which one example is bad, or none."""
    wide = stacked([batch] * 8)
    return jax.tree.map(lambda x: x[:, :2].reshape(16, *x.shape[2:]), wide)


WAYS = {
    "together": {"axis_name": "data"},
    "apart": {"axis_name": "data", "sync_ascent": False},
    "groups apart, Auto": {"groups": 8, "sync_ascent": False},
    "groups apart, Explicit": {"groups": 8, "sync_ascent": False},
    "groups, Explicit": {"groups": 8},
}


@pytest.mark.parametrize(
    "way",
    [on_one_worker(way, slow=way in ("apart", "groups apart, Explicit")) for way in WAYS],
)
def test_one_device_that_overflows_makes_all_skip(way):
    params, options = mlp().params, WAYS[way]
    chain: Any = optax.chain(ksam_jax.sam(RHO, **options), SGD)
    tx: Any = ksam_jax.dynamic_loss_scale(chain, initial=64.0)

    def step(params, batch, state):
        loss_fn = batched(spoilt(mlp_loss, params))
        updates, after = tx.update(None, state, params, loss_fn=loss_fn, batch=batch)
        plain, _ = chain.update(None, state.inner, params, loss_fn=loss_fn, batch=batch)
        return updates, after, plain

    here = eight(AxisType.Explicit if "Explicit" in way else AxisType.Auto)
    if "axis_name" in options:
        # With check_vma, that all agree is also what the types say.
        step = jax.shard_map(step, mesh=here, in_specs=(P(), P("data"), P()), out_specs=P())
    if way == "groups, Explicit":  # JAX 0.10.0 differentiates there what is on the mesh.
        params = jax.device_put(params, NamedSharding(here, P()))
    step, state = quick_jit(step), initial(tx, params)
    rows = with_traps(part(BATCHES[0], way))
    with jax.set_mesh(here):

        def run(batch):
            where = NamedSharding(here, P("data"))
            return jax.device_get(step(params, jax.device_put(batch, where), state))

        updates, after, plain = run(rows)
        assert bool(after.finite)
        assert_close(updates, plain)
        for trap in ("bad_here", "bad_there"):
            # One example, of the sixth device.
            updates, after, _ = run(rows | {trap: rows[trap].at[11].set(True)})
            assert is_zero(updates)
            assert_same(after.inner, jax.device_get(state.inner))
            assert (float(after.scale), bool(after.finite)) == (32.0, False)


# ------------------------------------------------------------------------- errors


def scaled(**options: Any) -> Any:
    return ksam_jax.dynamic_loss_scale(ksam_jax.sam(), **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"initial": 0.0}, r"dynamic_loss_scale\(initial=0.0\).*finite number > 0"),
        ({"initial": np.inf}, r"\(initial=inf\).*finite number > 0"),
        ({"initial": "big"}, r"\(initial='big'\).*pass a real number"),
        ({"growth_interval": 0}, r"\(growth_interval=0\).*integer >= 1"),
        ({"growth_interval": 2.5}, r"\(growth_interval=2.5\).*integer >= 1"),
        ({"factor": 1.0}, r"\(factor=1.0\).*> 1; got 1.0"),
        ({"minimum": -1.0}, r"\(minimum=-1.0\).*finite number > 0"),
        ({"minimum": 4.0, "initial": 2.0}, r"\(minimum=4.0, initial=2.0\).*at most"),
        ({"maximum": 4.0}, r"\(initial=32768.0, maximum=4.0\).*at most maximum"),
    ],
)
def test_a_bad_number_is_refused(options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        scaled(**options)


def test_what_computes_no_gradient_is_refused():
    w, batch = jnp.ones(2), jnp.ones((3, 2))
    loss_fn = operator.matmul
    tx = ksam_jax.dynamic_loss_scale(optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"update\(loss_fn=None\).*write\n.*loss_fn=loss"):
        tx.update(w, tx.init(w), w)
    with pytest.raises(ValueError, match=r"update\(updates=<gradient>\).*unscaled"):
        tx.update(w, tx.init(w), w, loss_fn=loss_fn, batch=batch)
    unchecked = getattr(ksam_jax.dynamic_loss_scale, "__wrapped__", None)
    assert unchecked is not None
    with pytest.raises(TypeError, match=r"inner=0\.1\).*computes gradients"):
        unchecked(0.1)


@pytest.mark.parametrize("scale", [0, -2.0, np.nan, True, "1", np.ones(2)])
def test_a_bad_loss_scale_is_refused(scale):
    w = jnp.ones(2)
    tx: Any = ksam_jax.sam()
    with pytest.raises((TypeError, ValueError), match=r"tx.update\(loss_scale=.*> 0"):
        tx.update(
            None,
            tx.init(w),
            w,
            loss_fn=lambda w, b: b @ w,
            batch=jnp.ones((3, 2)),
            loss_scale=scale,
        )
