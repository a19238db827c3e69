"""JAX's flags for debugging stop at nothing where the data are clean."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import initial

import ksam_jax as library
from ksam_jax import highest_remembered_loss, past_descent, random_subset, scale_to_radius

# Given NumPy arrays and no updates.
ksam_jax: Any = library
N, UNKNOWN = 8, 2.0**100
RNG = np.random.default_rng(0)
BATCH = {
    "x": RNG.normal(0.2, 1, (N, 3)).astype(np.float32),
    "y": RNG.normal(0.2, 1, N).astype(np.float32),
    "index": np.arange(N),
}
W = {"w": jnp.asarray([0.5, -1.0, 2.0])}


def one_loss(params, example):
    return jnp.square(example["x"] @ params["w"] - example["y"])


def losses(params, batch):
    return jnp.square(jnp.asarray(batch["x"]) @ params["w"] - batch["y"])


FORMS: dict[str, tuple[Any, bool]] = {
    "batch": (losses, False),
    "example": (ksam_jax.per_example(one_loss), False),
    "aux": (lambda p, b: (losses(p, b), jnp.mean(b["x"])), True),
}
RADIUS = scale_to_radius(0.1)


def of_parts(**parts):
    return ksam_jax.sharpness_aware(RADIUS, **parts)


def remembered():
    return highest_remembered_loss(3, 2 * N)


PLAIN = ["sam", "asam", "random_sam", "k_sam", "esam", "f_sam", "gsam", "look_sam"]
PLAIN += ["le_sam", "vasso", "mean_gradient"]
NO_CLEAN = {"loss", "sharpness"}
# What each doesn't know after four steps of a loss without aux.
METHODS: dict[str, tuple[Any, set[str]]] = {
    **{name: (getattr(ksam_jax, name)(), set()) for name in PLAIN},
    **{
        name: (getattr(ksam_jax, name)(), NO_CLEAN)
        for name in ("momentum_sam", "adaptive_momentum_sam")
    },
    # Its default sees the loss of all while the loss still falls.
    "k_momentum_sam": (ksam_jax.k_momentum_sam(), set()),
    "k_momentum_sam, a quarter": (ksam_jax.k_momentum_sam(k=0.25), NO_CLEAN),
    "k": (ksam_jax.k_sam(k=2, skip=1), set()),
    "groups": (ksam_jax.k_sam(k=2, groups=2), set()),
    "m-sharpness": (ksam_jax.esam(groups=2, sync_ascent=False), set()),
    "three groups": (
        ksam_jax.k_momentum_sam(k=0.5, groups=4, sync_ascent=False),
        NO_CLEAN,
    ),
    "memory": (of_parts(ascent=remembered()), set()),
    "memories": (
        of_parts(ascent=remembered(), descent=remembered()),
        {"sharpness", "carried"},
    ),
    "past and memory": (
        of_parts(ascent=past_descent(), descent=remembered()),
        NO_CLEAN | {"carried"},
    ),
    "two draws": (
        of_parts(ascent=random_subset(2), descent=random_subset(2, seed=1)),
        {"sharpness", "carried"},
    ),
    "increase": (of_parts(descent=ksam_jax.largest_increase(0.5)), set()),
    "joined": (
        ksam_jax.join_methods([ksam_jax.sam(), ksam_jax.momentum_sam()], [2]),
        NO_CLEAN,
    ),
    "every": (ksam_jax.every(2, ksam_jax.momentum_sam(), ksam_jax.sam()), set()),
}


@contextlib.contextmanager
def debugged():
    with jax.debug_infs(True), jax.debug_nans(True):
        yield


def after(tx, form, steps=4, jit=True, batch=BATCH):
    loss_fn, has_aux = FORMS[form]

    def step(state):
        _, state = tx.update(None, state, W, loss_fn=loss_fn, batch=batch, has_aux=has_aux)
        return ksam_jax.take_aux(state)[1]

    step = jax.jit(step) if jit else step
    state = initial(tx, W)
    for _ in range(steps):
        state = step(state)
    return state


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", METHODS)
def test_no_method_makes_an_infinity_on_clean_data(name, form):
    tx, unknown = METHODS[name]
    with debugged():
        state = after(tx, form)
        after(tx, form, steps=2, jit=False)
    info = ksam_jax.get_info(state)
    found = {field for field, known in info.known._asdict().items() if not known}
    if form != "aux":  # With aux a pass over the whole batch runs at the weights.
        assert found == unknown
    for field, value in info._asdict().items():
        assert (float(value) == UNKNOWN) == (field in found)


def test_the_flag_stops_at_an_infinity():
    bad = BATCH | {"y": BATCH["y"] * np.float32(1e30)}
    with debugged(), pytest.raises(FloatingPointError, match="inf"):
        after(ksam_jax.sam(), "batch", batch=bad)


def test_the_mean_over_devices_of_what_is_unknown_is_unknown():
    # In seven parts a sum is rounded, and so is its division.
    tx = ksam_jax.momentum_sam(axis_name="data")
    seven = jax.tree.map(lambda x: np.stack([x] * 7), BATCH)

    def local(batch):
        return tx.update(None, tx.init(W), W, loss_fn=losses, batch=batch)[1].info

    info = jax.jit(jax.vmap(local, axis_name="data"))(seven)
    np.testing.assert_array_equal(info.loss, np.full(7, UNKNOWN))
    assert not info.known.sharpness.any()
    assert info.known.perturbed_loss.all()


def test_a_memory_with_infinities_of_a_saved_state_goes_on():
    tx, _ = METHODS["memories"]
    state = initial(tx, W)
    old = ksam_jax.RememberedLosses(jnp.full((2 * N,), jnp.inf))
    old = state._replace(ascent=old)
    found, expected = (
        tx.update(None, s, W, loss_fn=losses, batch=BATCH)[0] for s in (old, state)
    )
    np.testing.assert_array_equal(found["w"], expected["w"])


# ------------------------------------------------------------------- keys


def with_dropout(params, example):
    kept = jax.random.bernoulli(example["key"], 0.7, example["x"].shape)
    return one_loss(params, example | {"x": jnp.where(kept, example["x"], 0)})


def reusing(params, example):
    noise = jax.random.normal(example["key"], ()) + jax.random.normal(example["key"], ())
    return one_loss(params, example) + noise


def in_batch(example_loss):
    return jax.vmap(example_loss, in_axes=(None, 0))


KEEPS = ("auto", "all", "nothing")
DROPOUT = {
    "batch": in_batch(with_dropout),
    **{keep: ksam_jax.per_example(with_dropout, keep=keep) for keep in KEEPS},
}


# How the passes share work is the loss's: `k_sam` shares in each form.
DRAWING = ["sam", "k_sam", "esam", "k_momentum_sam", "look_sam"]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, form) for name in DRAWING for form in ("batch", "auto")),
        *(("k_sam", form) for form in ("all", "nothing")),
    ],
)
def test_both_passes_may_draw_from_one_key(name, form):
    tx, loss_fn = getattr(ksam_jax, name)(), DROPOUT[form]

    def step(keys):
        batch = BATCH | {"key": keys}
        return tx.update(None, tx.init(W), W, loss_fn=loss_fn, batch=batch)[0]

    expected = jax.jit(step)(jax.random.split(jax.random.key(1), N))
    with jax.debug_key_reuse(True):
        for run in (step, jax.jit(step)):
            found = run(jax.random.split(jax.random.key(1), N))
            np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-5)


def test_a_loss_that_uses_a_key_twice_is_still_found():
    tx = ksam_jax.sam()
    with (
        jax.debug_key_reuse(True),
        pytest.raises(jax.errors.KeyReuseError, match="consumed"),
    ):
        tx.update(
            None, tx.init(W), W, loss_fn=in_batch(reusing),
            batch=BATCH | {"key": jax.random.split(jax.random.key(1), N)},
        )  # fmt: skip
