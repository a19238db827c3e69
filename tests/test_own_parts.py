"""Parts that a user writes with public names, against sums written out in NumPy."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import ksam_jax
from ksam_jax import Chosen, Evidence, Selection

N, RHO = 8, 0.3
SLOPES = np.random.default_rng(5).normal(0.4, 1.0, (N, 3))
WEIGHTS = np.array([0.7, -1.2, 0.4])


def loss_fn(w: Any, batch: Any) -> jax.Array:
    """`a_i . w + c_i |w|^2 / 2`, whose gradient is a_i + c_i w."""
    return batch["a"] @ w + batch["c"] * jnp.sum(w * w) / 2


def make_batch(c: Any = 1.5) -> Any:
    return {"a": jnp.asarray(SLOPES), "c": jnp.full(N, c)}


def gradient(w: np.ndarray, weights: np.ndarray, c: float = 1.5) -> np.ndarray:
    """Of the weighted sum of the losses, with one weight per example."""
    return weights @ SLOPES + weights.sum() * c * w


def sam_by_hand(weights: np.ndarray, c: float = 1.5) -> np.ndarray:
    g = gradient(WEIGHTS, weights, c)
    return gradient(WEIGHTS + RHO * g / np.linalg.norm(g), weights, c)


def choosing(indices: Any, weights: Any, **kwargs: Any) -> Selection:
    def choose(evidence: Evidence, state: Any) -> Any:
        del evidence
        return Chosen(jnp.asarray(indices), jnp.asarray(weights)), state

    return Selection(choose, **kwargs)


def step(tx: Any, batch: Any = None, loss: Any = loss_fn, **extra: Any) -> Any:
    w = jnp.asarray(WEIGHTS)
    batch = make_batch() if batch is None else batch
    return tx.update(None, tx.init(w), w, loss_fn=loss, batch=batch, **extra)


def mesh_of(devices: int) -> jax.sharding.Mesh:
    kinds = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), kinds, devices=jax.devices()[:devices])


def both(selection: Selection, **common: Any) -> Any:
    climb = ksam_jax.scale_to_radius(RHO)
    return ksam_jax.sharpness_aware(climb, ascent=selection, descent=selection, **common)


@pytest.fixture(autouse=True)
def float64() -> Any:
    with jax.enable_x64(True):
        yield


def per_example_loss() -> Any:
    def one(w: Any, example: Any) -> jax.Array:
        return example["a"] @ w + example["c"] * jnp.sum(w * w) / 2

    return ksam_jax.per_example(one, keep="all")


# ------------------------------------------------------------------- weights


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("parts", [None, 2])
def test_the_gradient_is_the_weighted_sum(shared, parts):
    indices, weights = [6, 1, 3], [0.5, -0.25, 2.0]
    chosen = choosing(indices, weights, reads={"first"} if shared else ())
    loss = per_example_loss() if shared else loss_fn
    updates, state = step(both(chosen, num_microbatches=parts), loss=loss)
    dense = np.zeros(N)
    dense[indices] = weights
    np.testing.assert_allclose(updates, sam_by_hand(dense), rtol=1e-12)
    before = SLOPES @ WEIGHTS + 0.75 * WEIGHTS @ WEIGHTS
    g = gradient(WEIGHTS, dense)
    moved = WEIGHTS + RHO * g / np.linalg.norm(g)
    rise = SLOPES @ moved + 0.75 * moved @ moved - before
    sharpness = ksam_jax.get_info(state).sharpness
    assert float(sharpness) == pytest.approx(dense @ rise / dense.sum(), rel=1e-10)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("groups", [2, 4])
def test_groups_average_their_weighted_sums(groups, shared):
    """Each group chooses its first two rows, with weights 1.5 and 0.25."""
    chosen = choosing([0, 1], [1.5, 0.25], reads={"first"} if shared else ())
    loss = per_example_loss() if shared else loss_fn
    updates, _ = step(both(chosen, groups=groups), loss=loss)
    dense = np.zeros((groups, N // groups))
    dense[:, :2] = [1.5, 0.25]
    expected = sam_by_hand(dense.reshape(-1) / groups)
    np.testing.assert_allclose(updates, expected, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shared", [False, True])
def test_a_bad_row_of_weight_zero_is_never_run(bad, shared):
    c = np.full(N, 1.5)
    c[[2, 5]] = bad
    batch = {"a": jnp.asarray(SLOPES), "c": jnp.asarray(c)}
    chosen = choosing([2, 4, 5], [0.0, 1.0, 0.0], reads={"first"} if shared else ())
    loss = per_example_loss() if shared else loss_fn
    updates, _ = step(both(chosen), batch, loss)
    dense = np.zeros(N)
    dense[4] = 1.0
    np.testing.assert_allclose(updates, sam_by_hand(dense), rtol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_where_no_row_has_a_weight_the_gradient_is_zero(shared):
    """Of a batch whose first row is bad, and of a group of it that chooses nothing."""

    def above(evidence: Evidence, state: Any) -> Any:
        weights = jnp.where(evidence.first[:2] > 1e6, 1.0, 0.0)
        return Chosen(jnp.arange(2), weights), state

    c = np.full(N, 1.5)
    c[0] = np.nan
    batch = {"a": jnp.asarray(SLOPES), "c": jnp.asarray(c)}
    loss = per_example_loss() if shared else loss_fn
    selection = Selection(above, reads="first")
    assert not np.any(step(both(selection), batch, loss)[0])

    def last_two_of_the_second(evidence: Evidence, state: Any) -> Any:
        assert evidence.group is not None
        is_second = evidence.group == 1
        return Chosen(jnp.array([2, 3]), jnp.where(is_second, jnp.full(2, 0.5), 0.0)), state

    c = np.full(N, 1.5)
    c[[0, 2]] = np.nan
    batch = {"a": jnp.asarray(SLOPES), "c": jnp.asarray(c)}
    selection = Selection(last_two_of_the_second, reads="first")
    updates, _ = step(both(selection, groups=2), batch, loss)
    dense = np.zeros(N)
    dense[[6, 7]] = 0.25
    np.testing.assert_allclose(updates, sam_by_hand(dense), rtol=1e-12)


def test_indices_may_be_narrower_than_the_batch_is_large():
    batch = {"a": jnp.ones((300, 3)), "c": jnp.ones(300)}
    narrow = choosing(jnp.array([3, 100], jnp.int8), [0.5, 0.5])
    np.testing.assert_allclose(
        step(both(narrow), batch)[0], step(both(choosing([3, 100], [0.5, 0.5])), batch)[0]
    )


@pytest.mark.parametrize("outside", [-1, N, 2**40])
def test_a_row_out_of_range_makes_the_gradient_nan(outside):
    updates, _ = step(both(choosing([0, outside], [0.5, 0.5])))
    assert np.isnan(updates).all()


def test_losses_that_choose_are_constants_to_differentiation():
    """Weights made of the losses take no part in the derivative of the step."""

    def choose(evidence: Evidence, state: Any) -> Any:
        share = jax.nn.softmax(evidence.first)
        return Chosen(jnp.arange(N), share), state

    tx: Any = ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(0.0), descent=Selection(choose, reads={"clean"})
    )

    def total(w: Any) -> jax.Array:
        updates, _ = tx.update(None, tx.init(w), w, loss_fn=loss_fn, batch=make_batch())
        return jnp.sum(updates)

    # Constant weights that sum to 1: the Hessian of the sum is c times the identity.
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(WEIGHTS)), 1.5, rtol=1e-12)


# ----------------------------------------------------------------- mean_over


def k_sam_by_hand(chosen: list[int], divisor: float, c: float = 1.5) -> np.ndarray:
    dense = np.zeros(N)
    dense[chosen] = 1 / divisor
    return sam_by_hand(dense, c)


def hardest(count: int, skip: int = 0) -> list[int]:
    losses = SLOPES @ WEIGHTS
    return np.argsort(-losses, kind="stable")[skip : skip + count].tolist()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("mean_over", "divisor"), [("chosen", 3), ("batch", N)])
@pytest.mark.parametrize("options", [{}, {"skip": 2}, {"num_microbatches": 2}])
def test_k_sam_divides_by_the_chosen_or_by_the_batch(options, mean_over, divisor, shared):
    tx = ksam_jax.k_sam(rho=RHO, k=3, mean_over=mean_over, **options)
    updates, state = step(tx, loss=per_example_loss() if shared else loss_fn)
    chosen = hardest(3, options.get("skip", 0))
    expected = k_sam_by_hand(chosen, divisor)
    np.testing.assert_allclose(updates, expected, rtol=1e-12)
    # What it says of losses is a mean over the chosen in either case.
    mean = float(ksam_jax.get_info(state).sharpness)
    other = ksam_jax.k_sam(rho=RHO, k=3, **options)
    assert mean == pytest.approx(float(ksam_jax.get_info(step(other)[1]).sharpness))


@pytest.mark.parametrize(("mean_over", "divisor"), [("chosen", 2), ("batch", N)])
def test_with_bad_rows_the_mean_is_over_the_good_ones_or_over_n(mean_over, divisor):
    chosen = hardest(N)
    c = np.full(N, 1.5)
    c[chosen[2:]] = np.nan
    batch = {"a": jnp.asarray(SLOPES), "c": jnp.asarray(c)}
    updates, _ = step(ksam_jax.k_sam(rho=RHO, k=4, mean_over=mean_over), batch)
    expected = k_sam_by_hand(chosen[:2], divisor)
    np.testing.assert_allclose(updates, expected, rtol=1e-12)


@pytest.mark.parametrize("mean_over", ["chosen", "batch"])
def test_without_a_good_row_the_gradient_is_nan(mean_over):
    batch = {"a": jnp.asarray(SLOPES), "c": jnp.full(N, np.nan)}
    updates, _ = step(ksam_jax.k_sam(k=4, mean_over=mean_over), batch)
    assert np.isnan(updates).all()


@pytest.mark.parametrize("axis", [False, True])
@pytest.mark.parametrize(("mean_over", "share"), [("chosen", 2), ("batch", 4)])
def test_groups_and_devices_divide_by_their_own_sizes(mean_over, share, axis):
    """Two parts of four examples, of each of which two are chosen."""
    losses = SLOPES @ WEIGHTS
    chosen = [
        4 * g + i for g in range(2) for i in np.argsort(-losses[4 * g : 4 * g + 4])[:2]
    ]
    dense = np.zeros(N)
    dense[chosen] = 1 / share / 2
    if not axis:
        updates, _ = step(ksam_jax.k_sam(rho=RHO, k=2, mean_over=mean_over, groups=2))
    else:
        tx: Any = ksam_jax.k_sam(rho=RHO, k=2, mean_over=mean_over, axis_name="data")
        mesh = mesh_of(2)
        spread = jax.shard_map(
            lambda batch: step(tx, batch)[0], mesh=mesh, in_specs=P("data"), out_specs=P()
        )
        updates = spread(make_batch())
    np.testing.assert_allclose(updates, sam_by_hand(dense), rtol=1e-12)


def test_esam_and_random_subsets_divide_by_the_batch():
    """Over the batch the gradient is k / N of that over the chosen, with the same climb."""
    for make, share in (
        (lambda m: ksam_jax.esam(rho=RHO, gamma=2, mean_over=m), 2 / N),
        (lambda m: _descending(ksam_jax.random_subset(3, mean_over=m)), 3 / N),
        (lambda m: _descending(ksam_jax.largest_increase(3, mean_over=m)), 3 / N),
        (lambda m: ksam_jax.k_momentum_sam(k=3, mean_over=m), 3 / N),
    ):
        chosen, batch = step(make("chosen"))[0], step(make("batch"))[0]
        np.testing.assert_allclose(batch, share * np.asarray(chosen), rtol=1e-12)


def _descending(selection: Selection) -> Any:
    return ksam_jax.sharpness_aware(ksam_jax.scale_to_radius(RHO), descent=selection)


# ------------------------------------------------------------ a climb of one's own


def test_an_ascent_of_ones_own_climbs_along_its_state():
    """Along the way from a slow average of the weights, which it learns by itself."""
    ascent = ksam_jax.Ascent(
        direction=lambda anchor, params: params - anchor,
        init=lambda params: 0.5 * params,
        learn=lambda anchor, params, descent: 0.9 * anchor + 0.1 * (params - descent),
    )
    tx: Any = ksam_jax.sharpness_aware(ksam_jax.scale_to_radius(RHO), ascent=ascent)
    w, anchor = WEIGHTS, 0.5 * WEIGHTS
    state = tx.init(jnp.asarray(w))
    for _ in range(3):
        updates, state = tx.update(
            None, state, jnp.asarray(w), loss_fn=loss_fn, batch=make_batch()
        )
        away = w - anchor
        moved = w + RHO * away / np.linalg.norm(away)
        expected = gradient(moved, np.full(N, 1 / N))
        np.testing.assert_allclose(updates, expected, rtol=1e-12)
        anchor = 0.9 * anchor + 0.1 * (w - expected)
        np.testing.assert_allclose(state.ascent, anchor, rtol=1e-12)
        w = w - 0.1 * expected


def test_an_ascent_sees_the_perturbed_parameters_alone():
    seen: list[Any] = []

    def direction(state: Any, params: Any) -> Any:
        seen.append(params)
        return jax.tree.map(jnp.ones_like, params)

    ascent = ksam_jax.Ascent(direction)
    tx: Any = ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(RHO), ascent=ascent, mask={"w": True, "b": False}
    )
    params = {"w": jnp.ones(4), "b": jnp.ones(2)}
    _, state = tx.update(
        None,
        tx.init(params),
        params,
        loss_fn=lambda p, x: x * (jnp.sum(p["w"]) + jnp.sum(p["b"])),
        batch=jnp.ones(3),
    )
    assert isinstance(seen[0]["b"], optax.MaskedNode)
    assert float(ksam_jax.get_info(state).perturbed_loss) == pytest.approx(6 + 2 * RHO)


# ------------------------------------------------------------------- question 4


def watching(seen: list[Any]) -> Any:
    """Returns the ascent gradient for the update, and counts in a state of its own."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        seen.append((updates, params, extra))
        return extra["ascent_gradient"], state + 1

    return optax.GradientTransformationExtraArgs(lambda params: jnp.array(0), update)


