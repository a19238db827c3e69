"""Convolutions in a branch: the same numbers, in the one order of axes that is fast."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import ksam_jax
from ksam_jax.step import _branch
from ksam_jax.step._convolutions import with_fast_convolutions

ROWS = {
    "plain": ((4, 9, 8, 3), (3, 3, 3, 5), {}, ("NHWC", "HWIO", "NHWC")),
    "channels first": ((4, 3, 9, 8), (5, 3, 3, 3), {}, ("NCHW", "OIHW", "NCHW")),
    "mixed": ((9, 4, 3, 8), (5, 3, 3, 3), {}, ("HNCW", "OIHW", "CWNH")),
    "strides": ((4, 9, 8, 3), (3, 2, 3, 5), {"window_strides": (2, 3)}, None),
    "padding": ((4, 9, 8, 3), (3, 3, 3, 5), {"padding": [(2, 0), (1, 3)]}, None),
    "kernel dilated": ((4, 9, 8, 3), (3, 3, 3, 5), {"rhs_dilation": (2, 1)}, None),
    "input dilated": (
        (4, 9, 8, 3),
        (3, 3, 3, 5),
        {"lhs_dilation": (1, 2), "padding": [(1, 1)] * 2},
        None,
    ),
    "grouped": ((4, 9, 8, 6), (3, 3, 2, 9), {"feature_group_count": 3}, None),
    "depthwise": ((4, 9, 8, 6), (3, 3, 1, 6), {"feature_group_count": 6}, None),
    "by batch": ((6, 9, 8, 3), (3, 3, 3, 4), {"batch_group_count": 2}, None),
    "one axis": ((4, 9, 3), (3, 3, 5), {"window_strides": (2,)}, ("NWC", "WIO", "NWC")),
    "three axes": ((2, 5, 6, 4, 3), (3, 2, 2, 3, 4), {"window_strides": (1, 2, 1)}, None),
    "no window": ((4, 3), (3, 5), {"window_strides": ()}, ("NC", "IO", "NC")),
    "exact": ((4, 9, 8, 3), (3, 3, 3, 5), {"precision": lax.Precision.HIGHEST}, None),
    "wider": (
        (4, 9, 8, 3),
        (3, 3, 3, 5),
        {"preferred_element_type": jnp.float64},
        None,
    ),
}
IN_ORDER = {3: ("NWC", "WIO", "NWC"), 4: ("NHWC", "HWIO", "NHWC"), 5: None}


@pytest.fixture(autouse=True)
def float64() -> Any:
    with jax.enable_x64(True):
        yield


def convolution(row: str) -> Any:
    left, right, given, order = ROWS[row]
    order = order or IN_ORDER[len(left)] or ("NDHWC", "DHWIO", "NDHWC")
    rest = {"window_strides": (1,) * (len(left) - 2), "padding": "SAME"}
    convolve = functools.partial(
        lax.conv_general_dilated, dimension_numbers=order, **{**rest, **given}
    )
    rng = np.random.default_rng(0)
    return convolve, jnp.asarray(rng.normal(size=left)), jnp.asarray(rng.normal(size=right))


def in_a_branch(function: Any) -> Any:
    """The function as one of two branches, of which it has the turn."""

    def switched(turn: Any, *args: Any) -> Any:
        other = jax.eval_shape(function, *args)
        zeros = lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), other)  # noqa: E731
        return _branch.one_of([zeros, lambda: function(*args)], turn)

    return jax.jit(switched)


def orders(program: Any, *args: Any) -> set[str]:
    """Of the axes of all convolutions in the compiled program."""
    text = program.lower(*args).compile().as_text()
    return set(re.findall(r"dim_labels=(\S+?)[,\s]", text))


@pytest.mark.parametrize("row", ROWS)
def test_a_convolution_and_its_gradients_are_the_same_numbers(row):
    convolve, left, right = convolution(row)
    sizes = jnp.asarray(np.random.default_rng(1).normal(size=convolve(left, right).shape))

    def all_three(left: Any, right: Any) -> Any:
        value, pull_back = jax.vjp(convolve, left, right)
        return value, pull_back(sizes.astype(value.dtype))

    found = in_a_branch(all_three)(1, left, right)
    expected = jax.jit(all_three)(left, right)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12),
        found,
        expected,
    )


@pytest.mark.parametrize("row", ["channels first", "mixed", "strides"])
def test_all_have_batch_and_features_outermost(row):
    convolve, left, right = convolution(row)

    def gradients(left: Any, right: Any) -> Any:
        return jax.grad(lambda *x: jnp.sum(convolve(*x) ** 2), argnums=(0, 1))(left, right)

    found = orders(in_a_branch(gradients), 1, left, right)
    assert found <= {"b01f_01io->b01f"}
    # Or there would have been nothing to do, and nothing to show.
    plain = jax.jit(lambda turn, *x: lax.cond(turn, lambda: gradients(*x), lambda: x))
    assert orders(plain, True, left, right) - found


# ------------------------------------------------------------- what is around them


def network(w: Any, x: Any) -> Any:
    """Two convolutions, one of them within what JAX calls and recomputes."""
    convolve, _, _ = convolution("plain")

    @jax.checkpoint
    def block(kernel: Any, x: Any) -> Any:
        return jax.jit(lambda k, x: jax.nn.relu(convolve(x, k)))(kernel, x)

    return jnp.sum(block(w["b"], block(w["a"], x)) ** 2)


def kernels() -> Any:
    rng = np.random.default_rng(2)
    shapes = {"a": (3, 3, 3, 3), "b": (3, 3, 3, 4)}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def test_those_within_calls_and_checkpoints_are_found():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(4, 9, 8, 3)))
    gradient = jax.grad(network)
    switched = in_a_branch(gradient)
    found, expected = switched(1, kernels(), x), jax.jit(gradient)(kernels(), x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), found, expected)
    assert orders(switched, 1, kernels(), x) == {"b01f_01io->b01f"}


def test_a_checkpoint_stays_one():
    """What it recomputes isn't kept instead."""
    x = jnp.ones((4, 9, 8, 3))
    branch = with_fast_convolutions(lambda: jax.grad(network)(kernels(), x))
    names = [eqn.primitive.name for eqn in jax.make_jaxpr(branch)().jaxpr.eqns]
    plain = jax.make_jaxpr(jax.grad(network))(kernels(), x).jaxpr.eqns
    kept = [eqn.primitive.name for eqn in plain]
    for name in ("checkpoint", "remat2"):
        assert names.count(name) == kept.count(name)
    assert names.count("checkpoint") + names.count("remat2") > 0


