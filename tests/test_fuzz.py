"""Random models, batches, dtypes, shardings and methods, and what holds for all of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import quick_jit

import ksam_jax

SIZES = (1, 2, 3, 5, 8)
DTYPES = ("float32", "bfloat16", "float16")
DIRECTIONS = ("radius", "adaptive", "budget", "friendly", "steady", "masked")


class Case(NamedTuple):
    """One training step to be checked."""

    widths: tuple[int, ...]
    dtype: str
    biases: bool
    n: int
    k: Any
    ascent: str
    direction: str
    descent: str
    groups: int
    parts: int
    per_example: bool
    kind: AxisType | None
    seed: int
    mean_over: str = "chosen"
    combine: str = "identity"
    when: str = "always"


@st.composite
def cases(draw) -> Case:
    """Sizes that fit each other, and all else at random."""
    kind = draw(st.sampled_from([None, None, AxisType.Auto, AxisType.Explicit]))
    groups = 4 if kind else draw(st.sampled_from([1, 2, 3]))
    parts = draw(st.sampled_from([1, 1, 2]))
    each = draw(st.integers(1, 4)) * parts
    ascent = draw(st.sampled_from(["everything", "highest", "random", "past"]))
    counts = st.one_of(st.integers(1, each), st.floats(1 / each, 1.0))
    descents = ["everything", "highest", "random", "own"]
    descents += ["increase"] * (ascent != "past")
    return Case(
        widths=tuple(draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=3))),
        dtype=draw(st.sampled_from(DTYPES)),
        biases=draw(st.booleans()),
        n=groups * each,
        k=draw(counts),
        ascent=ascent,
        direction=draw(st.sampled_from(DIRECTIONS)),
        descent=draw(st.sampled_from(descents)),
        groups=groups,
        parts=parts,
        per_example=draw(st.booleans()),
        kind=kind,
        seed=draw(st.integers(0, 2**20)),
        mean_over=draw(st.sampled_from(["chosen", "batch"])),
        combine=draw(st.sampled_from(["identity", "identity", "gap"])),
        when=draw(st.sampled_from(["always", "always", "every", "late"])),
    )


def model(case):
    """Dense layers of these widths, from 3 features to one output."""
    rng = np.random.default_rng(case.seed)
    layers = []
    for n_in, n_out in zip((3, *case.widths), (*case.widths, 1), strict=True):
        layer = {"w": rng.normal(0, n_in**-0.5, (n_in, n_out))}
        layers.append(layer | ({"b": rng.normal(0, 0.1, n_out)} if case.biases else {}))
    dtype = jnp.dtype(case.dtype)
    return jax.tree.map(lambda x: jnp.asarray(np.float32(x)).astype(dtype), layers)


def example_loss(params, example):
    x = example["x"].astype(params[0]["w"].dtype)
    for layer in params:
        x = jnp.tanh(x @ layer["w"] + layer.get("b", jnp.zeros((), x.dtype)))
    return (x[0] - example["y"].astype(x.dtype)) ** 2


def batch_loss(params, batch):
    return jax.vmap(example_loss, in_axes=(None, 0))(params, batch)


def batch_of(case):
    rng = np.random.default_rng(case.seed + 1)
    batch = {"x": rng.normal(size=(case.n, 3)), "y": rng.normal(size=case.n)}
    return jax.tree.map(lambda x: jnp.asarray(np.float32(x)), batch)


def first_and_last():
    """A user's own: two rows, weighed by their losses, and one that only fills up."""

    def choose(evidence, state):
        rows = jnp.array([0, 0, evidence.num_examples - 1])
        losses = evidence.first[rows].astype(jnp.float32)
        weights = jnp.where(jnp.arange(3) == 0, 0.0, 1 + losses)
        return ksam_jax.Chosen(rows, weights / jnp.sum(weights)), state

    return ksam_jax.Selection(choose, reads="first")


def selection(word, k, seed, mean_over):
    made = {
        "everything": ksam_jax.everything,
        "highest": lambda: ksam_jax.highest_loss(k, mean_over=mean_over),
        "random": lambda: ksam_jax.random_subset(k, seed=seed, mean_over=mean_over),
        "increase": lambda: ksam_jax.largest_increase(k, mean_over),
        "past": lambda: ksam_jax.past_descent(0.5),
        "own": first_and_last,
    }
    return made[word]()


