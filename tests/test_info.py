"""`info="losses"`: the same step, less of itself to tell, and cheaper.

In every bit here, where XLA doesn't optimize; where it does, to within rounding.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from problems import (
    abstract,
    assert_same,
    batched,
    descend,
    initial,
    mlp,
    mlp_batch,
    mlp_loss,
    on_one_worker,
    quick_jit,
    stacked,
    updater,
)

import ksam_jax
from experiments.costs import timing

RHO = 0.1
BATCHES = [mlp_batch(seed) for seed in range(3)]
# What a step isn't asked for.
GEOMETRY = ("ascent_norm", "perturbation_norm", "cosine")
COVERED = ksam_jax.by_coverage(0.5, among=(0.3, 0.5, 1.0), climb_up_to=0.5)
APART = {"groups": 2, "sync_ascent": False}


def k_friendly(**common):
    """F-SAM's direction with K-SAM's examples, and GSAM's combination of the gradients."""
    chosen = ksam_jax.highest_loss(4)
    climb = optax.chain(ksam_jax.subtract_ema(), ksam_jax.scale_to_radius(RHO))
    return ksam_jax.sharpness_aware(
        climb,
        ascent=chosen,
        descent=chosen,
        combine=ksam_jax.subtract_orthogonal(0.3),
        **common,
    )


def late(**common):
    """A plain step, and SAM from then on."""
    return ksam_jax.join_methods(
        [ksam_jax.mean_gradient(**common), ksam_jax.sam(RHO, **common)], [1]
    )


# How each is made, and `keep` where its loss is of one example.
WAYS: dict[str, tuple[Any, str | None]] = {
    "sam": (functools.partial(ksam_jax.sam, RHO), None),
    "asam": (functools.partial(ksam_jax.asam, RHO), None),
    "random_sam": (functools.partial(ksam_jax.random_sam, RHO), None),
    "k_sam": (functools.partial(ksam_jax.k_sam, RHO, 0.3), "all"),
    "k_sam by coverage": (functools.partial(ksam_jax.k_sam, RHO, COVERED), "all"),
    "esam": (functools.partial(ksam_jax.esam, RHO), "all"),
    "f_sam": (functools.partial(ksam_jax.f_sam, RHO), None),
    "momentum_sam": (functools.partial(ksam_jax.momentum_sam, RHO), None),
    "k_momentum_sam": (functools.partial(ksam_jax.k_momentum_sam, RHO, 0.3), "all"),
    "adaptive_momentum_sam": (functools.partial(ksam_jax.adaptive_momentum_sam), None),
    "gsam": (functools.partial(ksam_jax.gsam, RHO), None),
    "vasso": (functools.partial(ksam_jax.vasso, RHO), None),
    "look_sam": (functools.partial(ksam_jax.look_sam, RHO, period=2), None),
    "le_sam": (functools.partial(ksam_jax.le_sam, RHO), None),
    "mean_gradient": (ksam_jax.mean_gradient, None),
    "parts": (k_friendly, "matmuls"),
    "sam late": (late, None),
    "groups apart": (functools.partial(ksam_jax.sam, RHO, **APART), None),
    "groups": (functools.partial(ksam_jax.k_sam, RHO, 2, groups=2), "all"),
    "parts of the batch": (
        functools.partial(ksam_jax.sam, RHO, num_microbatches=2),
        None,
    ),
    "mask": (
        functools.partial(ksam_jax.sam, RHO, mask={"hidden": False, "out": True}),
        None,
    ),
}
MAIN = ("sam", "k_sam", "groups apart", "k_sam by coverage", "sam late")
ways = pytest.mark.parametrize(
    "way", [on_one_worker(way, slow=way not in MAIN) for way in WAYS]
)


def loss_of(keep):
    if keep is None:
        return batched(mlp_loss)
    return ksam_jax.per_example(mlp_loss, keep=keep)


def without_info(state):
    """The rest of the state, and the info, of a method or a switch."""
    return state._replace(info=None), state.info._asdict()


