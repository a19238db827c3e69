"""The methods against independent references, in float64.

The references are `oracles` (naive NumPy), quadratics solved by hand, Optax's own
SAM, and identities between the methods.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax import lax
from problems import quick_jit, slow_but

import ksam_jax

STEPS, N, FEATURES, WIDTH, CLASSES = 22, 11, 3, 4, 3
LEARNING_RATE, MOMENTUM = 0.15, 0.9
BETA, SEED, M = 0.6, 7, 4
DATA_SET = 26  # examples that the batches draw from, for the methods with a memory


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


# ------------------------------------------------- the same network, in JAX


def batch_losses(params: Any, batch: Any) -> jax.Array:
    hidden = jnp.tanh(batch["x"] @ params["w1"] + params["b1"])
    logits = params["scale"] * (hidden @ params["w2"] + params["b2"])
    correct = jnp.take_along_axis(logits, batch["y"][:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - correct


def example_loss(params: Any, example: Any) -> jax.Array:
    hidden = jnp.tanh(example["x"] @ params["w1"] + params["b1"])
    logits = params["scale"] * (hidden @ params["w2"] + params["b2"])
    return jax.nn.logsumexp(logits) - logits[example["y"]]


def loss_in_form(form: str) -> Callable[..., Any]:
    """A batch-level loss, or `per_example` with one of its `keep`s."""
    if form == "batch":
        return batch_losses
    return ksam_jax.per_example(example_loss, keep=form)


@functools.cache
def start() -> oracles.Tree:
    rng = np.random.default_rng(3)
    return {
        "w1": rng.normal(0.1, 0.8, (FEATURES, WIDTH)),
        "b1": rng.normal(-0.2, 0.3, WIDTH),
        "w2": rng.normal(0.0, 0.9, (WIDTH, CLASSES)),
        "b2": rng.normal(0.1, 0.3, CLASSES),
        "scale": np.asarray(1.3),
    }


@functools.cache
def batches() -> list[oracles.Batch]:
    """A new batch for every step, with labels that can be learned in part."""
    rng = np.random.default_rng(4)
    teacher = rng.normal(0.0, 1.0, (FEATURES, CLASSES))
    found = []
    for _ in range(STEPS):
        x = rng.normal(0.3, 1.1, (N, FEATURES))
        noisy = x @ teacher + rng.normal(0.0, 1.0, (N, CLASSES))
        found.append(oracles.Batch(x, noisy.argmax(1).astype(np.int32)))
    return found


@functools.cache
def numbers() -> list[list[int]]:
    """The number in the data set of each example of each batch."""
    rng = np.random.default_rng(11)
    return [rng.permutation(DATA_SET)[:N].tolist() for _ in range(STEPS)]


def as_jax(params: oracles.Tree) -> Any:
    return {name: jnp.asarray(leaf) for name, leaf in params.items()}


def stacked() -> Any:
    x = np.stack([batch.inputs for batch in batches()])
    y = np.stack([batch.labels for batch in batches()])
    return {"x": jnp.asarray(x), "y": jnp.asarray(y), "index": jnp.asarray(numbers())}


class Trained(NamedTuple):
    params: Any
    info: Any


def train(method: Any, loss_fn: Callable[..., Any]) -> Trained:
    """`oracles.train` with the library: momentum SGD under one `lax.scan`."""
    tx: Any = optax.chain(method, optax.sgd(LEARNING_RATE, momentum=MOMENTUM))

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        updates, state = tx.update(None, state, params, loss_fn=loss_fn, batch=batch)
        params = optax.apply_updates(params, updates)
        return (params, state), ksam_jax.get_info(state)

    @quick_jit
    def run(params: Any, batches: Any) -> Trained:
        (params, _), info = lax.scan(step, (params, tx.init(params)), batches)
        return Trained(params, info)

    return run(as_jax(start()), stacked())


def one_step(method: Any, params: Any, loss_fn: Any, batch: Any) -> Any:
    """The first gradient and the state after it."""

    @quick_jit
    def step(params: Any, batch: Any) -> Any:
        state = method.init(params)
        return method.update(None, state, params, loss_fn=loss_fn, batch=batch)

    return step(params, batch)


# ------------------------------------- what the library drew, read from outside


def drawn_masks(per: str) -> list[oracles.Tree]:
    """The masks (0 or 1 / beta) of ESAM's first steps, seen on a tree of ones."""
    mask = ksam_jax.random_mask(BETA, seed=SEED, per=per)
    ones = jax.tree.map(jnp.ones_like, as_jax(start()))

    def step(state: Any, _: None) -> Any:
        drawn, state = mask.update(ones, state, ones)
        return state, drawn

    _, drawn = lax.scan(step, mask.init(ones), length=STEPS)
    return [
        {name: np.asarray(leaf)[t] for name, leaf in drawn.items()} for t in range(STEPS)
    ]


