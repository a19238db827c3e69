"""What stands around a method in Optax's chains, what ranks and trains, and exports."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from jax import export
from problems import assert_close

import ksam_jax

RHO, RATE = 0.3, 0.1
WEIGHTS = np.array([1.0, -2.0, 0.5])
ROWS = np.random.default_rng(3).normal(0.3, 1.0, (8, 3))


def loss_fn(w: Any, batch: Any) -> jax.Array:
    return jnp.square(batch @ w - 1)


def gradient(w: np.ndarray, rows: np.ndarray = ROWS) -> np.ndarray:
    return 2 * (rows @ w - 1) @ rows / len(rows)


def sam_by_hand(w: np.ndarray, climb: np.ndarray | None = None) -> np.ndarray:
    g = gradient(w) if climb is None else climb
    return gradient(w + RHO * g / np.linalg.norm(g))


def step(tx: Any, updates: Any = None, jit: bool = False) -> Any:
    w, batch = jnp.asarray(WEIGHTS), jnp.asarray(ROWS)

    def run(state: Any) -> Any:
        return tx.update(updates, state, w, loss_fn=loss_fn, batch=batch)

    # Optax's own arithmetic mixes dtypes, which the tests of ours forbid.
    with jax.numpy_dtype_promotion("standard"):
        return (jax.jit(run) if jit else run)(tx.init(w))


# ------------------------------------------------------------- behind the method


def test_a_plateau_behind_k_sam_sees_the_loss():
    """Of a loss that doesn't fall the second step is halved."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
    tx: Any = ksam_jax.hand_on_loss(ksam_jax.k_sam(k=3), plateau)
    w, batch = jnp.asarray(WEIGHTS), jnp.asarray(ROWS)
    state, found = tx.init(w), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(2):
            updates, state = tx.update(None, state, w, loss_fn=loss_fn, batch=batch)
            found.append(np.asarray(updates))
    np.testing.assert_allclose(found[1], 0.5 * found[0], rtol=1e-6)
    mean = np.mean(np.square(ROWS @ WEIGHTS - 1))
    np.testing.assert_allclose(state[1].best_value, mean, rtol=1e-6)


# --------------------------------------------------------- in front of the method

# All of these leave None as it is, without a word.
FRONT: dict[str, Any] = {
    "clip_by_global_norm": optax.clip_by_global_norm(1.0),
    "clip": optax.clip(1.0),
    "clip_by_block_rms": optax.clip_by_block_rms(1.0),
    "add_decayed_weights": optax.add_decayed_weights(0.1),
    "scale": optax.scale(2.0),
    "scale_by_schedule": optax.scale_by_schedule(optax.constant_schedule(0.1)),
    "scale_by_rms": optax.scale_by_rms(),
    "normalize_by_update_norm": optax.normalize_by_update_norm(),
    "trace": optax.trace(0.9),
    "ema": optax.ema(0.9),
    "add_noise": optax.add_noise(0.1, 0.5, 0),
    "centralize": optax.centralize(),
    "zero_nans": optax.zero_nans(),
    "set_to_zero": optax.set_to_zero(),
    "stateless": optax.stateless(lambda updates, params: updates),
    "masked": optax.masked(optax.clip(1.0), True),
    "partition": optax.partition({"all": optax.clip(1.0)}, "all"),
    "apply_if_finite": optax.apply_if_finite(optax.clip(1.0), 3),
    "trace and scale": optax.sgd(0.1, momentum=0.9),
}
PLACES: dict[str, Any] = {
    "chain": lambda t, m: optax.chain(t, m, optax.sgd(RATE)),
    "named": lambda t, m: optax.named_chain(("in_front", t), ("method", m)),
    "nested": lambda t, m: optax.chain(optax.chain(optax.identity(), t), optax.chain(m)),
    "later": lambda t, m: optax.chain(
        optax.identity(), optax.named_chain(("a", t), ("b", optax.chain(m)))
    ),
    "scaled": lambda t, m: ksam_jax.dynamic_loss_scale(optax.chain(t, m)),
    "outside": lambda t, m: optax.chain(t, ksam_jax.dynamic_loss_scale(optax.chain(m))),
    "injected": lambda t, m: optax.chain(
        t, optax.inject_hyperparams(lambda rate: optax.chain(m, optax.sgd(rate)))(rate=0.1)
    ),
    "behind it a line search": lambda t, m: optax.chain(
        t, ksam_jax.hand_on_loss(m, optax.lbfgs())
    ),
    "in one of several": lambda t, m: ksam_jax.every(
        2, optax.chain(t, m), optax.chain(m, optax.identity())
    ),
    "several": lambda t, m: optax.chain(t, ksam_jax.join_methods([m, m], [1])),
}