@ways
@pytest.mark.parametrize("scale", [None, 8.0])
def test_only_what_was_not_asked_for_differs(way, scale):
    make, keep = WAYS[way]
    more = {} if scale is None else {"loss_scale": jnp.float32(scale)}
    methods = [make(), make(info="losses")]
    steps = [quick_jit(updater(tx, loss_of(keep), **more)) for tx in methods]
    states = [initial(tx, mlp().params) for tx in methods]
    params = mlp().params
    for batch in BATCHES:
        found = [
            step(state, params, batch) for step, state in zip(steps, states, strict=True)
        ]
        (all_of_it, states[0]), (updates, states[1]) = found
        assert_same(updates, all_of_it)
        (rest, told), (other, expected) = map(without_info, states[::-1])
        assert_same(rest, other)
        for name, number in told.items():
            if name in GEOMETRY:
                assert float(number) == 2.0**100
            else:
                assert float(number) == float(expected[name]), name
        params = descend(params, updates)


def test_what_is_unknown_is_told_so_and_the_state_keeps_its_structure():
    tx: Any = ksam_jax.sam(RHO, info="losses")
    update, params = updater(tx, batched(mlp_loss)), mlp().params
    state = initial(tx, params)

    def turn(state, batch):
        return update(state, params, batch)[1], None

    after, _ = jax.lax.scan(turn, state, stacked(BATCHES))
    assert abstract(after) == abstract(state)
    assert abstract(state) == abstract(initial(ksam_jax.sam(RHO), params))
    known = after.info.known._asdict()
    assert {name for name, flag in known.items() if not flag} == set(GEOMETRY)


@pytest.mark.parametrize("common", [{}, APART])
def test_an_ascent_gradient_that_is_not_finite_undoes_the_step(common):
    """There is no climb then, and the descent gradient at the weights is finite."""

    def loss_fn(params, batch):
        losses = jax.vmap(mlp_loss, in_axes=(None, 0))(params, batch)
        # At the weights themselves the derivative is infinite, and the value isn't.
        away = jnp.sum((params["hidden"]["b"] - start["hidden"]["b"]) ** 2)
        return losses + jnp.sqrt(away)

    start = mlp().params
    for info in ("all", "losses"):
        tx: Any = ksam_jax.sam(RHO, info=info, **common)
        step = quick_jit(updater(tx, loss_fn, loss_scale=jnp.float32(2.0)))
        _, state = step(initial(tx, start), start, BATCHES[0])
        assert not bool(state.both_finite), info


def step_of(tx, loss_fn, base):
    chain = optax.chain(tx, base)
    update = updater(chain, loss_fn)

    def step(params, state, batch):
        updates, state = update(state, params, batch)
        return optax.apply_updates(params, updates), state

    return chain, step


@functools.cache
def compiled(kind):
    """A step with momentum, weights and state donated, on a network with a wide layer."""
    problem = mlp(n=8, width=300)
    base, loss_fn = optax.sgd(0.1, momentum=0.9), batched(mlp_loss)
    if kind == "optax":
        climb = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
        chain: Any = optax.contrib.sam(base, climb, opaque_mode=True)

        def step(params, state, batch):
            def gradient(params, _):
                return jax.grad(lambda p: jnp.mean(loss_fn(p, batch)))(params)

            first = gradient(params, 0)
            updates, state = chain.update(first, state, params, grad_fn=gradient)
            return optax.apply_updates(params, updates), state

    else:
        chain, step = step_of(ksam_jax.sam(RHO, info=kind), loss_fn, base)
    state = chain.init(problem.params)
    run = jax.jit(step, donate_argnums=(0, 1))
    return run.lower(problem.params, state, problem.batch).compile()


def test_it_takes_no_more_memory_than_that_of_optax():
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(mlp(n=8, width=300).params))
    memory = {
        kind: timing.temporary_bytes(compiled(kind)) or 0
        for kind in ("optax", "losses", "all")
    }
    assert memory["losses"] <= memory["optax"]
    # The ascent gradient isn't kept beside the descent's.
    assert memory["losses"] < memory["all"] - 0.7 * weights


def test_the_weights_are_read_less_often():
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(mlp(n=8, width=300).params))
    moved = {kind: timing.bytes_moved(compiled(kind)) for kind in ("losses", "all")}
    assert moved["losses"] < moved["all"] - 4 * weights


@pytest.mark.parametrize("word", ["loss", None, True])
def test_another_word_is_refused(word):
    with pytest.raises((ValueError, TypeError), match=r"sam\(info=.*must be"):
        ksam_jax.sam(info=word)
