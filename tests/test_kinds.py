"""Valid uses that once trained something else in silence, by kind, and the right value."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from problems import batched, dropout, slow_but

import ksam_jax

METHODS = {
    "sam": lambda **c: ksam_jax.sam(0.3, **c),
    "asam": lambda **c: ksam_jax.asam(0.3, **c),
    "random_sam": lambda **c: ksam_jax.random_sam(0.3, **c),
    "k_sam": lambda **c: ksam_jax.k_sam(0.3, k=0.5, **c),
    "k_sam by coverage": lambda **c: ksam_jax.k_sam(0.3, **c),
    "f_sam": lambda **c: ksam_jax.f_sam(0.3, **c),
    "vasso": lambda **c: ksam_jax.vasso(0.3, **c),
    "gsam": lambda **c: ksam_jax.gsam(0.3, **c),
    "look_sam": lambda **c: ksam_jax.look_sam(0.3, **c),
    "le_sam": lambda **c: ksam_jax.le_sam(0.3, **c),
    "momentum_sam": lambda **c: ksam_jax.momentum_sam(0.3, **c),
    "adaptive_momentum_sam": lambda **c: ksam_jax.adaptive_momentum_sam(0.3, **c),
    "k_momentum_sam": lambda **c: ksam_jax.k_momentum_sam(0.3, k=0.5, **c),
    "mean_gradient": lambda **c: ksam_jax.mean_gradient(**c),
}

STEPS, N, IN, HIDDEN, OUT = 20, 32, 8, 16, 3


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "up": jnp.asarray(rng.normal(size=(IN, HIDDEN))),
        "b": jnp.asarray(rng.normal(size=(HIDDEN,))),
        "down": jnp.asarray(rng.normal(size=(HIDDEN, OUT))),
    }


def examples(seed=1):
    rng = np.random.default_rng(seed)
    labels = jnp.asarray(rng.integers(0, OUT, N), jnp.int32)
    return {"x": jnp.asarray(rng.normal(size=(N, IN)) - 0.3), "y": labels}


def plain_loss(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["up"] + params["b"])
    logits = hidden @ params["down"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


def gathered_loss(params, batch):
    """Weights in parts on the devices, whole for the loss: FSDP by hand."""
    whole = {name: params[name] for name in ("b",)} | {
        name: jax.lax.all_gather(params[name], "data", tiled=True)
        for name in ("up", "down")
    }
    return plain_loss(whole, batch)


def split_loss(params, batch):
    """Each device has some of the hidden units: tensor parallelism."""
    hidden = jnp.tanh(batch["x"] @ params["up"] + params["b"])
    logits = jax.lax.psum(hidden @ params["down"], "model")
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


SPREAD = {
    "fsdp": (
        {"data": 8},
        gathered_loss,
        {"up": P("data"), "b": P(), "down": P("data")},
        {"axis_name": "data"},
        8,
    ),
    "tensor parallel": (
        {"model": 8},
        split_loss,
        {"up": P(None, "model"), "b": P("model"), "down": P("model")},
        {},
        1,
    ),
    "both": (
        {"data": 2, "model": 4},
        split_loss,
        {"up": P(None, "model"), "b": P("model"), "down": P("model")},
        {"axis_name": "data"},
        2,
    ),
}


def trained(method, loss_fn, params, batch, num_steps=STEPS):
    """Params and the last info of some steps with SGD."""
    tx: Any = optax.chain(method, optax.sgd(0.05, momentum=0.9))

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(None, state, params, loss_fn=loss_fn, batch=batch)
        return (optax.apply_updates(params, updates), state), None

    carry = params, tx.init(params)
    for _ in range(2 if num_steps > 1 else 1):
        carry, _ = step(carry, None)
    if num_steps > 2:
        carry, _ = jax.lax.scan(step, carry, None, num_steps - 2)
    return carry[0], ksam_jax.get_info(carry[1])


def on_spread_weights(kind, make, params, batch, num_steps=STEPS, **shard_map):
    axes, loss_fn, specs, common, _ = SPREAD[kind]
    mesh = jax.make_mesh(
        tuple(axes.values()), tuple(axes), (jax.sharding.AxisType.Auto,) * len(axes)
    )

    def run(params, batch):
        return trained(make(**common), loss_fn, params, batch, num_steps)

    data = P("data") if "data" in axes else P()
    spread = jax.shard_map(
        run, mesh=mesh, in_specs=(specs, data), out_specs=(specs, P()), **shard_map
    )
    return jax.jit(spread)(params, batch)


@pytest.mark.parametrize("kind", SPREAD)
@pytest.mark.parametrize("name", slow_but(("k_sam", "f_sam"), METHODS))
def test_weights_that_are_spread_over_devices(kind, name):
    """Twenty steps, and the info of the last, as on one device with as many groups."""
    groups = SPREAD[kind][-1]
    with jax.enable_x64(True):
        params, batch = weights(), examples()
        found, info = on_spread_weights(kind, METHODS[name], params, batch)
        one = METHODS[name](groups=groups)
        expected, wanted = jax.jit(lambda p, b: trained(one, plain_loss, p, b))(
            params, batch
        )
        for leaf, like in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(leaf, like, rtol=1e-6)
        np.testing.assert_allclose(jnp.stack(info), jnp.stack(wanted), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_a_small_or_large_gradient_of_spread_weights(scale):
    """The squares of the parts are summed, and none of them is a float32 number."""

    def scaled(loss_fn):
        return lambda params, batch: loss_fn(params, batch) * jnp.float32(scale)

    params, batch = jax.tree.map(jnp.float32, weights()), examples()
    batch["x"] = jnp.float32(batch["x"])
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    specs = SPREAD["fsdp"][2]

    def run(params, batch):
        tx: Any = ksam_jax.sam(rho=0.05, axis_name="data")
        args = {"loss_fn": scaled(gathered_loss), "batch": batch}
        return ksam_jax.get_info(tx.update(None, tx.init(params), params, **args)[1])

    spread = jax.shard_map(run, mesh=mesh, in_specs=(specs, P("data")), out_specs=P())
    info = jax.jit(spread)(params, batch)
    gradient = jax.grad(lambda p: jnp.mean(plain_loss(p, batch)))(params)
    length = np.sqrt(sum(np.sum(np.square(g, dtype=float)) for g in gradient.values()))
    assert float(info.perturbation_norm) == pytest.approx(0.05, rel=1e-5)
    assert float(info.ascent_norm) == pytest.approx(length * scale, rel=1e-5)


def test_no_device_climbs_alone_with_a_part_of_the_weights():
    with pytest.raises(ValueError, match=r"sync_ascent must be True where weights are"):
        on_spread_weights(
            "fsdp",
            lambda axis_name: ksam_jax.sam(axis_name=axis_name, sync_ascent=False),
            weights(),
            examples(),
        )


def test_an_axis_that_only_weights_are_spread_over_is_not_one_of_examples():
    def make():
        return ksam_jax.sam(axis_name="model")

    with pytest.raises(ValueError, match=r"axis_name must name axes that examples are"):
        on_spread_weights("tensor parallel", make, weights(), examples())


def test_esam_is_refused_where_a_device_has_a_part_of_the_weights():
    with pytest.raises(ValueError, match=r"random_mask: the weights must be the same"):
        on_spread_weights("fsdp", ksam_jax.esam, weights(), examples())


def test_what_types_do_not_tell_is_said():
    """Once per trace, and only where the loss communicates."""
    params, batch = weights(), examples()
    with pytest.warns(UserWarning, match=r"use check_vma=True") as told:
        on_spread_weights(
            "tensor parallel", METHODS["sam"], params, batch, 1, check_vma=False
        )
    assert len(told) == 1
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))

    def replicated(params, batch):
        return trained(ksam_jax.sam(axis_name="data"), plain_loss, params, batch, 1)[0]

    run = jax.shard_map(
        replicated,
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P(),
        check_vma=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(run)(params, batch)


# Keys that draw by the batch they are in.


def dropout_loss(w, example):
    return jnp.sum(dropout(example["key"], example["x"], 0.5) * w) ** 2


def keyed(impl, n=64, seed=3):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(n, 5)).astype(np.float32))
    return {"x": x, "key": jax.random.split(jax.random.key(seed, impl=impl), n)}


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg", "threefry2x32"])
@pytest.mark.parametrize("keep", ["auto", "nothing"])
def test_an_example_draws_the_same_alone_and_in_company(impl, keep):
    batch, w = keyed(impl), jnp.arange(1.0, 6.0)
    loss_fn = ksam_jax.per_example(dropout_loss, keep=keep)
    tx: Any = ksam_jax.k_sam(rho=0.0, k=0.25)
    _, state = tx.update(None, tx.init(w), w, loss_fn=loss_fn, batch=batch)
    info = ksam_jax.get_info(state)
    assert float(info.sharpness) == 0
    assert float(info.cosine) == pytest.approx(1, abs=1e-6)
    order = np.random.default_rng(0).permutation(64)
    turned = jax.tree.map(lambda x: x[order], batch)
    np.testing.assert_array_equal(loss_fn(w, turned), loss_fn(w, batch)[order])


def test_keys_that_differ_anywhere_draw_differently():
    """Whatever word of the key it is, and however the keys came about."""
    words = jnp.concatenate([jnp.zeros((1, 4), jnp.uint32), jnp.eye(4, dtype=jnp.uint32)])
    keys = jax.random.wrap_key_data(words, impl="rbg")
    batch = {"x": jnp.ones((5, 200)), "key": keys}
    drawn = ksam_jax.per_example(
        lambda w, example: dropout(example["key"], example["x"], 0.5) @ w
    )
    # Masks as numbers: the sum over dropped coordinates of distinct square roots.
    assert len(set(np.asarray(drawn(jnp.sqrt(jnp.arange(200.0)), batch)).tolist())) == 5


@pytest.mark.parametrize("make", [ksam_jax.sam, ksam_jax.k_sam, ksam_jax.esam])
@pytest.mark.parametrize("wrap", [ksam_jax.per_example, batched])
def test_microbatches_draw_as_the_joined_batch(make, wrap):
    batch, w = keyed("rbg"), jnp.arange(1.0, 6.0)
    found = []
    for parts in (1, 4):
        tx: Any = make(num_microbatches=parts)
        updates, _ = tx.update(None, tx.init(w), w, loss_fn=wrap(dropout_loss), batch=batch)
        found.append(updates)
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [ksam_jax.random_sam, ksam_jax.esam, lambda **c: ksam_jax.esam(mask_per="tensor", **c)],
)
def test_what_is_drawn_does_not_depend_on_the_default_implementation(make):
    params, batch = weights(), examples()

    def updates():
        tx: Any = make(groups=4)
        return tx.update(None, tx.init(params), params, loss_fn=plain_loss, batch=batch)[0]

    expected = updates()
    with jax.default_prng_impl("rbg"):
        found = updates()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def raw_key(example):
    return example["key"]


def of_the_number(example):
    return jax.random.fold_in(jax.random.key(0), example["number"])


@pytest.mark.parametrize("key_of", [raw_key, of_the_number])
@pytest.mark.parametrize("wrap", [ksam_jax.per_example, batched])
def test_keys_that_draw_together_are_named_where_they_are_not_in_the_batch(key_of, wrap):
    """Raw ones are numbers like others, and those that the loss makes are its own."""
    tx: Any = ksam_jax.k_sam(k=2)
    w = jnp.ones(2)

    def example_loss(w, example):
        return jnp.sum(dropout(key_of(example), example["x"], 0.5) * w)

    def update(impl):
        with jax.default_prng_impl(impl):
            keys = jax.vmap(jax.random.PRNGKey)(jnp.arange(4))
            batch = {"x": jnp.ones((4, 2)), "key": keys, "number": jnp.arange(4)}
            return tx.update(None, tx.init(w), w, loss_fn=wrap(example_loss), batch=batch)

    with pytest.warns(UserWarning, match=r"draws from keys of \"rbg\"") as told:
        update("rbg")
    assert len(told) == 1
    with pytest.warns(UserWarning, match=r"draws from keys of \"rbg\" or \"unsafe_rbg\""):
        update("unsafe_rbg")
    if key_of is raw_key:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            update("threefry2x32")


@pytest.mark.slow
@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_dropout_devices_and_vmap_with_another_default_of_keys(impl):
    """The tests of these, in a process that has it from the start."""
    files = ("keep", "forward", "microbatches", "flax", "contract", "devices", "momentum")
    folder = Path(__file__).parent
    found = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-k", "dropout or vmap or vmapped or drawn or draws"),
            *(str(folder / f"test_{name}.py") for name in files),
        ],
        env=os.environ | {"JAX_DEFAULT_PRNG_IMPL": impl},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-3000:]
    assert " passed" in found.stdout


# A state that isn't this transformation's.

SWITCHED = METHODS | {
    "every": lambda: ksam_jax.every(2, ksam_jax.sam()),
    "every f_sam": lambda: ksam_jax.every(2, ksam_jax.f_sam()),
    "join_methods": lambda: ksam_jax.join_methods(
        [ksam_jax.sam(), ksam_jax.k_sam(k=0.5)], [3]
    ),
    "remembered": lambda: remembering(8),
    "loss scale": lambda: ksam_jax.dynamic_loss_scale(ksam_jax.sam()),
}


def remembering(num_examples):
    remembered = ksam_jax.highest_remembered_loss(0.5, num_examples)
    return ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(0.1), ascent=remembered, descent=remembered
    )


def one_step(tx: Any, state):
    params, batch = weights(), examples() | {"index": jnp.arange(N) % 8}
    return tx.update(None, state, params, loss_fn=plain_loss, batch=batch)


def described(state):
    leaves, treedef = jax.tree.flatten(state)
    return treedef, [(leaf.shape, leaf.dtype) for leaf in leaves]


@pytest.fixture(scope="module")
def states():
    return {name: make().init(weights()) for name, make in SWITCHED.items()}


@pytest.mark.parametrize("mine", SWITCHED)
def test_the_state_of_another_method_is_refused_unless_it_is_alike(mine, states):
    tx: Any = SWITCHED[mine]()
    others = [x for x in states.values() if described(x) != described(states[mine])]
    assert len(others) > 10
    for foreign in others:
        with pytest.raises((ValueError, TypeError), match=r"state must be what"):
            one_step(tx, foreign)


@pytest.mark.parametrize(
    "name", ["f_sam", "vasso", "look_sam", "momentum_sam", "every f_sam"]
)
def test_the_state_of_other_parameters_is_refused(name):
    tx: Any = SWITCHED[name]()
    with pytest.raises(ValueError, match=r"state must be what"):
        one_step(tx, tx.init({"w": jnp.zeros((3, 2))}))


def test_the_memory_of_other_examples_is_refused():
    with pytest.raises(ValueError, match=r"losses of shape \(8,\) .* for shape \(12,\)"):
        one_step(remembering(12), remembering(8).init(weights()))


def test_a_state_is_taken_as_jax_takes_numbers():
    """Restored as Python's and NumPy's numbers, and parts whose inits look at values."""
    params = weights()

    def init(params: Any) -> Any:
        return {
            "n": 0,
            "sum": float(jnp.sum(params["b"])),
            "zeros": np.zeros(3, np.float32),
        }

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return updates, state | {"n": state["n"] + 1}

    counting = optax.GradientTransformation(init, update)
    climb = ksam_jax.scale_to_radius(0.1)
    by_value = lambda p: jax.tree.map(lambda x: bool(jnp.sum(x) != 0), p)  # noqa: E731
    own: Any = ksam_jax.sharpness_aware(optax.chain(counting, climb))
    for tx in (own, ksam_jax.sharpness_aware(climb, combine=counting)):
        _, state = one_step(tx, tx.init(params))
        one_step(tx, state)
    masked: Any = ksam_jax.sam(mask=by_value)
    one_step(masked, masked.init(params))
    for make in METHODS.values():
        tx = make()
        state = jax.tree.map(lambda x: x.item() if x.ndim == 0 else x, tx.init(params))
        one_step(tx, jax.tree.map(np.asarray, state))
        one_step(tx, state)


# Numbers whose squares aren't, and no derivative at zero.

BY_DIRECTION = [name for name in METHODS if name != "le_sam"]


def linear(scale):
    def loss_fn(w, batch):
        return (batch @ w) * jnp.asarray(scale, w.dtype)

    return loss_fn


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("name", BY_DIRECTION)
def test_small_and_large_gradients_climb_as_others_do(name, scale):
    """Three steps of a loss times a factor: the same climb, and updates by the factor."""
    rng = np.random.default_rng(0)
    batches = jnp.asarray(rng.normal(0.5, 1.0, (3, 8, 3)).astype(np.float32))
    told = []
    for factor in (1.0, scale):
        w = jnp.array([1.0, 2.0, 2.0])
        tx: Any = METHODS[name]()
        state = tx.init(w)
        for batch in batches:
            u, state = tx.update(None, state, w, loss_fn=linear(factor), batch=batch)
            info = ksam_jax.get_info(state)
            numbers = [info.perturbation_norm, info.cosine, *(u / jnp.float32(factor))]
            told.append(numbers)
    np.testing.assert_allclose(told[3:], told[:3], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e-12, 1e20, 1e35])
def test_a_radius_of_a_small_or_large_gradient(size):
    """By hand: (1, 2, 2) has length 3."""
    w = jnp.zeros(3)
    tx: Any = ksam_jax.sam(rho=0.05)
    batch = jnp.array([[1.0, 2.0, 2.0]]) * size
    _, state = tx.update(None, tx.init(w), w, loss_fn=lambda w, b: b @ w, batch=batch)
    info = ksam_jax.get_info(state)
    assert float(info.perturbation_norm) == pytest.approx(0.05, rel=1e-6)
    assert float(info.cosine) == pytest.approx(1, rel=1e-6)
    assert float(info.ascent_norm) == pytest.approx(3 * size, rel=1e-6)


@pytest.mark.parametrize("size", [1e-25, 1e-19, 1e19, 1e25, 1e34])
@pytest.mark.parametrize("rho", [0.5, 1e-3])
def test_an_adaptive_radius_of_small_or_large_weights(size, rho):
    """Against float64, where the squares are numbers."""
    w, gradient = np.array([[1.0, -0.3, 2.0]]) * size, np.array([[1.0, -2.0, 0.5]])
    sizes = np.abs(w)
    expected = rho * sizes**2 * gradient / np.linalg.norm(sizes * gradient)
    climb: Any = ksam_jax.scale_to_adaptive_radius(rho, eta=0.0)
    params = jnp.asarray(w, jnp.float32)
    given = jnp.asarray(gradient, jnp.float32)
    epsilon, _ = climb.update(given, climb.init(params), params)
    np.testing.assert_allclose(epsilon, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_likewise_in_float64(size):
    with jax.enable_x64(True):
        tx: Any = ksam_jax.asam(rho=0.05)
        w = jnp.zeros(3)
        batch = jnp.array([[1.0, 2.0, 2.0]]) * size
        _, state = tx.update(None, tx.init(w), w, loss_fn=lambda w, b: b @ w, batch=batch)
        info = ksam_jax.get_info(state)
        assert float(info.perturbation_norm) == pytest.approx(0.05, rel=1e-12)
        assert float(info.ascent_norm) == pytest.approx(3 * size, rel=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_with_a_gradient_of_zero_has_a_derivative(name):
    """That of the plain gradient, as the step is: the mean of x x^T, at weights of zero."""
    batch = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))
    tx: Any = METHODS[name]()

    def loss_fn(w, batch):
        return (batch @ w) ** 2 / 2

    def updates(w):
        return tx.update(None, tx.init(w), w, loss_fn=loss_fn, batch=batch)[0]

    def loss_of_nothing(w):
        none = tx.update(None, tx.init(w), w, loss_fn=lambda w, b: 0 * (b @ w), batch=batch)
        return jnp.sum(none[0])

    found = jax.jacobian(updates)(jnp.zeros(3))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(jax.grad(loss_of_nothing)(jnp.ones(3)), np.zeros(3))
    if name in ("sam", "asam", "f_sam", "mean_gradient"):
        np.testing.assert_allclose(found, batch.T @ batch / 8, rtol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 1.0, 1e-18, 1e-15])
def test_a_gradient_that_is_known_when_compiling_has_a_length(constant):
    """XLA squares the scale of a constant by itself."""

    def update():
        w = jnp.zeros(3)
        tx: Any = ksam_jax.momentum_sam(0.5)
        past = tx.init(w)
        past = past._replace(ascent=past.ascent._replace(average=jnp.full(3, constant)))
        return ksam_jax.get_info(
            tx.update(None, past, w, loss_fn=lambda w, b: b @ w, batch=jnp.ones((2, 3)))[1]
        )

    info = jax.jit(update)()
    assert float(info.ascent_norm) == pytest.approx(3**0.5 * constant, rel=1e-6)
    assert float(info.perturbation_norm) == pytest.approx(0.5 if constant else 0, rel=1e-6)
