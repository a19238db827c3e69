"""Optimizers that look at the loss, behind a method, beside steps written by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from problems import assert_close, assert_same, slow_but

import ksam_jax

N = 8
WEIGHTS = {"a": np.array([1.0, -2.0, 0.5]), "b": np.array(0.3)}
ROWS = np.random.default_rng(3).normal(0.3, 1.0, (N, 3))


def loss_fn(p: Any, batch: Any) -> jax.Array:
    quartic = jnp.sum(jnp.square(jnp.square(p["a"])))
    return jnp.square(batch @ p["a"] - 1 + p["b"]) + 0.1 * quartic


def weights(dtype: Any = None) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), WEIGHTS)


def rows(dtype: Any = None) -> jax.Array:
    return jnp.asarray(ROWS, dtype)


def mean_at(batch: Any) -> Any:
    return lambda p: jnp.mean(loss_fn(p, batch))


def gradient_fn(params: Any) -> Any:
    return jax.grad(mean_at(rows()))(params)


def step(tx: Any, updates: Any = None, params: Any = None, **extra: Any) -> Any:
    params = weights() if params is None else params
    given = {"loss_fn": loss_fn, "batch": rows()} | extra
    return tx.update(updates, tx.init(params), params, **given)


def in_steps(tx: Any, steps: int, params: Any, batch: Any, **extra: Any) -> Any:
    """Weights and state after so many steps under `lax.scan`."""

    def one(carry: Any, _: None) -> Any:
        p, state = carry
        given = {"loss_fn": loss_fn} | extra
        updates, state = tx.update(None, state, p, batch=batch, **given)
        return (optax.apply_updates(p, updates), state), None

    return jax.lax.scan(one, (params, tx.init(params)), None, length=steps)[0]


def of_optax() -> Any:
    """Optax's own arithmetic mixes dtypes, which the tests of ours forbid."""
    return jax.numpy_dtype_promotion("standard")


# --------------------------------------------- behind: what looks at the loss

SEARCHES: dict[str, Any] = {
    "backtracking": optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5, store_grad=True)
    ),
    "zoom": optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(8)),
    "lbfgs": optax.lbfgs(),
}
OPTIMIZERS: dict[str, Any] = {
    "plateau": optax.chain(
        optax.contrib.reduce_on_plateau(patience=1, rtol=0.9), optax.sgd(0.05)
    ),
    "polyak": optax.polyak_sgd(),
    "momo": optax.contrib.momo(),
    "momo_adam": optax.contrib.momo_adam(0.3),
    "sophia": optax.contrib.sophia(0.1),
    **SEARCHES,
}
METHODS: dict[str, Any] = {
    "k_sam": ksam_jax.k_sam(k=3),
    "sam": ksam_jax.sam(),
    "momentum_sam": ksam_jax.momentum_sam(),
    "every": ksam_jax.every(2, ksam_jax.k_sam(k=2)),
    "random_sam": ksam_jax.random_sam(m=3),
    "chained": optax.chain(ksam_jax.esam(), optax.clip_by_global_norm(1.0)),
    "injected": optax.inject_hyperparams(ksam_jax.sam)(rho=0.05),
    "joined": ksam_jax.join_methods([ksam_jax.mean_gradient(), ksam_jax.sam()], [2]),
}


def by_hand(method: Any, optimizer: Any, steps: int, params: Any, batch: Any) -> Any:
    """The same steps with all that an optimizer may ask for, computed apart."""
    mean = mean_at(batch)
    method = optax.with_extra_args_support(method)
    optimizer = optax.with_extra_args_support(optimizer)
    states = method.init(params), optimizer.init(params)
    update = jax.jit(lambda s, p: method.update(None, s, p, loss_fn=loss_fn, batch=batch))
    for _ in range(steps):
        grad, first = update(states[0], params)
        extra = {"value": mean(params), "grad": grad, "value_fn": mean}
        try:
            found = optimizer.update(grad, states[1], params, **extra)
        except ValueError:  # Sophia asks for the loss by another name.
            found = optimizer.update(grad, states[1], params, obj_fn=mean)
        states = first, found[1]
        params = optax.apply_updates(params, found[0])
    return params


