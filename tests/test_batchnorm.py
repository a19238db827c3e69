"""Running statistics are those of one clean pass over the whole batch, and no other."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.errors import TraceContextError
from problems import (
    Draw,
    abstract,
    assert_close,
    cross_entropy,
    initial,
    on_one_worker,
    quick_jit,
    slow_but,
    updater,
)

import ksam_jax

METHODS = {
    "sam": ksam_jax.sam(rho=0.1),
    "asam": ksam_jax.asam(rho=0.5),
    "random_sam": ksam_jax.random_sam(rho=0.1, m=0.4),
    "k_sam": ksam_jax.k_sam(rho=0.1, k=0.4),
    "esam": ksam_jax.esam(rho=0.1),
    "f_sam": ksam_jax.f_sam(rho=0.1),
}
BATCHES = [{"x": draw((9, 3), 2.0), "y": draw.labels(9, 3)} for draw in map(Draw, range(3))]


class Model(NamedTuple):
    """Parameters, statistics, and `(params, stats, batch) -> (losses, stats)`."""

    params: Any
    stats: Any
    apply: Any


def losses_of(logits, batch):
    return jax.vmap(cross_entropy)(logits, batch["y"])


def linen_model():
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Dense(6)(x)
            x = linen.BatchNorm(use_running_average=False, momentum=0.7)(x)
            return linen.Dense(3)(linen.tanh(x))

    model = Network()
    variables = model.init(jax.random.key(1), BATCHES[0]["x"])

    def apply(params, stats, batch):
        logits, after = model.apply(
            {"params": params, "batch_stats": stats},
            batch["x"],
            mutable=["batch_stats"],
        )
        return losses_of(logits, batch), after["batch_stats"]

    return Model(variables["params"], variables["batch_stats"], apply)


class NNXNetwork(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.7, rngs=rngs)
        self.last = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.tanh(self.norm(self.first(x))))


def nnx_model(copy=True):
    graphdef, params, stats = nnx.split(NNXNetwork(nnx.Rngs(1)), nnx.Param, nnx.BatchStat)

    def apply(params, stats, batch):
        model = nnx.merge(graphdef, params, stats, copy=copy)
        logits = model(batch["x"])
        return losses_of(logits, batch), nnx.state(model, nnx.BatchStat)

    return Model(params, stats, apply)


MODELS = {"linen": linen_model, "nnx": nnx_model}


@functools.cache
def one_clean_pass(name):
    return quick_jit(MODELS[name]().apply)


def training_step(model, tx):
    """One step of a training loop: the statistics are what `take_aux` gives."""

    @quick_jit
    def step(params, stats, opt_state, batch):
        def loss_fn(params, batch):
            return model.apply(params, stats, batch)

        update = updater(tx, loss_fn, has_aux=True)
        updates, opt_state = update(opt_state, params, batch)
        stats, opt_state = ksam_jax.take_aux(opt_state)
        return optax.apply_updates(params, updates), stats, opt_state

    return step


@pytest.mark.parametrize("method", slow_but(("sam", "k_sam", "esam"), METHODS))
@pytest.mark.parametrize("name", [on_one_worker(m) for m in MODELS])
def test_statistics_are_those_of_one_clean_pass_over_the_whole_batch(name, method):
    model = MODELS[name]()
    tx = optax.chain(METHODS[method], optax.sgd(0.2, momentum=0.9))
    step = training_step(model, tx)
    params, stats, opt_state = model.params, model.stats, tx.init(model.params)
    for batch in BATCHES:
        _, expected = one_clean_pass(name)(params, stats, batch)
        params, stats, opt_state = step(params, stats, opt_state, batch)
        assert_close(stats, expected, 1e-6, 1e-6)
    assert abstract(stats) == abstract(model.stats)
    moved = [
        np.max(np.abs(a - b))
        for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(model.stats), strict=True)
    ]
    assert min(moved) > 0.01
    assert abstract(opt_state) == abstract(tx.init(model.params))


def scaled(tree, length):
    """That direction at this length, in float64."""
    squares = sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(tree))
    return jax.tree.map(lambda leaf: leaf * (length / np.sqrt(squares)), tree)


def stepping(model, tx):
    """The updates of a step, with statistics from `take_aux`, and the next state."""

    @quick_jit
    def step(params, stats, opt_state, batch):
        update = updater(tx, lambda p, b: model.apply(p, stats, b), has_aux=True)
        updates, opt_state = update(opt_state, params, batch)
        return updates, *ksam_jax.take_aux(opt_state)

    return step


# How each climbs: along the last update, downhill, or along the gradient, uphill.
CLIMB = ksam_jax.scale_to_radius(0.3)
PERTURBED = {
    "momentum_sam": (functools.partial(ksam_jax.momentum_sam, 0.3), -0.3),
    "k_momentum_sam": (functools.partial(ksam_jax.k_momentum_sam, 0.3, k=0.4), -0.3),
    "random_sam": (functools.partial(ksam_jax.random_sam, 0.3, m=1.0), 0.3),
    "sam": (functools.partial(ksam_jax.sharpness_aware, CLIMB), 0.3),
}


@pytest.mark.parametrize("name", PERTURBED)
def test_statistics_of_the_perturbed_weights_are_those_of_one_pass_there(name):
    model, (method, length) = nnx_model(), PERTURBED[name]
    run = one_clean_pass("nnx")
    steps = {aux: stepping(model, method(aux=aux)) for aux in ("clean", "perturbed")}
    uphill = quick_jit(jax.grad(lambda p, s, b: jnp.mean(model.apply(p, s, b)[0])))
    params, stats, state = model.params, model.stats, initial(method(), model.params)
    update = jax.tree.map(jnp.zeros_like, params)
    for number, batch in enumerate(BATCHES):
        along = uphill(params, stats, batch) if length > 0 else update
        # Before the first update there is nothing to climb along.
        climbs = length > 0 or number > 0
        climb = scaled(along, length) if climbs else along
        moved = jax.tree.map(lambda p, e: (p + e).astype(p.dtype), params, climb)
        there, here = run(moved, stats, batch)[1], run(params, stats, batch)[1]
        same, clean_stats, _ = steps["clean"](params, stats, state, batch)
        update, new_stats, state = steps["perturbed"](params, stats, state, batch)
        # Nothing but the statistics is another.
        assert_close(update, same, 1e-5, 1e-6)
        assert_close(clean_stats, here, 1e-5, 1e-5)
        assert_close(new_stats, there, 1e-5, 1e-5)
        apart = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), there, here)
        assert (max(jax.tree.leaves(apart)) > 1e-2) == climbs
        params = jax.tree.map(lambda p, u: p - 0.2 * u, params, update)
        stats = new_stats
    assert abstract(stats) == abstract(model.stats)
    assert abstract(state) == abstract(initial(method(), params))


def test_statistics_of_the_perturbed_weights_are_averaged_over_devices():
    """Two parts of a batch climb together, and each looks at its own examples."""
    model, run = nnx_model(), one_clean_pass("nnx")
    tx = ksam_jax.momentum_sam(0.3, aux="perturbed", axis_name="data")
    step = stepping(model, tx)
    parts = jax.tree.map(lambda x: x[:8].reshape(2, 4, *x.shape[1:]), BATCHES[0])
    mapped = jax.vmap(step, in_axes=(None, None, None, 0), axis_name="data")
    state = tx.init(model.params)
    update, _, state = mapped(model.params, model.stats, state, parts)
    update, state = jax.tree.map(lambda x: x[0], (update, state))
    _, stats, _ = mapped(model.params, model.stats, state, parts)
    climb = scaled(update, -0.3)
    moved = jax.tree.map(lambda p, e: (p + e).astype(p.dtype), model.params, climb)
    each = [
        run(moved, model.stats, jax.tree.map(lambda x, i=i: x[i], parts))[1]
        for i in range(2)
    ]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *each)
    for i in range(2):
        assert_close(jax.tree.map(lambda x, i=i: x[i], stats), mean, 1e-5, 1e-5)


def test_the_flax_models_agree_so_that_neither_hides_a_mistake():
    linen_net, nnx_net = linen_model(), nnx_model()
    pure = nnx.to_pure_dict(nnx_net.params)
    params = {
        "Dense_0": pure["first"],
        "BatchNorm_0": pure["norm"],
        "Dense_1": pure["last"],
    }
    batch = BATCHES[0]
    expected, stats = one_clean_pass("nnx")(nnx_net.params, nnx_net.stats, batch)
    losses, linen_stats = one_clean_pass("linen")(params, linen_net.stats, batch)
    assert_close(losses, expected, 1e-5, 1e-5)
    assert_close(linen_stats["BatchNorm_0"], nnx.to_pure_dict(stats)["norm"], 1e-6)


def test_the_nnx_model_outside_the_step_is_never_written():
    model = nnx_model()
    before = jax.tree.map(jnp.copy, (model.params, model.stats))
    tx = ksam_jax.k_sam(rho=0.1, k=0.4)
    step = training_step(model, tx)
    step(model.params, model.stats, tx.init(model.params), BATCHES[0])
    assert_close((model.params, model.stats), before, 0, 0)


def test_nnx_refuses_to_merge_shared_statistics_without_copying_them():
    model = nnx_model(copy=False)
    tx = ksam_jax.sam(rho=0.1)
    step = training_step(model, tx)
    with pytest.raises(TraceContextError, match="different trace level"):
        step(model.params, model.stats, tx.init(model.params), BATCHES[0])


def coupled(params, batch):
    """Losses of which each depends on all that are run with it; aux is their mean."""
    scores = batch["x"] @ params["w"]
    losses = (scores - jnp.mean(scores) - batch["y"].astype(scores.dtype)) ** 2
    return losses, jnp.mean(losses)


@pytest.mark.filterwarnings("ignore:.*takes a sum or mean over the rows")
@pytest.mark.parametrize("has_aux", [False, True])
@pytest.mark.parametrize("name", ["sam", "asam", "k_sam", "esam", "f_sam"])
def test_without_a_climb_no_loss_rises_whatever_couples_the_examples(name, has_aux):
    tx, params = getattr(ksam_jax, name)(rho=0.0), {"w": jnp.array([0.5, -1.0, 2.0])}
    loss_fn = coupled if has_aux else lambda params, batch: coupled(params, batch)[0]
    update = quick_jit(updater(tx, loss_fn, has_aux=has_aux))
    _, state = update(tx.init(params), params, BATCHES[0])
    info = ksam_jax.get_info(state)
    assert float(info.sharpness) == pytest.approx(0.0, abs=1e-6)
    assert float(info.loss) > 0.1