def drawn_subsets() -> list[list[int]]:
    """The random subsets of the first steps.

    Example i has the loss w_i^2 / 2, so the descent gradient is (w + eps) / N: only
    the weights of the examples that the ascent used have moved away from 1.
    """
    tx: Any = ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(1.0), ascent=ksam_jax.random_subset(M, seed=SEED)
    )
    w = jnp.ones(N)

    def step(state: Any, _: None) -> Any:
        gradient, state = tx.update(
            None,
            state,
            w,
            loss_fn=lambda w, index: w[index] ** 2 / 2,
            batch=jnp.arange(N),
        )
        return state, gradient * N > 1.0 + 1e-6

    _, moved = lax.scan(step, tx.init(w), length=STEPS)
    return [np.flatnonzero(row).tolist() for row in np.asarray(moved)]


# ------------------------------------------------------------------- the table


def rising() -> optax.Schedule:
    """A radius from 0.05 to 0.4, in float64 (Optax's own schedules stay in float32)."""

    def rho(count: Any) -> jax.Array:
        return 0.05 + 0.35 * jnp.minimum(count.astype(jnp.float64) / 15, 1.0)

    return rho


def rising_by_hand(t: int) -> float:
    return 0.05 + 0.35 * min(t / 15, 1.0)


def constant(rho: float) -> oracles.Schedule:
    return lambda t: rho


def f_sam_on_k(sigma: float, decay: float, k: float) -> Any:
    return ksam_jax.sharpness_aware(
        optax.chain(
            ksam_jax.subtract_ema(sigma=sigma, decay=decay),
            ksam_jax.scale_to_radius(rising()),
        ),
        ascent=ksam_jax.highest_loss(k),
        descent=ksam_jax.highest_loss(k),
    )


def remembered_k_sam(k: Any) -> Any:
    hardest = ksam_jax.highest_remembered_loss(k, DATA_SET)
    climb = ksam_jax.scale_to_radius(rising())
    return ksam_jax.sharpness_aware(climb, ascent=hardest, descent=hardest)


def remembered_momentum_sam(decay: float, k: Any) -> Any:
    return ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(rising()),
        ascent=ksam_jax.past_descent(decay),
        descent=ksam_jax.highest_remembered_loss(k, DATA_SET),
    )


class Case(NamedTuple):
    method: Callable[[], Any]
    oracle: Callable[[], oracles.Method]


