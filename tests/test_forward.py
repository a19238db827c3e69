"""The shared forward pass is the recomputing one, whatever the model."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from problems import (
    Draw,
    Problem,
    apply_dense,
    assert_close,
    assert_same,
    batched,
    cnn,
    cond_loss,
    cross_entropy,
    dense,
    embedding,
    is_finite,
    is_zero,
    lstm,
    mlp,
    mlp_batch,
    mlp_loss_with_aux,
    on_one_worker,
    quick_jit,
    scanned,
    slow_but,
    updater,
    vit,
)

import ksam_jax

SHARED = ("all", "matmuls")
# Together they take a minute, and each shows the same of another choice of residuals.
ONE_BY_ONE = slow_but(("all",), SHARED)


def both_shared():
    """The forward pass is shared at the clean and at the perturbed weights."""
    return ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(0.1),
        ascent=ksam_jax.highest_loss(0.4),
        descent=ksam_jax.largest_increase(0.5),
    )


METHODS = {
    "k_sam": functools.partial(ksam_jax.k_sam, rho=0.1, k=0.4),
    "esam": functools.partial(ksam_jax.esam, rho=0.1),
    "both": both_shared,
}


def nnx_model():
    """An NNX network with layer normalization, as params and a loss of one example."""

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 6, rngs=rngs)
            self.norm = nnx.LayerNorm(6, rngs=rngs)
            self.last = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.gelu(self.norm(self.first(x))))

    graphdef, params = nnx.split(Network(nnx.Rngs(0)), nnx.Param)

    def example_loss(params, example):
        logits = nnx.merge(graphdef, params)(example["x"])
        return cross_entropy(logits, example["y"])

    return Problem(params, example_loss, mlp_batch())


def linen_model():
    """A Linen convolutional network with group normalization."""

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(4, (3, 3))(x)
            x = linen.relu(linen.GroupNorm(num_groups=2)(x))
            x = linen.Conv(4, (3, 3), strides=2)(x)
            return linen.Dense(3)(linen.relu(x).mean((0, 1)))

    data = cnn()
    params = Network().init(jax.random.key(0), data.batch["x"][0])["params"]

    def example_loss(params, example):
        logits = Network().apply({"params": params}, example["x"])
        return cross_entropy(logits, example["y"])

    return Problem(params, example_loss, data.batch)


def jitted_model():
    """A model that its author wrapped in jit."""
    problem = mlp()
    return problem._replace(example_loss=jax.jit(problem.example_loss))


def half_used():
    """Parameters that the loss doesn't touch, in front of and behind those it does."""
    problem = mlp()
    params = {"a_spare": jnp.ones((2, 3)), **problem.params, "spare": jnp.ones(())}
    return problem._replace(params=params)


def frozen_weights():
    """A weight whose gradient the author stops, and one used in two places."""
    draw = Draw(0)
    params = {"tied": draw((3, 3), 0.5), "stopped": draw((3, 3)), "head": draw((3, 3))}

    def example_loss(params, example):
        x = jnp.tanh(example["x"] @ params["tied"])
        x = x @ jax.lax.stop_gradient(params["stopped"])
        logits = jnp.tanh(x @ params["tied"].T) @ params["head"]
        return cross_entropy(logits, example["y"])

    return Problem(params, example_loss, mlp_batch())


MODELS = {
    "mlp": mlp,
    "cnn_group_norm": cnn,
    "vit": functools.partial(vit, depth=1),
    "scan_checkpoint_dropout": scanned,
    "lstm": lstm,
    "integer_inputs": embedding,
    "nnx": nnx_model,
    "linen": linen_model,
    "jit": jitted_model,
    "untouched_params": half_used,
    "tied_and_stopped_weights": frozen_weights,
}


def train(problem, method, loss_fn, steps=3):
    """Parameters and infos of a few momentum steps on one batch."""
    tx = optax.chain(METHODS[method](), optax.sgd(0.1, momentum=0.9))
    update = updater(tx, loss_fn)

    @quick_jit
    def step(params, state, batch):
        updates, state = update(state, params, batch)
        return optax.apply_updates(params, updates), state

    params, infos = problem.params, []
    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state, problem.batch)
        infos.append(ksam_jax.get_info(state))
    return params, infos


@functools.cache
def recomputed(model, method):
    problem = MODELS[model]()
    loss_fn = ksam_jax.per_example(problem.example_loss, keep="nothing")
    return problem, *train(problem, method, loss_fn)


EACH_METHOD = ["mlp", "cnn_group_norm", "vit", "scan_checkpoint_dropout"]