@pytest.mark.parametrize("convolves", [False, True])
def test_a_branch_is_traced_once_and_changed_in_its_convolutions_alone(convolves):
    traced = []
    x = jnp.ones((4, 9, 8, 3))

    def branch() -> Any:
        traced.append(1)
        found = jnp.ones((2, 2)) @ jnp.ones((2, 2))
        return {"a": found, "b": network(kernels(), x) if convolves else None}

    def names(function: Any) -> list[str]:
        return [eqn.primitive.name for eqn in jax.make_jaxpr(function)().jaxpr.eqns]

    found = with_fast_convolutions(branch)
    assert len(traced) == 1
    again = names(found)
    assert len(traced) == 1
    if not convolves:
        assert again == names(branch)
    assert jax.tree.structure(found()) == jax.tree.structure(branch())


def test_other_backends_are_left_alone(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")

    def branch() -> Any:
        return jax.grad(network)(kernels(), jnp.ones((4, 9, 8, 3)))

    assert with_fast_convolutions(branch) is branch


@pytest.mark.parametrize("coupled", [False, True])
def test_a_step_whose_k_follows_training_is_fast_in_every_size(coupled):
    convolve, _, _ = convolution("plain")

    def example_loss(w: Any, x: Any) -> Any:
        return network(w, x[None])

    def batch_loss(w: Any, batch: Any) -> Any:
        x = convolve(batch, w["a"])
        x = (x - x.mean(0)) / (x.std(0) + 1)
        return jnp.sum(convolve(x, w["b"]) ** 2, axis=(1, 2, 3)), x.mean(0)

    loss = batch_loss if coupled else ksam_jax.per_example(example_loss, keep="all")
    k = ksam_jax.by_coverage(0.7, (0.25, 0.5, 1.0))
    tx: Any = optax.chain(ksam_jax.k_sam(0.05, k), optax.sgd(0.1))
    batch = jnp.asarray(np.random.default_rng(4).normal(size=(8, 9, 8, 3)))

    @jax.jit
    def step(w: Any, state: Any) -> Any:
        u, state = tx.update(None, state, w, loss_fn=loss, batch=batch, has_aux=coupled)
        _, state = ksam_jax.take_aux(state) if coupled else (None, state)
        return optax.apply_updates(w, u), state

    w = kernels()
    state = tx.init(w)
    # Under vmap features are in groups; the order is the same.
    assert orders(step, w, state) == {"b01f_01io->b01f"}
    with jax.disable_jit():
        expected = step(w, state)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12),
        step(w, state),
        expected,
    )