CASES = {
    "sam": Case(lambda: ksam_jax.sam(rho=rising()), lambda: oracles.sam(rising_by_hand)),
    "asam": Case(
        lambda: ksam_jax.asam(rho=rising(), eta=0.02),
        lambda: oracles.asam(rising_by_hand, eta=0.02),
    ),
    "random_sam": Case(
        lambda: ksam_jax.random_sam(rho=rising(), m=M, seed=SEED),
        lambda: oracles.random_sam(rising_by_hand, drawn_subsets()),
    ),
    "k_sam": Case(
        lambda: ksam_jax.k_sam(rho=rising(), k=0.25),
        lambda: oracles.k_sam(rising_by_hand, 0.25),
    ),
    "k_sam of five": Case(
        lambda: ksam_jax.k_sam(rho=0.1, k=5), lambda: oracles.k_sam(constant(0.1), 5)
    ),
    "esam": Case(
        lambda: ksam_jax.esam(rho=rising(), beta=BETA, gamma=0.5, seed=SEED),
        lambda: oracles.esam(rising_by_hand, 0.5, drawn_masks("coordinate")),
    ),
    "esam by tensor": Case(
        lambda: ksam_jax.esam(
            rho=rising(), beta=BETA, gamma=0.5, seed=SEED, mask_per="tensor"
        ),
        lambda: oracles.esam_by_tensor(rising_by_hand, 0.5, BETA, drawn_masks("tensor")),
    ),
    "f_sam": Case(
        lambda: ksam_jax.f_sam(rho=0.2, sigma=0.8, decay=0.6),
        lambda: oracles.f_sam(constant(0.2), 0.8, 0.6),
    ),
    "f_sam on the highest losses": Case(
        lambda: f_sam_on_k(1.0, 0.9, 0.25),
        lambda: oracles.f_sam(rising_by_hand, 1.0, 0.9, k=0.25),
    ),
    "k_sam that skips": Case(
        lambda: ksam_jax.k_sam(rho=rising(), k=0.25, skip=2),
        lambda: oracles.k_sam(rising_by_hand, 0.25, 2),
    ),
    "momentum_sam": Case(
        lambda: ksam_jax.momentum_sam(rho=rising(), decay=0.9),
        lambda: oracles.momentum_sam(rising_by_hand, 0.9),
    ),
    "momentum_sam of decay 0": Case(
        lambda: ksam_jax.momentum_sam(rho=0.1, decay=0.0),
        lambda: oracles.momentum_sam(constant(0.1), 0.0),
    ),
    "k_momentum_sam": Case(
        lambda: ksam_jax.k_momentum_sam(rho=rising(), k=0.25, decay=0.9),
        lambda: oracles.momentum_sam(rising_by_hand, 0.9, 0.25),
    ),
    "k_momentum_sam that skips": Case(
        lambda: ksam_jax.k_momentum_sam(rho=0.1, k=4, decay=0.6, skip=0.2),
        lambda: oracles.momentum_sam(constant(0.1), 0.6, 4, 0.2),
    ),
    "k_sam over the batch": Case(
        lambda: ksam_jax.k_sam(rho=rising(), k=0.25, skip=1, mean_over="batch"),
        lambda: oracles.k_sam(rising_by_hand, 0.25, 1, mean_over="batch"),
    ),
    "esam over the chosen": Case(
        lambda: ksam_jax.esam(rho=0.1, beta=BETA, gamma=4, seed=SEED, mean_over="chosen"),
        lambda: oracles.esam(
            constant(0.1), 4, drawn_masks("coordinate"), mean_over="chosen"
        ),
    ),
    "k_momentum_sam over the batch": Case(
        lambda: ksam_jax.k_momentum_sam(rho=0.1, k=4, decay=0.6, mean_over="batch"),
        lambda: oracles.momentum_sam(constant(0.1), 0.6, 4, mean_over="batch"),
    ),
    "le_sam": Case(
        lambda: ksam_jax.le_sam(sigma=rising(), max_rho=0.3),
        lambda: oracles.le_sam(rising_by_hand, 0.3),
    ),
    "adaptive_momentum_sam": Case(
        lambda: ksam_jax.adaptive_momentum_sam(rho=rising(), eta=0.02, decay=0.9),
        lambda: oracles.adaptive_momentum_sam(rising_by_hand, 0.02, 0.9),
    ),
    "vasso": Case(
        lambda: ksam_jax.vasso(rho=rising(), theta=0.4),
        lambda: oracles.vasso(rising_by_hand, 0.4),
    ),
    "gsam": Case(
        lambda: ksam_jax.gsam(rho=rising(), alpha=0.4),
        lambda: oracles.gsam(rising_by_hand, 0.4),
    ),
    "look_sam": Case(
        lambda: ksam_jax.look_sam(rho=0.1, alpha=0.7, period=4),
        lambda: oracles.look_sam(constant(0.1), 0.7, 4),
    ),
    "k_sam after plain steps": Case(
        lambda: ksam_jax.join_methods(
            [ksam_jax.mean_gradient(), ksam_jax.k_sam(rho=rising(), k=0.25)], [8]
        ),
        lambda: oracles.joined([oracles.plain(), oracles.k_sam(rising_by_hand, 0.25)], [8]),
    ),
    "f_sam in every third step": Case(
        lambda: ksam_jax.every(
            3, ksam_jax.f_sam(0.2, 0.8, 0.6), otherwise=ksam_jax.mean_gradient()
        ),
        lambda: oracles.every(3, oracles.f_sam(constant(0.2), 0.8, 0.6), oracles.plain()),
    ),
    "remembered k_sam": Case(
        lambda: remembered_k_sam(0.25),
        lambda: oracles.remembered_k_sam(rising_by_hand, 0.25, numbers()),
    ),
    "remembered momentum_sam": Case(
        lambda: remembered_momentum_sam(0.9, 4),
        lambda: oracles.remembered_momentum_sam(rising_by_hand, 0.9, 4, numbers()),
    ),
}
# Only where a subset is chosen does `keep` decide how its gradient is found.
SUBSET_METHODS = (
    "random_sam",
    "k_sam",
    "esam",
    "f_sam on the highest losses",
    "k_momentum_sam",
)
ONE_FORM = ("k_sam that skips", "momentum_sam of decay 0", "k_momentum_sam that skips")
ONE_FORM = (*ONE_FORM, "le_sam", "gsam", "look_sam", "f_sam in every third step")
MOMENTUM_METHODS = [name for name in CASES if "momentum" in name]