def test_combine_is_given_both_gradients_and_the_climb_between_them():
    seen: list[Any] = []
    tx: Any = ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(RHO), combine=watching(seen)
    )
    updates, state = step(tx, label="mine")
    ((descent, params, extra),) = seen
    equal = np.full(N, 1 / N)
    g = gradient(WEIGHTS, equal)
    np.testing.assert_allclose(updates, g, rtol=1e-12)
    np.testing.assert_allclose(descent, sam_by_hand(equal), rtol=1e-12)
    np.testing.assert_allclose(extra["epsilon"], RHO * g / np.linalg.norm(g), rtol=1e-12)
    np.testing.assert_array_equal(params, WEIGHTS)
    assert extra["label"] == "mine"
    assert int(state.combine) == 1


@pytest.mark.parametrize("check_vma", [True, False])
def test_on_devices_combine_is_given_averages(check_vma):
    def difference(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params
        return updates - 3 * extra["ascent_gradient"] + extra["epsilon"], state

    combine = optax.GradientTransformationExtraArgs(optax.init_empty_state, difference)
    climb = ksam_jax.scale_to_radius(RHO)
    tx: Any = ksam_jax.sharpness_aware(climb, combine=combine, axis_name="data")
    mesh = mesh_of(4)
    spread = jax.shard_map(
        lambda batch: step(tx, batch)[0],
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P(),
        check_vma=check_vma,
    )
    one, _ = step(ksam_jax.sharpness_aware(climb, combine=combine))
    np.testing.assert_allclose(spread(make_batch()), one, rtol=1e-12)


@pytest.mark.parametrize("common", [{"axis_name": "data"}, {"groups": 2}])
def test_combine_needs_a_synchronized_climb(common):
    match = r"sharpness_aware\(sync_ascent=False\).*combine is given the two gradients"
    with pytest.raises(ValueError, match=match):
        ksam_jax.sharpness_aware(
            ksam_jax.scale_to_radius(RHO), combine=watching([]), sync_ascent=False, **common
        )


@pytest.mark.parametrize("bad", ["ascent", "descent"])
def test_a_combine_can_not_hide_a_gradient_that_overflowed(bad):
    """Clipping makes 1 of inf, and a loss scale would never fall."""
    w = jnp.ones(2)

    def overflows(w: Any, batch: Any) -> Any:
        # Of the step's two passes the one at w has the slope 1, the other is 0.5 away.
        is_here = jnp.all(lax.stop_gradient(w) == 1)
        steep = is_here == (bad == "ascent")
        return batch * jnp.sum(w) * jnp.where(steep, jnp.inf, 1.0)

    climb = ksam_jax.scale_to_radius(0.5)
    for combine in (optax.clip(1.0), optax.identity(), optax.zero_nans()):
        method = ksam_jax.sharpness_aware(climb, combine=combine)
        tx: Any = ksam_jax.dynamic_loss_scale(optax.chain(method, optax.sgd(0.1)))
        state = tx.init(w)
        for scale in (2.0**14, 2.0**13):
            updates, state = tx.update(None, state, w, loss_fn=overflows, batch=jnp.ones(3))
            assert not bool(state.finite)
            assert not np.any(updates)
            assert float(state.scale) == scale


def test_the_identity_is_no_reason_to_synchronize():
    tx = ksam_jax.sharpness_aware(
        ksam_jax.scale_to_radius(RHO),
        combine=optax.identity(),
        sync_ascent=False,
        groups=2,
    )
    assert np.isfinite(step(tx)[0]).all()


@pytest.mark.parametrize(
    "made", [lambda u: None, lambda u: u[:2], lambda u: u.astype(int), lambda u: "words"]
)
def test_a_combine_that_makes_no_updates_is_refused(made):
    combine = optax.stateless(lambda updates, params: made(updates))
    tx = ksam_jax.sharpness_aware(ksam_jax.scale_to_radius(RHO), combine=combine)
    match = r"sharpness_aware\(combine=\.\.\.\): combine must turn the descent gradient"
    with pytest.raises(ValueError, match=match):
        step(tx)


# ------------------------------------------------------------------- wrong parts


def test_what_choose_returns_is_looked_at():
    good = jnp.arange(2), jnp.ones(2)
    for returned, words in (
        (jnp.arange(2), "choose must return"),
        ((good[0], good[1]), "choose must return"),
        ((Chosen(good[0].astype(float), good[1]), ()), "integer indices"),
        ((Chosen(good[0], jnp.ones(3)), ()), r"both of shape \(k,\)"),
        ((Chosen(jnp.arange(0), jnp.ones(0)), ()), "k >= 1"),
        ((Chosen(*good), jnp.ones(2)), "choose must return a state"),
    ):

        def strange(evidence: Any, state: Any, returned: Any = returned) -> Any:
            return returned

        with pytest.raises((TypeError, ValueError), match=f"strange: {words}|{words}"):
            step(both(Selection(strange)))


def test_losses_that_nobody_reads_are_asked_for():
    def choose(evidence: Evidence, state: Any) -> Any:
        return Chosen(jnp.argsort(evidence.first)[:2], jnp.ones(2)), state

    with pytest.raises(ValueError, match=r'evidence\.first: .*reads=\{"first"\}'):
        step(both(Selection(choose)))


def test_a_number_of_examples_is_taken_as_users_give_it():
    evidence = Evidence(make_batch())
    assert [evidence.number(k) for k in (3, 0.25, 1.0)] == [3, 2, N]
    with pytest.raises(ValueError, match=r"evidence\.number\(k=0\): k must be"):
        evidence.number(0)


@pytest.mark.parametrize("common", [{}, {"groups": 2}])
def test_a_state_of_choose_that_depends_on_examples_is_refused(common):
    def last_highest(evidence: Evidence, state: Any) -> Any:
        chosen = Chosen(jnp.arange(2), jnp.full(2, 0.5))
        return chosen, jnp.maximum(state, jnp.max(evidence.first))

    selection = Selection(last_highest, reads="first", init=lambda: jnp.array(0.0))
    if not common:  # On one device all examples are there, and nothing can differ.
        assert float(step(both(selection))[1].ascent) == pytest.approx(
            np.max(SLOPES @ WEIGHTS + 0.75 * WEIGHTS @ WEIGHTS)
        )
        return
    match = "last_highest: the state that choose returns must not depend"
    with pytest.raises(ValueError, match=match):
        step(both(selection, **common))


@pytest.mark.parametrize("check_vma", [True, False])
def test_on_devices_it_is_refused_whether_or_not_types_tell(check_vma):
    def remembering(evidence: Evidence, state: Any) -> Any:
        return Chosen(jnp.arange(1), jnp.ones(1)), state + jnp.sum(evidence.batch["c"])

    selection = Selection(remembering, init=lambda: jnp.array(0.0))
    tx = both(selection, axis_name="data")
    spread = jax.shard_map(
        lambda batch: step(tx, batch)[0],
        mesh=mesh_of(2),
        in_specs=P("data"),
        out_specs=P(),
        check_vma=check_vma,
    )
    with pytest.raises(ValueError, match="remembering: the state that choose returns"):
        spread(make_batch())


def remembering(joins: bool) -> Selection:
    """The highest loss so far, of all devices' examples or of one's own."""

    def choose(evidence: Evidence, state: Any) -> Any:
        return Chosen(jnp.argsort(-evidence.first)[:1], jnp.ones(1)), state

    def learn(batch: Any, chosen: Chosen, losses: Any, state: Any, join: Any) -> Any:
        del batch, chosen
        return jnp.maximum(state, jnp.max(join(losses) if joins else losses))

    init = lambda: jnp.array(-jnp.inf)  # noqa: E731
    return Selection(choose, reads="first", init=init, learn=learn, call="remembering")


@pytest.mark.parametrize("check_vma", [True, False])
def test_what_is_learned_on_devices_goes_through_join(check_vma):
    def run(joins: bool) -> Any:
        tx = both(remembering(joins), axis_name="data")
        spread = jax.shard_map(
            lambda batch: step(tx, batch)[1].ascent,
            mesh=mesh_of(4),
            in_specs=P("data"),
            out_specs=P(),
            check_vma=check_vma,
        )
        return spread(make_batch())

    highest = np.max(SLOPES @ WEIGHTS + 0.75 * WEIGHTS @ WEIGHTS)
    assert float(run(True)) == pytest.approx(highest)
    with pytest.raises(ValueError, match="remembering: the state that learn returns must"):
        run(False)


def test_all_examples_leave_nothing_to_learn():
    with pytest.raises(ValueError, match="learn must come with a choose"):
        Selection(None, learn=lambda *args: args[3])


def test_the_plain_gradient_can_be_combined_too():
    seen: list[Any] = []
    updates, state = step(ksam_jax.mean_gradient(combine=watching(seen)))
    ((descent, _, extra),) = seen
    expected = gradient(WEIGHTS, np.full(N, 1 / N))
    for found in (updates, descent, extra["ascent_gradient"]):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert not np.any(extra["epsilon"])
    assert int(state.combine) == 1


def test_an_unknown_argument_is_named():
    unknown: dict[str, Any] = {"grups": 2}
    match = re.escape("k_sam(grups=...): there is no such argument")
    with pytest.raises(TypeError, match=match):
        ksam_jax.k_sam(**unknown)


# ----------------------------------------------- the arguments that all methods take


@pytest.mark.parametrize("static", [("k",), ("k", "groups", "num_microbatches")])
def test_inject_hyperparams_leaves_sizes_alone(static):
    inject = optax.inject_hyperparams(ksam_jax.k_sam, static_args=static)
    tx: Any = inject(rho=RHO, k=2, groups=2, num_microbatches=2)
    w = jnp.asarray(WEIGHTS)

    @jax.jit
    def jitted(state: Any) -> Any:
        return tx.update(None, state, w, loss_fn=loss_fn, batch=make_batch())

    state = tx.init(w)
    assert set(state.hyperparams) == {"rho"}
    expected, _ = step(ksam_jax.k_sam(rho=RHO, k=2, groups=2, num_microbatches=2))
    np.testing.assert_allclose(jitted(state)[0], expected, rtol=1e-12)


def test_inject_hyperparams_takes_no_mask_for_a_schedule():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}

    def biases(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim < 2, params)

    def radius(tx: Any) -> float:
        _, state = tx.update(
            None,
            tx.init(params),
            params,
            loss_fn=lambda p, x: x @ p["w"][0] + x @ p["w"][1] + jnp.sum(p["b"]),
            batch=jnp.asarray(SLOPES[:, :2]),
        )
        return float(ksam_jax.get_info(state).perturbation_norm)

    injected = optax.inject_hyperparams(ksam_jax.asam)
    expected = radius(ksam_jax.asam(0.5, adaptive_mask=biases))
    assert radius(injected(rho=0.5, adaptive_mask=biases)) == pytest.approx(expected)
    assert expected != pytest.approx(radius(ksam_jax.asam(0.5)), rel=1e-3)


