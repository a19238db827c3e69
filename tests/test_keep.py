"""What stays of a shared forward pass: by the work that a number took, and by default."""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
import pytest
from problems import (
    Draw,
    apply_dense,
    assert_close,
    batched,
    cnn,
    cond_loss,
    cross_entropy,
    dense,
    mean_loss,
    mlp_batch,
    quick_jit,
    updater,
    vit,
)

import ksam_jax


def gradient(example_loss, params, batch, keep):
    tx = ksam_jax.k_momentum_sam(rho=0.1, k=3)
    update = updater(tx, ksam_jax.per_example(example_loss, keep=keep))
    return quick_jit(update)(tx.init(params), params, batch)[0]


# Inner axes: 6 (patches), 8 (width; 4 for queries and keys), 5 (tokens), 32 (down); of
# the convolutions 3 * 3 * 2 and 3 * 3 * 4.
@pytest.mark.parametrize(
    ("problem", "keep"),
    [*(pytest.param(vit, keep, marks=pytest.mark.slow) for keep in (6, 9)), (cnn, 19)],
)
def test_an_integer_gives_the_recomputed_gradient(problem, keep):
    params, example_loss, batch = problem()
    expected = gradient(example_loss, params, batch, "nothing")
    actual = gradient(example_loss, params, batch, keep)
    assert_close(actual, expected, 1e-6, 1e-6)


def saved(example_loss, params, batch, keep):
    """Shapes gathered for the chosen examples, of those that the batch's own aren't."""
    tx = ksam_jax.k_momentum_sam(rho=0.1, k=3)
    update = updater(tx, ksam_jax.per_example(example_loss, keep=keep))
    jaxpr = jax.make_jaxpr(update)(tx.init(params), params, batch)
    given = {x.shape for x in jax.tree.leaves(batch)}
    return {
        shape
        for equation in equations(jaxpr.jaxpr)
        if equation.primitive.name == "gather"
        for shape in [cast(Any, equation.invars[0]).aval.shape]
        if len(shape) > 1 and shape not in given
    }


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def three_products(params, example):
    hidden = jnp.tanh(jnp.tanh(example["x"] @ params["a"]) @ params["b"])
    return jnp.sum(jnp.tanh(hidden @ params["c"]))


def test_a_product_is_kept_for_the_length_of_its_inner_axis():
    draw = Draw(0)
    params = {"a": draw((5, 11)), "b": draw((11, 13)), "c": draw((13, 3))}
    batch = {"x": draw((7, 5))}
    look = functools.partial(saved, three_products, params, batch)
    assert look(5) == {(7, 11), (7, 13), (7, 3)}
    assert look(6) == look(11) == {(7, 13), (7, 3)}
    assert look(13) == {(7, 3)}
    assert look(14) == set()
    assert look("matmuls") == look(1) == look(5)


def test_a_convolution_is_kept_for_its_window_times_its_channels():
    params, example_loss, batch = cnn(side=6)
    look = functools.partial(saved, example_loss, params, batch)
    # Eighteen multiplications for a number of the first layer, 36 of the second.
    assert {(7, 1, 6, 6, 4), (7, 1, 3, 3, 8)} <= look(18)
    assert (7, 1, 6, 6, 4) not in look(19)
    assert (7, 1, 3, 3, 8) in look(36)
    assert (7, 1, 3, 3, 8) not in look(37)


# The default: a hundred multiplications, or recomputing where nothing can be shared.


@jax.custom_vjp
def doubled_gradient(x):
    return x


doubled_gradient.defvjp(lambda x: (x, ()), lambda _, g: (2 * g,))


def custom_vjp_loss(params, example):
    logits = doubled_gradient(apply_dense(params["out"], jnp.tanh(example["x"])))
    return cross_entropy(logits, example["y"])


def test_auto_is_the_default():
    assert ksam_jax.per_example(cond_loss) == ksam_jax.per_example(cond_loss, keep="auto")


def test_auto_is_a_hundred():
    draw = Draw(0)
    params = {"a": draw((99, 101)), "b": draw((101, 100)), "c": draw((100, 3))}
    batch = {"x": draw((7, 99))}
    assert saved(three_products, params, batch, "auto") == {(7, 100), (7, 3)}


@pytest.mark.parametrize("loss", [custom_vjp_loss, cond_loss])
def test_auto_recomputes_for_a_loss_that_cannot_be_shared(loss):
    params, batch = {"out": dense(Draw(4), 3, 3)}, mlp_batch()
    with pytest.raises(ValueError, match=r'keep=100.*pass keep="nothing"'):
        gradient(loss, params, batch, 100)
    actual = gradient(loss, params, batch, "auto")
    assert_close(actual, gradient(loss, params, batch, "nothing"), 1e-6, 1e-6)


def test_auto_lets_the_errors_of_the_loss_come_out():
    def broken(params, example):
        return jnp.sum(params["out"]["w"] @ example["x"][:2])

    params, batch = {"out": dense(Draw(4), 3, 3)}, mlp_batch()
    with pytest.raises(TypeError, match="dot_general"):
        gradient(broken, params, batch, "auto")
    with pytest.raises(ValueError, match=r"one loss per example, shape \(10,\)"):
        gradient(lambda p, e: e["x"] @ p["out"]["w"], params, batch, "auto")


# Memory: of XLA's temporary buffers, whose sizes are exact.


def temporary_bytes(step, *arguments):
    shapes = jax.eval_shape(lambda: arguments)
    analysis = quick_jit(step).lower(*shapes).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.xdist_group("memory")
@pytest.mark.parametrize(
    ("keep", "limit"),
    [
        ("nothing", 0.30),
        pytest.param(100, 0.40, marks=pytest.mark.slow),
        pytest.param("all", 0.65, marks=pytest.mark.slow),
    ],
)
def test_k_sam_needs_a_part_of_the_memory_of_sgd(keep, limit):
    assert 0.2 < k_sam_bytes(keep) / sgd_bytes() <= limit


@functools.cache
def big_vit():
    return vit(n=256, tokens=64, width=128, depth=4, heads=4, patch=48, classes=10)


@functools.cache
def sgd_bytes():
    params, example_loss, batch = big_vit()
    base = optax.sgd(0.1, momentum=0.9)

    def step(params, state, batch):
        gradient = jax.grad(mean_loss(batched(example_loss)))(params, batch)
        updates, state = base.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return temporary_bytes(step, params, base.init(params), batch)


def k_sam_bytes(keep):
    params, example_loss, batch = big_vit()
    tx = optax.chain(ksam_jax.k_sam(k=0.25), optax.sgd(0.1, momentum=0.9))
    update = updater(tx, ksam_jax.per_example(example_loss, keep=keep))

    def step(params, state, batch):
        updates, state = update(state, params, batch)
        return optax.apply_updates(params, updates), state

    return temporary_bytes(step, params, tx.init(params), batch)