def refused(tx: Any, names: str, method: str = "sam", given: Any = (None,)) -> None:
    stands = "stand" if " and " in names else "stands"
    match = re.escape(f"{names} {stands} in front of {method}, where there is no gradient")
    for jit in (False, True):
        for updates in given:
            with pytest.raises(ValueError, match=match):
                step(tx, updates, jit)


@pytest.mark.parametrize("name", FRONT)
def test_what_would_have_no_effect_in_front_is_refused(name):
    refused(PLACES["chain"](FRONT[name], ksam_jax.sam()), name)


@pytest.mark.parametrize("place", PLACES)
def test_so_it_is_however_deep_the_two_stand(place):
    tx = PLACES[place](optax.clip(1.0), ksam_jax.sam())
    refused(tx, "clip", given=(None, (), {}))


@pytest.mark.parametrize(
    "method", ["k_sam", "esam", "momentum_sam", "mean_gradient", "look_sam", "gsam"]
)
def test_so_it_is_of_every_method(method):
    refused(optax.chain(optax.clip(1.0), getattr(ksam_jax, method)()), "clip", method)


@pytest.mark.parametrize(
    "name", ["scale_by_adam", "scale_by_lion", "adaptive_grad_clip", "apply_every"]
)
def test_what_cannot_take_nothing_fails_by_itself(name):
    args = (0.1,) if name == "adaptive_grad_clip" else ()
    with pytest.raises(ValueError, match="None"):
        step(optax.chain(getattr(optax, name)(*args), ksam_jax.sam()))