@pytest.mark.parametrize("name", ["sam", "k_sam", "f_sam", "sharpness_aware"])
def test_help_shows_what_all_methods_take(name):
    method = getattr(ksam_jax, name)
    doc, shown = method.__doc__, inspect.signature(method).parameters
    for argument in ksam_jax.Common.__annotations__:
        assert shown[argument].kind == inspect.Parameter.KEYWORD_ONLY
        assert re.search(rf"^      {argument}: \w", doc, re.MULTILINE)
    assert "**common" not in doc
    assert "see `Common`" not in doc


def test_it_can_be_imported_without_docstrings():
    program = "import ksam_jax; assert ksam_jax.sam.__doc__ is None; ksam_jax.k_sam()"
    path = {**os.environ, "PYTHONPATH": str(Path(ksam_jax.__file__).parents[1])}
    subprocess.run([sys.executable, "-OO", "-c", program], check=True, env=path)


def test_a_signature_binds_values_as_they_are_but_for_numbers_and_functions():
    bind = inspect.signature(ksam_jax.sam).bind
    bound = bind(rho=0.1, axis_name="data", sync_ascent=False, mask={"w": True})
    assert bound.arguments == {
        "rho": 0.1, "axis_name": "data", "sync_ascent": False, "mask": {"w": True},
    }  # fmt: skip