@functools.cache
def reference(name: str) -> oracles.Run:
    run = CASES[name].oracle()
    return oracles.train(run, start(), batches(), LEARNING_RATE, MOMENTUM)


@functools.cache
def trained(name: str, form: str) -> Trained:
    return train(CASES[name].method(), loss_in_form(form))


def check_trees_equal(actual: Any, expected: Any, rtol: float = 1e-10) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


# -------------------------------------------------- the oracle itself is right


def test_the_oracle_gradient_equals_finite_differences():
    params, batch, h = start(), batches()[0], 1e-6
    gradient = oracles.mean_gradient(params, batch, [0, 3, 4])
    for name, leaf in params.items():
        for index in np.ndindex(leaf.shape):
            moved = []
            for sign in (1.0, -1.0):
                copy = {key: value.copy() for key, value in params.items()}
                copy[name][index] += sign * h
                moved.append(oracles.mean_loss(copy, batch, [0, 3, 4]))
            slope = (moved[0] - moved[1]) / (2 * h)
            assert gradient[name][index] == pytest.approx(slope, abs=1e-8)


def test_the_oracle_loss_equals_the_jax_loss():
    batch = batches()[0]
    given = {"x": jnp.asarray(batch.inputs), "y": jnp.asarray(batch.labels)}
    expected = oracles.losses(start(), batch)
    np.testing.assert_allclose(batch_losses(as_jax(start()), given), expected, rtol=1e-13)


def test_the_runs_learn_and_select_different_examples():
    """Otherwise the comparison below would compare runs in which nothing happens."""
    run = reference("k_sam")
    assert run.loss[-1] < 0.7 * run.loss[0]
    assert len({tuple(step.descent_examples) for step in run.steps}) > STEPS // 2
    assert len({tuple(subset) for subset in drawn_subsets()}) > STEPS // 2


@pytest.mark.parametrize("name", ["remembered k_sam", "remembered momentum_sam"])
def test_the_remembering_runs_choose_among_examples_seen_before(name):
    """Otherwise the comparison below would be one of examples that are all new."""
    seen: set[int] = set()
    chosen_again, left_although_seen = 0, 0
    for step, batch_numbers in zip(reference(name).steps, numbers(), strict=True):
        places = step.descent_examples
        chosen_again += sum(batch_numbers[place] in seen for place in places)
        left = set(range(N)) - set(places)
        left_although_seen += sum(batch_numbers[place] in seen for place in left)
        seen |= {batch_numbers[place] for place in places}
    assert chosen_again > STEPS
    assert left_although_seen > STEPS
    # What it remembers isn't what it would find by looking.
    fresh = [
        oracles.highest(oracles.losses(start(), batch), len(step.descent_examples))
        for step, batch in zip(reference(name).steps, batches(), strict=True)
    ]
    assert [step.descent_examples for step in reference(name).steps] != fresh


# ------------------------------------------------- every method, every form


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, "batch") for name in CASES]
    + [(name, "all") for name in CASES if name not in ONE_FORM]
    + [
        pytest.param(name, form, marks=pytest.mark.slow)
        for name in SUBSET_METHODS
        for form in ("nothing", "matmuls")
    ],
)
def test_method_equals_the_numpy_reference_over_momentum_steps(name, form):
    check_trees_equal(trained(name, form).params, reference(name).params)