# What one of these does with the loss is in no method, so each is met by some others.
QUICK = (
    "k_sam plateau", "sam polyak", "momentum_sam momo", "sam momo_adam", "k_sam sophia",
    "every backtracking", "momentum_sam zoom", "k_sam lbfgs", "chained lbfgs",
)  # fmt: skip
_TURNED = [
    f"{list(METHODS)[(number + more) % len(METHODS)]} {optimizer}"
    for number, optimizer in enumerate(OPTIMIZERS)
    for more in (0, 3)
]
PAIRS = {name: tuple(name.split(" ")) for name in dict.fromkeys((*QUICK, *_TURNED))}


@pytest.mark.parametrize("x64", slow_but([True], [True, False]))
@pytest.mark.parametrize("pair", slow_but(QUICK, PAIRS))
def test_an_optimizer_behind_gets_what_it_asks_for(pair, x64):
    method, optimizer = PAIRS[pair]
    with of_optax(), jax.enable_x64(x64):
        tx = ksam_jax.hand_on_loss(METHODS[method], OPTIMIZERS[optimizer])
        start, batch = weights(float), rows(float)
        found, _ = jax.jit(lambda p: in_steps(tx, 4, p, batch))(start)
        expected = by_hand(METHODS[method], OPTIMIZERS[optimizer], 4, start, batch)
        assert found["a"].dtype == (jnp.float64 if x64 else jnp.float32)
        tolerance = 1e-9 if x64 else 2e-5
        assert_close(found, expected, tolerance, tolerance)
        assert not np.allclose(found["a"], start["a"], atol=1e-3)


def listening(heard: list[Any]) -> Any:
    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params
        heard.append((updates, extra))
        return updates, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


OTHERS = "mean_gradient asam esam f_sam vasso k_momentum_sam adaptive_momentum_sam gsam"
ALL: dict[str, Any] = {
    **METHODS,
    **{name: getattr(ksam_jax, name)() for name in f"{OTHERS} look_sam le_sam".split()},
    "by_coverage": ksam_jax.k_sam(),
    "grouped": ksam_jax.k_sam(k=0.5, groups=2, sync_ascent=False),
    "microbatches": ksam_jax.random_sam(m=4, num_microbatches=4),
}
PER_EXAMPLE = ksam_jax.per_example(lambda p, row: loss_fn(p, row[None])[0])


def told(tx_of: Any, updates: Any = None, **extra: Any) -> Any:
    """What an optimizer behind is given, beside what comes out."""
    heard: list[Any] = []
    out = step(tx_of(listening(heard)), updates, **extra)
    ((grad, given),) = heard
    return grad, given, out


def is_mean_loss(grad: Any, given: dict[str, Any]) -> None:
    """Whether all three are those of the mean loss, the gradient as it was made."""
    assert set(given) == {"value", "grad", "value_fn", "obj_fn", "mine"}
    assert given["mine"] == 7
    assert_same(given["grad"], grad)
    elsewhere = jax.tree.map(lambda w: 0.5 * w - 0.1, weights())
    mean = mean_at(rows())
    np.testing.assert_allclose(given["value"], mean(weights()), rtol=1e-6)
    for name in ("value_fn", "obj_fn"):
        np.testing.assert_allclose(given[name](elsewhere), mean(elsewhere), rtol=1e-6)
        slope = jax.grad(given[name])(elsewhere)
        assert_close(slope, jax.grad(mean)(elsewhere), 1e-5, 1e-5)


KINDS: dict[str, Any] = {
    "batch": {},
    "per_example": {"loss_fn": PER_EXAMPLE},
    "aux": {"loss_fn": lambda p, b: (loss_fn(p, b), jnp.sum(b)), "has_aux": True},
}