@pytest.mark.parametrize(
    "nothing",
    [
        optax.identity(),
        optax.chain(optax.identity(), optax.identity()),
        optax.named_chain(("nothing", optax.with_extra_args_support(optax.identity()))),
    ],
)
@pytest.mark.parametrize("place", ["chain", "nested", "outside", "several"])
def test_nothing_may_stand_in_front(nothing, place):
    found, _ = step(PLACES[place](nothing, ksam_jax.sam(rho=RHO)))
    expected = sam_by_hand(WEIGHTS) * (-RATE if place == "chain" else 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_a_gradient_that_is_handed_in_may_be_clipped_before(jit):
    """By coordinate, which turns it: the climb is along what came out."""
    tx = optax.chain(optax.clip(0.5), ksam_jax.sam(rho=RHO))
    given = gradient(WEIGHTS)
    clipped = np.clip(given, -0.5, 0.5)
    assert not np.allclose(given / np.linalg.norm(given), clipped / np.linalg.norm(clipped))
    found, _ = step(tx, updates=jnp.asarray(given), jit=jit)
    np.testing.assert_allclose(found, sam_by_hand(WEIGHTS, clipped), rtol=1e-5)


def test_a_training_within_a_loss_is_no_part_of_the_chain_around_it():
    """The outer chain has a gradient; the inner one begins with None."""
    inner: Any = optax.chain(ksam_jax.sam(rho=RHO), optax.sgd(RATE))

    def trained(w: Any) -> Any:
        updates, _ = inner.update(
            None, inner.init(w), w, loss_fn=loss_fn, batch=jnp.asarray(ROWS)
        )
        return jnp.mean(loss_fn(w + updates, jnp.asarray(ROWS)))

    outer: Any = optax.chain(optax.clip(9.0), optax.scale_by_backtracking_linesearch(3))
    w = jnp.asarray(WEIGHTS)
    value, grad = jax.value_and_grad(trained)(w)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = outer.update(
            -grad, outer.init(w), w, value=value, grad=grad, value_fn=trained
        )
    assert float(trained(w + updates)) < float(value)


# -------------------------------------------- optimizers with weights of their own


def test_lookahead_behind_a_method_takes_fast_steps_and_slow_ones():
    tx: Any = optax.chain(
        ksam_jax.sam(rho=RHO), optax.lookahead(optax.sgd(RATE, momentum=0.5), 2, 0.5)
    )
    params: Any = optax.LookaheadParams.init_synced(jnp.asarray(WEIGHTS))
    state = tx.init(params)
    update = jax.jit(
        lambda s, p: tx.update(None, s, p, loss_fn=loss_fn, batch=jnp.asarray(ROWS))
    )
    fast = slow = WEIGHTS
    velocity = np.zeros(3)
    for number in range(1, 6):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = update(state, params)
        params = optax.apply_updates(params, updates)
        velocity = sam_by_hand(fast) + 0.5 * velocity
        fast = fast - RATE * velocity
        if number % 2 == 0:
            fast = slow = slow + 0.5 * (fast - slow)
        np.testing.assert_allclose(params.fast, fast, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(params.slow, slow, rtol=2e-5, atol=1e-6)


def test_lookahead_around_a_method_is_told_where_it_goes():
    around = optax.lookahead(optax.chain(ksam_jax.sam(), optax.sgd(RATE)), 2, 0.5)
    tx: Any = optax.chain(around)
    params = optax.LookaheadParams.init_synced(jnp.asarray(WEIGHTS))
    with pytest.raises(ValueError, match=r"loss_fn is missing[^$]*lookahead.*goes behind"):
        tx.update(None, tx.init(params), params, loss_fn=loss_fn, batch=jnp.asarray(ROWS))


def test_schedule_free_s_weights_come_from_its_part_of_the_state():
    """x is the mean of the z so far, and gradients are taken at .9 x + .1 z."""
    tx: Any = optax.chain(
        ksam_jax.sam(rho=RHO), optax.contrib.schedule_free(optax.sgd(RATE), RATE, b1=0.9)
    )
    params: Any = jnp.asarray(WEIGHTS)
    state = tx.init(params)
    x = y = z = WEIGHTS
    for number in range(1, 5):
        updates, state = tx.update(
            None, state, params, loss_fn=loss_fn, batch=jnp.asarray(ROWS)
        )
        params = optax.apply_updates(params, updates)
        z = z - RATE * sam_by_hand(y)
        x = x + (z - x) / number
        y = 0.9 * x + 0.1 * z
        found: Any = optax.contrib.schedule_free_eval_params(state[-1], params)
        np.testing.assert_allclose(params, y, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(found, x, rtol=2e-5, atol=2e-6)


# ------------------------------------------------- what ranks, and what trains

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "combine.md"


def token_mean(k: Any) -> Any:
    """As the page defines it."""
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(def token_mean.*?)^```$", text, re.M | re.S)
    names: dict[str, Any] = {"jax": jax, "jnp": jnp, "ksam_jax": ksam_jax}
    exec(block.split("\n\n\n")[0], names)
    return names["token_mean"](k)


def by_tokens(k: Any, rho: float, **common: Any) -> Any:
    chosen = token_mean(k)
    climb = ksam_jax.scale_to_radius(rho)
    return ksam_jax.sharpness_aware(climb, ascent=chosen, descent=chosen, **common)


@pytest.mark.parametrize("rho", [0.0, 0.5])
@pytest.mark.parametrize("shared", [False, True])
def test_a_mean_over_tokens_of_the_sequences_with_the_highest_means(rho, shared):
    """Sequences of 1, 10 and 2 tokens, losses 3, 2 and 1 per token at w = (1, 1, 1).

    The first two are chosen. Of their 11 tokens 1 and 10 train, at a loss of
    l_i = a_i |w_i|^2 with a = (3, 2, 1): the gradient is 2 a_i w_i weighed by 1/11, 10/11.
    """
    a = np.array([3.0, 2.0, 1.0])
    one = lambda w, row: row["a"] @ (w * w)  # noqa: E731
    batch = {"a": jnp.asarray(np.diag(a)), "tokens": jnp.array([1, 10, 2])}
    whole = lambda w, rows: rows["a"] @ (w * w)  # noqa: E731
    loss = ksam_jax.per_example(one) if shared else whole
    w = jnp.ones(3)
    tx: Any = by_tokens(2, rho)
    updates, state = tx.update(None, tx.init(w), w, loss_fn=loss, batch=batch)
    share = np.array([1 / 11, 10 / 11, 0.0])
    climb = 2 * a * share
    at = np.ones(3) + rho * climb / np.linalg.norm(climb)
    np.testing.assert_allclose(updates, 2 * a * share * at, rtol=1e-6)
    info = ksam_jax.get_info(state)
    np.testing.assert_allclose(info.loss, 2.0, rtol=1e-6)  # the mean of the three means
    np.testing.assert_allclose(info.perturbed_loss, share @ (a * at * at), rtol=1e-6)
    # A mean of means gives the one token of the first as much as ten of the second.
    plain: Any = ksam_jax.k_sam(rho=0.0, k=2, mean_over="chosen")
    of_means, _ = plain.update(None, plain.init(w), w, loss_fn=loss, batch=batch)
    np.testing.assert_allclose(of_means, [3.0, 2.0, 0.0], rtol=1e-6)


def test_a_mean_over_tokens_leaves_bad_sequences_out():
    batch = {"a": jnp.array([jnp.nan, 2.0, 1.0]), "tokens": jnp.array([5, 10, 0])}
    tx: Any = by_tokens(1.0, 0.0)
    w = jnp.array(1.0)
    updates, _ = tx.update(
        None, tx.init(w), w, loss_fn=lambda w, b: b["a"] * w, batch=batch
    )
    np.testing.assert_allclose(updates, 2.0)


# ------------------------------------------------ programs for any number of examples


@pytest.fixture
def _symbols():
    """A symbol stands for an int, which is not what it is to a checker of types."""
    jaxtyping.config.update("jaxtyping_disable", True)
    with jax.numpy_dtype_promotion("standard"):
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


def exported(method: Any, loss: Any = loss_fn) -> Any:
    """A step of the method, for N that is left open, as `jax.export` makes it."""
    w = jnp.asarray(WEIGHTS)
    state = method.init(w)

    def run(batch: Any) -> Any:
        updates, after = method.update(None, state, w, loss_fn=loss, batch=batch)
        return updates, ksam_jax.get_info(after)

    (n,) = export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, 3), jnp.asarray(ROWS).dtype)
    return export.export(jax.jit(run))(shape).call, run


@pytest.mark.usefixtures("_symbols")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "method",
    [
        ksam_jax.sam(),
        ksam_jax.momentum_sam(),
        ksam_jax.k_sam(k=2),
        ksam_jax.k_sam(k=2, skip=1, mean_over="chosen"),
        ksam_jax.k_momentum_sam(k=3),
        ksam_jax.esam(gamma=2),
        ksam_jax.every(2, ksam_jax.k_sam(k=2)),
        ksam_jax.hand_on_loss(ksam_jax.sam(), optax.polyak_sgd()),
    ],
)
def test_a_number_of_examples_that_is_open_exports_with_a_number_as_k(method, shared):
    one = lambda w, row: jnp.square(row @ w - 1)  # noqa: E731
    call, run = exported(method, ksam_jax.per_example(one) if shared else loss_fn)
    for n in (5, 8):
        batch = jnp.asarray(ROWS[:n])
        assert_close(call(batch), run(batch), 1e-5, 1e-5)


@pytest.mark.usefixtures("_symbols")
def test_of_fewer_examples_than_k_all_are_taken():
    """Which a program for a known N refuses; this one can't."""
    call, _ = exported(ksam_jax.k_sam(k=3, rho=0.0, mean_over="chosen"))
    updates, info = call(jnp.asarray(ROWS[:2]))
    np.testing.assert_allclose(updates, gradient(WEIGHTS, ROWS[:2]), rtol=1e-5)
    assert float(info.examples) == 1.0


@pytest.mark.usefixtures("_symbols")
@pytest.mark.parametrize(
    ("method", "match"),
    [
        (ksam_jax.k_sam(k=0.25), r"k_sam\(k=0.25\): k must be an integer"),
        (ksam_jax.k_sam(k=2, skip=0.5), r"k_sam\(skip=0.5\): skip must be an integer"),
        (ksam_jax.k_sam(), r"k_sam\(k=by_coverage\(.*\)\): k must be an integer"),
        (ksam_jax.k_momentum_sam(), r"k_momentum_sam\(k=by_coverage.* must be an integer"),
        (ksam_jax.esam(), r"esam\(gamma=0.5\): gamma must be an integer"),
        (ksam_jax.random_sam(m=0.5), r"random_sam\(m=0.5\): m must be an integer"),
        (ksam_jax.random_sam(m=2), r"random_sam\(m=2\): a random subset must be drawn"),
        (ksam_jax.sam(num_microbatches=2), r"num_microbatches must divide .* divide n"),
        (ksam_jax.k_sam(k=1, groups=2), r"groups must divide .* divide n"),
    ],
)
def test_a_share_of_an_open_number_is_refused(method, match):
    with pytest.raises(ValueError, match=match):
        exported(method)


@pytest.mark.usefixtures("_symbols")
def test_the_mean_over_an_open_number_of_examples_is_over_those_that_come():
    call, _ = exported(ksam_jax.sam(rho=RHO))
    updates, info = call(jnp.asarray(ROWS))
    np.testing.assert_allclose(updates, sam_by_hand(WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(info.loss, np.mean(np.square(ROWS @ WEIGHTS - 1)), rtol=1e-5)