@pytest.mark.parametrize("keep", ONE_BY_ONE)
@pytest.mark.parametrize(
    ("model", "method"),
    [
        *(on_one_worker(m, "k_sam", slow=m == "mlp") for m in EACH_METHOD),
        *(on_one_worker(m, "esam", slow=m != "mlp") for m in EACH_METHOD),
        *(
            on_one_worker(m, "both", slow=m != "linen")
            for m in MODELS
            if m not in EACH_METHOD
        ),
    ],
)
def test_a_shared_forward_pass_gives_the_recomputed_step(model, method, keep):
    problem, expected, expected_infos = recomputed(model, method)
    loss_fn = ksam_jax.per_example(problem.example_loss, keep=keep)
    params, infos = train(problem, method, loss_fn)
    assert_close(params, expected, 1e-6, 1e-6)
    assert_close(infos, expected_infos, 1e-5, 1e-6)
    assert all(float(info.perturbation_norm) > 0 for info in infos)


@pytest.mark.parametrize(
    "model", [on_one_worker(m) for m in ("mlp", "cnn_group_norm", "vit")]
)
def test_keeping_nothing_is_the_path_of_a_batch_level_loss(model):
    problem, expected, _ = recomputed(model, "k_sam")
    params, _ = train(problem, "k_sam", batched(problem.example_loss))
    assert_close(params, expected, 1e-6, 1e-6)


@pytest.mark.parametrize("keep", ["nothing", *SHARED])
def test_per_example_equals_a_loss_batched_by_hand(keep):
    problem = mlp()

    def by_hand(params, batch):
        hidden = jnp.tanh(apply_dense(params["hidden"], batch["x"]))
        logits = (hidden @ params["out"]["w"])[:, 0]
        chances = jax.nn.sigmoid(jnp.where(batch["y"] == 0, logits, -logits))
        return -jnp.log(chances)

    loss_fn = ksam_jax.per_example(problem.example_loss, keep=keep)
    expected = by_hand(problem.params, problem.batch)
    assert_close(loss_fn(problem.params, problem.batch), expected, 1e-6, 1e-6)
    actual, _ = train(problem, "k_sam", loss_fn)
    assert_close(actual, train(problem, "k_sam", by_hand)[0], 1e-6, 1e-6)


@pytest.mark.parametrize("keep", ONE_BY_ONE)
@pytest.mark.parametrize("method", ["k_sam", "esam"])
def test_bfloat16_parameters_agree_to_their_own_rounding(method, keep):
    problem = mlp(dtype=jnp.bfloat16)

    def gradient(keep):
        tx = METHODS[method]()
        loss_fn = ksam_jax.per_example(problem.example_loss, keep=keep)
        update = quick_jit(updater(tx, loss_fn))
        updates, _ = update(tx.init(problem.params), problem.params, problem.batch)
        assert all(u.dtype == jnp.bfloat16 for u in jax.tree.leaves(updates))
        return jax.tree.map(lambda u: u.astype(jnp.float32), updates)

    expected = gradient("nothing")
    difference = optax.tree.sub(gradient(keep), expected)
    # A bfloat16 product is rounded to 2^-9 of its size, and a path that fuses
    # differently rounds at other places: a few such errors in a row, not one.
    limit = 8 * 2.0**-9 * float(optax.tree.norm(expected))
    assert float(optax.tree.norm(difference)) < limit


@pytest.mark.parametrize("keep", ["nothing", *SHARED])
@pytest.mark.parametrize("method", ["k_sam", "esam"])
def test_aux_is_stacked_over_the_examples(method, keep):
    problem, tx = mlp(), METHODS[method]()
    loss_fn = ksam_jax.per_example(mlp_loss_with_aux, keep=keep)
    update = quick_jit(updater(tx, loss_fn, has_aux=True))
    updates, state = update(tx.init(problem.params), problem.params, problem.batch)
    aux, _ = ksam_jax.take_aux(state)
    _, expected = batched(mlp_loss_with_aux)(problem.params, problem.batch)
    assert_close(aux, expected, 1e-6, 1e-6)
    assert aux["logit"].shape == (10,)
    assert is_finite(updates)


# Losses for which the derivative can't be taken example by example


@jax.custom_vjp
def clipped_gradient(x):
    return x


clipped_gradient.defvjp(lambda x: (x, ()), lambda _, g: (jnp.clip(g, -0.1, 0.1),))


def custom_vjp_loss(params, example):
    logits = apply_dense(params["out"], clipped_gradient(jnp.tanh(example["x"])))
    return cross_entropy(clipped_gradient(logits), example["y"])


def switch_loss(params, example):
    x = example["x"]
    branches = [
        lambda x: jnp.tanh(x),
        lambda x: jnp.sin(x @ params["square"]),
        lambda x: x**3,
    ]
    hidden = jax.lax.switch(example["y"], branches, x)
    return cross_entropy(apply_dense(params["out"], hidden), example["y"])