@pytest.mark.parametrize("name", slow_but(("k_sam", "esam", "random_sam", "f_sam"), CASES))
def test_info_holds_the_norms_of_the_reference(name):
    info, steps = trained(name, "batch").info, reference(name).steps
    ascent = [oracles.norm(step.ascent) for step in steps]
    applied = [oracles.norm(step.perturbation) for step in steps]
    np.testing.assert_allclose(info.ascent_norm, ascent, rtol=1e-9)
    np.testing.assert_allclose(info.perturbation_norm, applied, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("form", ["batch", "all"])
@pytest.mark.parametrize("name", ["sam", "asam", "k_sam", "f_sam", "gsam"])
def test_info_holds_loss_sharpness_and_cosine_of_the_reference(name, form):
    info, run = trained(name, form).info, reference(name)
    np.testing.assert_allclose(info.loss, run.loss, rtol=1e-9)
    np.testing.assert_allclose(info.sharpness, run.sharpness, rtol=1e-7, atol=1e-11)
    np.testing.assert_allclose(info.cosine, run.cosine, rtol=1e-9)


@pytest.mark.parametrize("name", ["sam", "f_sam"])
def test_perturbed_loss_is_the_clean_loss_plus_the_sharpness(name):
    info, run = trained(name, "batch").info, reference(name)
    expected = np.add(run.loss, run.sharpness)
    np.testing.assert_allclose(info.perturbed_loss, expected, rtol=1e-9)


@pytest.mark.parametrize("form", ["batch", "all"])
def test_info_of_remembered_k_sam_is_of_the_examples_it_used(form):
    info, run = trained("remembered k_sam", form).info, reference("remembered k_sam")
    np.testing.assert_allclose(info.sharpness, run.sharpness, rtol=1e-7, atol=1e-11)
    np.testing.assert_allclose(info.cosine, run.cosine, rtol=1e-9)
    # The batch's own mean would need a pass that isn't spent.
    assert not np.allclose(info.loss, run.loss, rtol=1e-3)


@pytest.mark.parametrize("name", MOMENTUM_METHODS)
def test_info_holds_the_cosine_between_the_momentum_climb_and_the_descent(name):
    first, *later = reference(name).steps
    expected = [oracles.cosine(step.ascent, step.gradient) for step in later]
    info = trained(name, "batch").info
    np.testing.assert_allclose(info.cosine, [0.0, *expected], rtol=1e-9)
    assert oracles.norm(first.ascent) == 0.0


@pytest.mark.parametrize("name", MOMENTUM_METHODS)
def test_info_of_a_climb_without_a_pass_is_unknown_where_it_needs_one(name):
    info = trained(name, "batch").info
    assert (np.asarray(info.loss) == 2.0**100).all()
    assert not np.any(info.known.loss)
    assert not np.any(info.known.sharpness)
    if "remembered" not in name:  # That one never sees the whole batch.
        expected = reference(name).perturbed_loss
        np.testing.assert_allclose(info.perturbed_loss, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["esam", "esam by tensor"])
def test_info_loss_of_esam_is_the_mean_clean_loss(name):
    info = trained(name, "batch").info
    np.testing.assert_allclose(info.loss, reference(name).loss, rtol=1e-9)


# -------------------------------------------------- methods that are each other


DEGENERATE = {
    "k_sam(k=1.0)": lambda rho: ksam_jax.k_sam(rho, k=1.0),
    "k_sam(k=N)": lambda rho: ksam_jax.k_sam(rho, k=N),
    "random_sam(m=1.0)": lambda rho: ksam_jax.random_sam(rho, m=1.0),
    "esam(beta=1)": lambda rho: ksam_jax.esam(rho, beta=1, gamma=1.0),
    "esam(beta=1) by tensor": lambda rho: ksam_jax.esam(
        rho, beta=1.0, gamma=1.0, mask_per="tensor"
    ),
    "f_sam(sigma=0)": lambda rho: ksam_jax.f_sam(rho, sigma=0),
    "sharpness_aware": lambda rho: ksam_jax.sharpness_aware(ksam_jax.scale_to_radius(rho)),
}


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, "batch") for name in DEGENERATE]
    + [
        pytest.param(name, "all", marks=pytest.mark.slow)
        for name in ("k_sam(k=1.0)", "random_sam(m=1.0)", "esam(beta=1)")
    ],
)
def test_method_with_everything_chosen_and_nothing_masked_is_sam(name, form):
    found = train(DEGENERATE[name](rising()), loss_in_form(form))
    check_trees_equal(found.params, trained("sam", form).params)


@pytest.mark.parametrize(("k", "form"), [(N, "batch"), (1.0, "all")])
def test_k_momentum_sam_with_everything_chosen_is_momentum_sam(k, form):
    tx = ksam_jax.k_momentum_sam(rising(), k=k, decay=0.9)
    found = train(tx, loss_in_form(form))
    check_trees_equal(found.params, trained("momentum_sam", form).params)


@pytest.mark.parametrize("form", ["batch", "all"])
def test_sam_of_radius_zero_is_the_plain_gradient(form):
    plain = oracles.train(
        oracles.plain(), start(), batches(), LEARNING_RATE, MOMENTUM
    ).params
    check_trees_equal(train(ksam_jax.sam(rho=0.0), loss_in_form(form)).params, plain)