@pytest.mark.parametrize(
    "method", slow_but(("k_sam", "momentum_sam", "random_sam", "chained"), ALL)
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_value_is_the_mean_loss_at_the_weights_whatever_a_step_runs(method, kind):
    def made(optimizer: Any) -> Any:
        return ksam_jax.hand_on_loss(ALL[method], optimizer)

    grad, given, (updates, state) = told(made, mine=7, **KINDS[kind])
    is_mean_loss(grad, given)
    assert_same(updates, grad)
    aux, rest = ksam_jax.take_aux(state)
    assert (aux is None) == (kind != "aux")
    initial = made(optax.identity()).init(weights())
    assert jax.tree.structure(rest) == jax.tree.structure(initial)


@pytest.mark.parametrize("method", ["sam", "f_sam", "mean_gradient"])
def test_so_it_is_of_a_gradient_that_is_handed_in(method):
    def made(optimizer: Any) -> Any:
        return ksam_jax.hand_on_loss(ALL[method], optimizer)

    grad, given, _ = told(made, gradient_fn(weights()), mine=7)
    is_mean_loss(grad, given)


@pytest.mark.parametrize("search", slow_but(["zoom"], SEARCHES))
def test_a_line_search_bears_extra_arguments_of_others(search):
    with of_optax():
        tx = ksam_jax.hand_on_loss(ksam_jax.sam(), SEARCHES[search])
        assert_same(step(tx, mine=jnp.ones(2), others=loss_fn)[0], step(tx)[0])


def test_a_value_of_the_users_own_goes_before_ours():
    heard: list[Any] = []
    tx = ksam_jax.hand_on_loss(ksam_jax.sam(), listening(heard))
    step(tx, value=3.0)
    step(tx, value_fn=jnp.sum)
    (_, first), (_, second) = heard
    assert first["value"] == 3.0
    assert second["value_fn"] is jnp.sum
    assert "obj_fn" not in second  # an optimizer that has its own wouldn't know it


def test_polyak_s_step_is_the_loss_over_the_squared_gradient():
    """At w = 3 of w^2 / 2: the value is 4.5, the gradient that at 3.25."""
    tx = ksam_jax.hand_on_loss(ksam_jax.sam(rho=0.25), optax.polyak_sgd(10.0))
    loss = lambda w, b: jnp.square(w * b) / 2  # noqa: E731
    given = {"loss_fn": loss, "batch": jnp.ones(4)}
    with of_optax():
        updates, _ = step(tx, params=jnp.array(3.0), **given)
    np.testing.assert_allclose(updates, -4.5 / 3.25, rtol=1e-6)


# Optax's L-BFGS begins with weak types, and so has a program for its first step.
@pytest.mark.parametrize(("optimizer", "programs"), [("plateau", 1), ("lbfgs", 2)])
def test_its_state_is_that_of_a_chain_and_lives_as_one(optimizer, programs, tmp_path):
    inner = ksam_jax.k_sam(k=3), OPTIMIZERS[optimizer]
    tx: Any = ksam_jax.hand_on_loss(*inner)
    with of_optax():
        # Optax's L-BFGS begins with one buffer in two places.
        state = jax.tree.map(jnp.copy, tx.init(weights()))
        assert jax.tree.structure(state) == jax.tree.structure(
            optax.chain(*inner).init(weights())
        )
        update = jax.jit(
            lambda s, p: tx.update(None, s, p, loss_fn=loss_fn, batch=rows()),
            donate_argnums=0,
        )
        for _ in range(3):
            _, state = update(state, weights())
        saved = tmp_path / "state.npz"
        np.savez(saved, *jax.tree.leaves(state))
        with np.load(saved) as file:
            leaves = [jnp.asarray(file[f"arr_{i}"]) for i in range(len(file.files))]
        restored = jax.tree.unflatten(jax.tree.structure(tx.init(weights())), leaves)
        assert_same(update(restored, weights()), update(state, weights()))
        assert update._cache_size() == programs  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "optimizer", slow_but(["polyak"], ["plateau", "polyak", "momo", "backtracking"])
)
def test_weights_of_bfloat16_stay_so(optimizer):
    with of_optax():
        tx = ksam_jax.hand_on_loss(ksam_jax.k_sam(k=3), OPTIMIZERS[optimizer])
        start, batch = weights(jnp.bfloat16), rows(jnp.bfloat16)
        updates, state = step(tx, params=start, batch=batch)
        assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
        wide, _ = step(tx, params=weights(), batch=rows())
        assert_close(jax.tree.map(lambda u: u.astype(float), updates), wide, 0.1, 0.02)
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(start))


def test_runs_over_radii_go_under_vmap():
    def after(rho: Any) -> Any:
        tx = ksam_jax.hand_on_loss(ksam_jax.sam(rho=rho), optax.lbfgs())
        return in_steps(tx, 3, weights(), rows())[0]

    with of_optax():
        both = jax.vmap(after)(jnp.array([0.05, 0.4]))
        for number, rho in enumerate((0.05, 0.4)):
            own = jax.tree.map(lambda x: x[number], both)
            assert_close(own, after(rho), 1e-5, 1e-5)