def ignoring_loss(params, example):
    del params
    return jnp.sum(jnp.square(example["x"]))


ODD_LOSSES = {
    "custom_vjp": custom_vjp_loss,
    "cond": cond_loss,
    "switch": switch_loss,
    "ignores_params": ignoring_loss,
}


def odd_problem(loss):
    draw = Draw(4)
    params = {"out": dense(draw, 3, 3), "square": draw((3, 3))}
    return Problem(params, ODD_LOSSES[loss], mlp_batch())


@pytest.mark.parametrize("loss", ODD_LOSSES)
def test_keeping_nothing_works_with_every_loss(loss):
    problem = odd_problem(loss)
    loss_fn = ksam_jax.per_example(problem.example_loss, keep="nothing")
    actual, _ = train(problem, "both", loss_fn)
    expected, _ = train(problem, "both", batched(problem.example_loss))
    assert_close(actual, expected, 1e-6, 1e-6)


@pytest.mark.parametrize("keep", SHARED)
@pytest.mark.parametrize("loss", ["custom_vjp", "cond", "switch"])
def test_a_loss_that_cannot_be_linearized_is_refused_by_name(loss, keep):
    problem = odd_problem(loss)
    loss_fn = ksam_jax.per_example(problem.example_loss, keep=keep)
    with pytest.raises(ValueError, match=rf'keep="{keep}".*pass keep="nothing"'):
        train(problem, "k_sam", loss_fn)


@pytest.mark.parametrize("keep", SHARED)
def test_a_loss_that_ignores_the_params_has_no_gradient(keep):
    problem = odd_problem("ignores_params")
    loss_fn = ksam_jax.per_example(problem.example_loss, keep=keep)
    params, infos = train(problem, "both", loss_fn)
    assert_same(params, problem.params)
    assert [float(info.perturbation_norm) for info in infos] == [0.0] * 3


@pytest.mark.parametrize("keep", SHARED)
def test_an_error_of_the_loss_itself_is_not_blamed_on_keep(keep):
    problem = mlp()

    def broken(params, example):
        return mlp_loss_with_aux(params, {**example, "x": example["x"][:2]})[0]

    loss_fn = ksam_jax.per_example(broken, keep=keep)
    with pytest.raises(TypeError, match="dot_general"):
        train(problem, "k_sam", loss_fn)


# What may not be in the program

N, K, WIDE = 13, 4, (17, 19)


def wide_step(keep):
    """A step on 13 examples of which 4 are chosen, with one odd-sized weight matrix."""
    draw = Draw(1)
    params = {"in": draw((5, 17), 0.4), "mid": draw(WIDE, 0.2), "out": draw((19, 3))}
    batch = {"x": draw((N, 5)), "y": draw.labels(N, 3)}

    def example_loss(params, example):
        hidden = jnp.tanh(example["x"] @ params["in"])
        logits = jnp.tanh(hidden @ params["mid"]) @ params["out"]
        return cross_entropy(logits, example["y"])

    tx = ksam_jax.k_sam(rho=0.1, k=K)
    loss_fn = ksam_jax.per_example(example_loss, keep=keep)
    return updater(tx, loss_fn), (tx.init(params), params, batch), example_loss


def stacks_of_weights(text):
    """Shapes in a program that are a stack of the 17x19 matrix, or of its transpose."""
    shapes = re.findall(r"f32\[([\d,]+)\]", text)
    dims = {tuple(map(int, shape.split(","))) for shape in shapes}
    return [d for d in dims if len(d) > 2 and {*WIDE} <= {*d} and np.prod(d) > 17 * 19]


@pytest.mark.parametrize("keep", ["nothing", *SHARED])
def test_neither_weights_nor_gradients_are_copied_for_each_example(keep):
    step, arguments, example_loss = wide_step(keep)
    lowered = quick_jit(step).lower(*arguments)
    assert stacks_of_weights(str(jax.make_jaxpr(step)(*arguments))) == []
    assert stacks_of_weights(lowered.compile().as_text()) == []

    # The search finds them where they are: per-example gradients, stacked.
    per_example_gradients = jax.vmap(jax.grad(example_loss), in_axes=(None, 0))
    found = stacks_of_weights(str(jax.make_jaxpr(per_example_gradients)(*arguments[1:])))
    assert (N, *WIDE) in found


def test_untouched_parameters_get_zero_gradients():
    problem = half_used()
    tx = METHODS["k_sam"]()
    loss_fn = ksam_jax.per_example(problem.example_loss, keep="all")
    update = quick_jit(updater(tx, loss_fn))
    updates, _ = update(tx.init(problem.params), problem.params, problem.batch)
    assert is_zero([updates["a_spare"], updates["spare"]])
    assert not is_zero(updates["hidden"])