def perturbation(word, seed):
    rho = 0.05
    return {
        "radius": ksam_jax.scale_to_radius(rho),
        "adaptive": ksam_jax.scale_to_adaptive_radius(rho),
        "budget": ksam_jax.scale_to_budget(rho, max_rho=1.0),
        "steady": optax.chain(ksam_jax.follow_ema(0.4), ksam_jax.scale_to_radius(rho)),
        "friendly": optax.chain(ksam_jax.subtract_ema(), ksam_jax.scale_to_radius(rho)),
        "masked": optax.chain(
            ksam_jax.scale_to_radius(rho), ksam_jax.random_mask(0.6, seed=seed)
        ),
    }[word]


def transformation(case, **answers) -> Any:
    options = {"groups": case.groups, "num_microbatches": case.parts}
    chosen = case.k, case.seed, case.mean_over
    gap = ksam_jax.subtract_orthogonal(0.3)
    method = ksam_jax.sharpness_aware(
        perturbation(case.direction, case.seed),
        ascent=answers.get("ascent") or selection(case.ascent, *chosen),
        descent=answers.get("descent") or selection(case.descent, *chosen),
        combine=gap if case.combine == "gap" else optax.identity(),
        **options,
    )
    plain = ksam_jax.mean_gradient(**options)
    return {
        "always": lambda: method,
        "every": lambda: ksam_jax.every(2, method),
        "late": lambda: ksam_jax.join_methods([plain, method], [1]),
    }[case.when]()


def placed(case, params, batch):
    """On the mesh of the case, if it has one: examples along four devices."""
    if case.kind is None:
        return params, batch
    mesh = jax.make_mesh(
        (4,), ("data",), axis_types=(case.kind,), devices=jax.devices()[:4]
    )
    everywhere, along = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    return jax.device_put(params, everywhere), jax.device_put(batch, along)


def three_steps(case, tx):
    """Updates and state of the first step, and of the third, which compiles nothing."""
    params, batch = placed(case, model(case), batch_of(case))
    traced = []

    def counted(params, row):
        traced.append(None)
        return example_loss(params, row)

    def loss_fn(params, batch):
        return jax.vmap(counted, in_axes=(None, 0))(params, batch)

    loss = ksam_jax.per_example(counted) if case.per_example else loss_fn

    @quick_jit
    def step(params, state, batch):
        updates, state = tx.update(None, state, params, loss_fn=loss, batch=batch)
        moved = jax.tree.map(
            lambda p, u: p - jnp.asarray(0.1, p.dtype) * u, params, updates
        )
        return updates, state, moved

    start = tx.init(params)
    updates, state, moved = step(params, start, batch)
    # On a mesh the state that a step returns isn't where that of `init` was.
    _, last, moved = step(moved, state, batch)
    before = len(traced)
    _, last, _ = step(moved, last, batch)
    assert len(traced) == before
    return params, start, updates, state, last


def alike(a, b):
    """Structure, shapes and dtypes."""
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), (a,)) == jax.tree.map(
        lambda x: (jnp.shape(x), jnp.result_type(x)), (b,)
    )


def check(case):
    params, start, updates, state, last = three_steps(case, transformation(case))
    assert alike(updates, params)
    assert alike(start, state)
    assert alike(state, last)
    assert all(bool(jnp.all(jnp.isfinite(u))) for u in jax.tree.leaves(updates))
    perturbed = ksam_jax.get_info(state).perturbation_norm
    assert 0 <= float(perturbed) < 10


def check_everything(case):
    """All of the examples as k, whatever the method: no examples chosen."""
    whole = [
        three_steps(case, transformation(case, ascent=a, descent=d))[2]
        for a, d in (
            (ksam_jax.everything(), ksam_jax.everything()),
            (ksam_jax.highest_loss(1.0), ksam_jax.highest_loss(1.0)),
        )
    ]
    unit = float(jnp.finfo(case.dtype).eps)
    for a, b in zip(*map(jax.tree.leaves, whole), strict=True):
        scale = float(jnp.max(jnp.abs(a.astype(jnp.float32)))) + 1e-3
        np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), atol=64 * unit * scale
        )


few = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
many = settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])


@few
@given(cases())
def test_a_step_keeps_what_it_promises(case):
    check(case)


@pytest.mark.slow
@many
@given(cases())
def test_many_steps_keep_what_they_promise(case):
    check(case)


@pytest.mark.slow
@many
@given(cases())
def test_all_examples_chosen_are_none_chosen(case):
    check_everything(case)