@pytest.mark.parametrize("search", slow_but(["zoom"], SEARCHES))
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: optax.chain(m, optax.identity())])
@pytest.mark.parametrize("how", ["types", "no types", "vmap"])
@pytest.mark.parametrize("parts", slow_but([None], [None, 2]))
def test_all_devices_take_the_step_of_one(search, wrap, how, parts):
    """The line search's loss is that of all; a wrapped method's axis is known, too."""
    common: dict[str, Any] = {"axis_name": "data", "num_microbatches": parts}
    method = wrap(ksam_jax.sam(**common))
    tx = ksam_jax.hand_on_loss(method, SEARCHES[search])

    def run(batch: Any) -> Any:
        return in_steps(tx, 3, weights(), batch)[0]

    with of_optax():
        alone = ksam_jax.hand_on_loss(ksam_jax.sam(), SEARCHES[search])
        expected, _ = in_steps(alone, 3, weights(), rows())
        if how == "vmap":
            split = rows().reshape(4, 2, 3)
            found = jax.vmap(run, axis_name="data", out_axes=0)(split)
            for number in range(4):
                own = jax.tree.map(lambda x: x[number], found)
                assert_close(own, expected, 1e-5, 1e-5)
            return
        kinds = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((4,), ("data",), kinds, devices=jax.devices()[:4])
        spread = jax.shard_map(
            run, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=how == "types"
        )
        assert_close(jax.jit(spread)(rows()), expected, 1e-5, 1e-5)


def test_where_the_value_is_known_it_costs_nothing():
    def operations(tx: Any) -> float:
        state = tx.init(weights())
        run = jax.jit(lambda s, p: tx.update(None, s, p, loss_fn=loss_fn, batch=rows()))
        costs: Any = run.lower(state, weights()).compile().cost_analysis()
        return costs["flops"]

    for method in (ksam_jax.sam(), ksam_jax.k_sam(k=3), ksam_jax.f_sam()):
        plain = operations(optax.chain(method, optax.sgd(0.1)))
        assert operations(ksam_jax.hand_on_loss(method, optax.sgd(0.1))) == plain


def test_what_cannot_be_handed_on_is_said():
    method: Any = ksam_jax.sam()
    for wrong, found in ((optax.sgd(0.1), 0), (optax.chain(method, method), 2)):
        with pytest.raises(ValueError, match=rf"method must be one .* it has {found} of"):
            ksam_jax.hand_on_loss(wrong, optax.lbfgs()).init(weights())
    tx: Any = ksam_jax.hand_on_loss(method, optax.lbfgs())
    with pytest.raises(TypeError, match=r"state must be what init .* got type EmptyState"):
        tx.update(None, optax.EmptyState(), weights(), loss_fn=loss_fn, batch=rows())
    with pytest.raises(ValueError, match="loss_fn is missing"):
        tx.update(None, tx.init(weights()), weights(), batch=rows())
    with pytest.raises(TypeError, match="loss_fn must be a function that can be called"):
        step(tx, loss_fn=lambda p, b, more: loss_fn(p, b))
    with pytest.raises(ValueError, match="remove the mean"):
        step(tx, loss_fn=lambda p, b: jnp.mean(loss_fn(p, b)))
    with pytest.raises(TypeError, match="pass has_aux=True"):
        step(tx, loss_fn=lambda p, b: (loss_fn(p, b), ()))


def test_methods_that_take_turns_over_other_axes_are_refused():
    wrapped = [optax.chain(ksam_jax.sam(axis_name=name)) for name in ("a", "b")]
    tx = ksam_jax.hand_on_loss(ksam_jax.join_methods(wrapped, [1]), optax.lbfgs())

    def run(batch: Any) -> Any:
        return in_steps(tx, 1, weights(), batch)[0]

    over_both = jax.vmap(jax.vmap(run, axis_name="a"), axis_name="b")
    with pytest.raises(ValueError, match="axis_name must be the same in all that method"):
        over_both(rows().reshape(2, 2, 2, 3))