def test_a_gradient_handed_in_gives_the_same_step():
    params = as_jax(start())
    batch = jax.tree.map(lambda leaf: leaf[0], stacked())
    tx = ksam_jax.sam(rho=0.3)

    @quick_jit
    def from_a_gradient(params: Any, batch: Any) -> Any:
        given = jax.grad(lambda p: batch_losses(p, batch).mean())(params)
        return tx.update(given, tx.init(params), params, loss_fn=batch_losses, batch=batch)

    with jax.debug_nans(True):  # What isn't known is not NaN.
        given, state = from_a_gradient(params, batch)
    computed, _ = one_step(tx, params, batch_losses, batch)
    check_trees_equal(given, computed, rtol=1e-13)
    info = ksam_jax.get_info(state)
    assert [float(info.loss), float(info.sharpness)] == [2.0**100, 2.0**100]
    assert info.perturbed_loss < 2.0**100


def test_the_sharpness_is_unknown_if_the_two_passes_share_no_example():
    tx = ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(0.5),
        ascent=ksam_jax.random_subset(1, seed=0),
        descent=ksam_jax.random_subset(1, seed=1),
    )
    w, batch = jnp.asarray([3.0, 1.0]), jnp.asarray([0.5, 1.0, 1.5])
    with jax.debug_nans(True):
        _, state = one_step(tx, w, bowls, batch)
    info = ksam_jax.get_info(state)
    assert float(info.sharpness) == 2.0**100
    assert info.loss + info.perturbed_loss < 2.0**100


# -------------------------------------------------------------- other libraries


def test_sam_equals_optax_contrib_sam():
    rho = 0.23
    inner = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    outer = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    peer = optax.contrib.sam(outer, inner, opaque_mode=True)

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry

        def gradient(p: Any, _: Any = None) -> Any:
            return jax.grad(lambda p: batch_losses(p, batch).mean())(p)

        updates, state = peer.update(gradient(params), state, params, grad_fn=gradient)
        return (optax.apply_updates(params, updates), state), None

    params = as_jax(start())
    with jax.numpy_dtype_promotion("standard"):
        carry = (params, peer.init(params))
        (expected, _), _ = lax.scan(step, carry, stacked())
    check_trees_equal(train(ksam_jax.sam(rho), batch_losses).params, expected)


# --------------------------------------------------------------- solved by hand

# Example i has the loss c_i (x^2 + 4 y^2) / 2 with c = 1/2, 1, 3/2: at (3, 1) the mean
# gradient is (3, 4), of length 5.


def bowls(w: jax.Array, batch: jax.Array) -> jax.Array:
    x, y = w.ravel()
    return batch * (x**2 + 4 * y**2) / 2


def bowl_steps(tx: Any, *points: Any) -> list[list[float]]:
    """The descent gradients at one point after the other."""
    batch = jnp.asarray([0.5, 1.0, 1.5])

    def step(state: Any, point: Any) -> Any:
        gradient, state = tx.update(None, state, point, loss_fn=bowls, batch=batch)
        return state, gradient.ravel()

    stacked_points = jnp.asarray(points)
    _, found = lax.scan(step, tx.init(stacked_points[0]), stacked_points)
    return found.tolist()


def test_sam_on_a_bowl_solved_by_hand():
    # eps = 0.5 (3, 4) / 5 = (0.3, 0.4), so the gradient is taken at (3.3, 1.4).
    found = bowl_steps(ksam_jax.sam(rho=0.5), [3.0, 1.0])
    assert found == [pytest.approx([3.3, 5.6], abs=1e-12)]


def test_k_sam_on_a_bowl_solved_by_hand():
    # The steepest bowl alone, 1.5 times the above, and eps is the same.
    found = bowl_steps(ksam_jax.k_sam(rho=0.5, k=1, mean_over="chosen"), [3.0, 1.0])
    assert found == [pytest.approx([4.95, 8.4], abs=1e-12)]


def test_gradient_handed_in_is_the_one_climbed_along():
    # Not the bowl's own: eps = 0.5 (4, 3) / 5, so the gradient is taken at (3.4, 1.3).
    tx, w = ksam_jax.sam(rho=0.5), jnp.asarray([3.0, 1.0])
    found, _ = tx.update(
        jnp.asarray([4.0, 3.0]),
        tx.init(w),
        w,
        loss_fn=bowls,
        batch=jnp.asarray([0.5, 1.0, 1.5]),
    )
    np.testing.assert_allclose(np.asarray(found), [3.4, 5.2], atol=1e-12)


def test_asam_on_a_bowl_solved_by_hand():
    # T = |w| + 1 = (4, 2), T g = (12, 8) of length 4 sqrt(13), T^2 g = (48, 16);
    # with rho = sqrt(13) / 4 that is eps = (3, 1), and the gradient is at (6, 2).
    tx = ksam_jax.asam(rho=math.sqrt(13) / 4, eta=1.0)
    assert bowl_steps(tx, [[3.0, 1.0]]) == [pytest.approx([6.0, 8.0], abs=1e-12)]


def test_asam_treats_a_vector_like_sam_by_default():
    tx = ksam_jax.asam(rho=0.5, eta=1.0)
    assert bowl_steps(tx, [3.0, 1.0]) == [pytest.approx([3.3, 5.6], abs=1e-12)]


def test_asam_adapts_a_vector_if_its_mask_says_so():
    tx = ksam_jax.asam(rho=math.sqrt(13) / 4, eta=1.0, adaptive_mask=True)
    assert bowl_steps(tx, [3.0, 1.0]) == [pytest.approx([6.0, 8.0], abs=1e-12)]


def test_f_sam_on_a_bowl_solved_by_hand():
    # Step 0 is SAM: eps = sqrt(5) (3, 4) / 5, and m = (3, 4).
    # Step 1 at (0, 2.5): g = (0, 10), d = (-3, 6), eps = (-1, 2), m = (1.5, 7).
    # Step 2 at (3.5, 2.75): g = (3.5, 11), d = (2, 4), eps = (1, 2).
    tx = ksam_jax.f_sam(rho=math.sqrt(5), sigma=1.0, decay=0.5)
    found = bowl_steps(tx, [3.0, 1.0], [0.0, 2.5], [3.5, 2.75])
    first = [3 + 3 / math.sqrt(5), 4 + 16 / math.sqrt(5)]
    expected = [first, [-1.0, 18.0], [4.5, 19.0]]
    assert found == [pytest.approx(step, abs=1e-12) for step in expected]


def test_momentum_sam_on_a_bowl_solved_by_hand():
    # Without decay m is the last gradient: step 0 at (3, 1) is plain, u = m = (3, 4).
    # Step 1 at (3.3, 1.4): eps = -0.5 (3, 4) / 5, so u is taken at (3, 1) again.
    tx = ksam_jax.momentum_sam(rho=0.5, decay=0.0)
    found = bowl_steps(tx, [3.0, 1.0], [3.3, 1.4])
    assert found == [pytest.approx([3.0, 4.0], abs=1e-12)] * 2


def test_momentum_sam_averages_past_gradients_solved_by_hand():
    # Step 0 at (3, 1): u = (3, 4), m = (1.5, 2).
    # Step 1 at (10.8, -0.1): eps = (-0.3, -0.4), u = (10.5, -2), m = (6, 0).
    # Step 2 at (4.5, 2): eps = (-0.5, 0), u = (4, 8).
    tx = ksam_jax.momentum_sam(rho=0.5, decay=0.5)
    found = bowl_steps(tx, [3.0, 1.0], [10.8, -0.1], [4.5, 2.0])
    expected = [[3.0, 4.0], [10.5, -2.0], [4.0, 8.0]]
    assert found == [pytest.approx(step, abs=1e-12) for step in expected]


@pytest.mark.parametrize(("skip", "factor"), [(0, 1.5), (0.3, 1.0)])
def test_k_momentum_sam_on_a_bowl_solved_by_hand(skip, factor):
    # One bowl alone, the one below the `skip` steepest; eps doesn't depend on which.
    tx = ksam_jax.k_momentum_sam(rho=0.5, k=1, decay=0.7, skip=skip, mean_over="chosen")
    found = bowl_steps(tx, [3.0, 1.0], [3.3, 1.4])
    assert found == [pytest.approx([3.0 * factor, 4.0 * factor], abs=1e-12)] * 2


def test_k_sam_that_skips_on_a_bowl_solved_by_hand():
    # The flattest bowl alone, half as steep as the mean of the three.
    found = bowl_steps(ksam_jax.k_sam(rho=0.5, k=1, skip=2, mean_over="chosen"), [3.0, 1.0])
    assert found == [pytest.approx([1.65, 2.8], abs=1e-12)]


def test_esam_descends_on_the_example_that_rose_most_solved_by_hand():
    # Losses 6x and 8y: the mean gradient is (3, 4), eps = rho (0.6, 0.8), and the
    # losses rise by 3.6 rho and 6.4 rho although 6x is the higher loss.
    tx = ksam_jax.esam(rho=0.1, beta=1.0, gamma=0.5)
    w, slopes = jnp.asarray([5.0, 1.0]), jnp.asarray([[6.0, 0.0], [0.0, 8.0]])
    gradient, state = one_step(tx, w, lambda w, slopes: slopes @ w, slopes)
    np.testing.assert_allclose(gradient, [0.0, 4.0], atol=1e-12)
    assert float(ksam_jax.get_info(state).loss) == pytest.approx(19.0)


# -------------------------------------------------------------------- invariants


def linear_layers(params: Any, batch: Any) -> jax.Array:
    out = batch["x"] @ params["w1"] @ params["w2"]
    return ((out - batch["t"]) ** 2).sum(1)


def perturbed_loss(tx: Any, params: Any) -> float:
    rng = np.random.default_rng(6)
    batch = {"x": rng.normal(0.2, 1, (N, 4)), "t": rng.normal(0.1, 1, (N, 2))}
    _, state = one_step(tx, params, linear_layers, batch)
    return float(ksam_jax.get_info(state).perturbed_loss)


def test_only_asam_is_invariant_under_rescaling_consecutive_linear_layers():
    rng = np.random.default_rng(5)
    w1, w2 = (
        jnp.asarray(rng.normal(0, 1, (4, 3))),
        jnp.asarray(rng.normal(0, 1, (3, 2))),
    )
    before, after = {"w1": w1, "w2": w2}, {"w1": w1 * 3.7, "w2": w2 / 3.7}
    adaptive, plain = ksam_jax.asam(rho=0.6, eta=0.0), ksam_jax.sam(rho=0.6)
    assert perturbed_loss(adaptive, after) == pytest.approx(
        perturbed_loss(adaptive, before), rel=1e-12
    )
    ratio = perturbed_loss(plain, after) / perturbed_loss(plain, before)
    assert abs(ratio - 1) > 0.05


def test_f_sam_at_sigma_one_points_where_the_papers_formula_points():
    """The paper's g - m_t and the code's g - m_{t-1} are parallel at sigma = 1."""
    decay, rng = 0.7, np.random.default_rng(8)
    gradients = rng.normal(0.3, 1.0, (12, 5))
    tx = optax.chain(
        ksam_jax.subtract_ema(sigma=1.0, decay=decay), ksam_jax.scale_to_radius(1.0)
    )

    def step(state: Any, g: Any) -> Any:
        direction, state = tx.update(g, state)
        return state, direction

    _, found = lax.scan(step, tx.init(jnp.zeros(5)), jnp.asarray(gradients))
    m = gradients[0]
    for g, direction in zip(gradients[1:], found[1:], strict=True):
        before, m = m, decay * m + (1 - decay) * g
        np.testing.assert_allclose(g - m, decay * (g - before), atol=1e-14)
        expected = (g - m) / np.linalg.norm(g - m)
        np.testing.assert_allclose(direction, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["sam", "k_sam", "random_sam", "remembered k_sam"])
def test_applied_perturbation_has_the_scheduled_radius(name):
    expected = [rising_by_hand(t) for t in range(STEPS)]
    norms = trained(name, "batch").info.perturbation_norm
    np.testing.assert_allclose(norms, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["momentum_sam", "k_momentum_sam"])
def test_applied_perturbation_has_the_scheduled_radius_after_the_first_step(name):
    expected = [0.0] + [rising_by_hand(t) for t in range(1, STEPS)]
    norms = trained(name, "batch").info.perturbation_norm
    np.testing.assert_allclose(norms, expected, rtol=1e-9)


def test_applied_perturbation_of_f_sam_has_radius_rho():
    norms = trained("f_sam", "batch").info.perturbation_norm
    np.testing.assert_allclose(norms, 0.2, rtol=1e-9)


def test_applied_perturbation_of_esam_by_tensor_is_rho_over_beta_or_nothing():
    kept = [any(leaf.any() for leaf in mask.values()) for mask in drawn_masks("tensor")]
    radius = [rising_by_hand(t) / BETA * any_kept for t, any_kept in enumerate(kept)]
    assert sum(kept) > STEPS // 2
    norms = trained("esam by tensor", "batch").info.perturbation_norm
    np.testing.assert_allclose(norms, radius, rtol=1e-9)


@pytest.mark.parametrize("beta", [0.3, 0.8])
def test_applied_perturbation_of_esam_is_about_rho_over_root_beta(beta):
    w = jnp.asarray(np.random.default_rng(9).normal(0.5, 1.0, 4000))
    tx = ksam_jax.esam(rho=0.2, beta=beta, gamma=0.5, seed=2)
    batch = jnp.asarray([0.5, 1.0, 1.5])
    _, state = one_step(tx, w, lambda w, c: c * (w @ w) / 2, batch)
    norm = float(ksam_jax.get_info(state).perturbation_norm)
    assert norm == pytest.approx(0.2 / math.sqrt(beta), rel=0.1)
