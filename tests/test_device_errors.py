"""What wrong use on several devices, in groups or microbatches, gets told."""

import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

import ksam_jax

N = 12
NAMES = [
    "sam",
    "asam",
    "random_sam",
    "k_sam",
    "esam",
    "f_sam",
    "momentum_sam",
    "k_momentum_sam",
]
# Without the type checks that only the tests switch on.
METHODS = {name: inspect.unwrap(getattr(ksam_jax, name)) for name in NAMES} | {
    "sharpness_aware": lambda **common: inspect.unwrap(ksam_jax.sharpness_aware)(
        ksam_jax.scale_to_radius(0.1), **common
    ),
}


def losses(w: Any, batch: Any) -> Any:
    return jnp.square(batch @ w - 1.0)


def update(tx: Any, n: int = N, updates: Any = None) -> Any:
    """What tracing a step leads to: all that is refused is refused there."""

    def step(w: Any, batch: Any, updates: Any) -> Any:
        return tx.update(updates, tx.init(w), w, loss_fn=losses, batch=batch)

    return jax.eval_shape(step, jnp.ones(3), jnp.ones((n, 3)), updates)


def on_vmapped_devices(tx: Any, n: int) -> Any:
    def step(w: Any, batch: Any) -> Any:
        return tx.update(None, tx.init(w), w, loss_fn=losses, batch=batch)[0]

    devices = jax.vmap(step, in_axes=(None, 0), axis_name="data")
    return jax.eval_shape(devices, jnp.ones(3), jnp.ones((2, n, 3)))


def says(*parts: str) -> str:
    return ".*".join(map(re.escape, parts))


# ------------------------------------------------------------------ construction


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("argument", ["groups", "num_microbatches"])
@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_a_number_of_parts_must_be_a_positive_integer(name, argument, value, error):
    expected = says(f"{name}({argument}={value!r})", f"{argument} must be an integer >= 1")
    with pytest.raises(error, match=expected):
        METHODS[name](**{argument: value})


def test_a_traced_number_of_groups_is_refused():
    with pytest.raises(TypeError, match=says("k_sam(groups=<traced>)", "known when")):
        jax.eval_shape(lambda g: METHODS["k_sam"](groups=g).init(jnp.ones(3)), 2)


@pytest.mark.parametrize("name", METHODS)
def test_an_axis_name_must_be_a_name(name):
    expected = says(f"{name}(axis_name=['data'])", "tuple of names")
    with pytest.raises(TypeError, match=expected):
        METHODS[name](axis_name=["data"])


def test_an_axis_name_is_no_axis_of_an_array():
    with pytest.raises(TypeError, match=says("k_sam(axis_name=0)", "name of a mapped")):
        ksam_jax.k_sam(axis_name=0)


@pytest.mark.parametrize("name", METHODS)
def test_whether_the_climb_is_synchronized_must_be_a_bool(name):
    with pytest.raises(TypeError, match=says(f"{name}(sync_ascent=0)", "True or False")):
        METHODS[name](sync_ascent=0, groups=2)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "f_sam"])
def test_climbing_apart_needs_to_know_who_climbs_together(name):
    expected = says(f"{name}(sync_ascent=False)", "needs axis_name=... or groups=...")
    with pytest.raises(ValueError, match=expected):
        METHODS[name](sync_ascent=False)


@pytest.mark.parametrize("common", [{"groups": 2}, {"axis_name": "data"}, {}])
def test_f_sam_refuses_an_average_of_its_own_on_every_device(common):
    expected = says("f_sam(sync_ascent=False)", "moving average", "leave it at True")
    with pytest.raises(ValueError, match=expected):
        ksam_jax.f_sam(sync_ascent=False, **common)


@pytest.mark.parametrize("remembering", [ksam_jax.subtract_ema(), optax.trace(0.9)])
def test_any_memory_of_gradients_is_refused_when_climbing_apart(remembering):
    climb = optax.chain(remembering, ksam_jax.scale_to_radius(0.1))
    tx = ksam_jax.sharpness_aware(climb, groups=2, sync_ascent=False)
    expected = says("sharpness_aware(sync_ascent=False)", "remembers gradients", "True")
    with pytest.raises(ValueError, match=expected):
        update(tx)


def test_a_schedule_is_no_memory_of_gradients():
    rho = optax.linear_schedule(0.0, 1.0, 10)
    climb = optax.chain(ksam_jax.scale_to_radius(rho), ksam_jax.random_mask(0.5))
    tx = ksam_jax.sharpness_aware(climb, groups=2, sync_ascent=False)
    gradient, _ = update(tx)
    assert gradient.shape == (3,)


def test_a_perturbation_gets_its_extra_arguments_when_climbing_apart():
    def scaled(updates: Any, state: Any, params: Any = None, *, strength: Any, **_: Any):
        del params
        return jax.tree.map(lambda g: strength * g, updates), state

    empty = optax.EmptyState()
    update_fn: Any = scaled
    climb = optax.GradientTransformationExtraArgs(lambda params: empty, update_fn)
    tx: Any = ksam_jax.sharpness_aware(climb, groups=2, sync_ascent=False)

    def step(w: Any, batch: Any) -> Any:
        state = tx.init(w)
        return tx.update(None, state, w, loss_fn=losses, batch=batch, strength=0.1)[0]

    assert jax.eval_shape(step, jnp.ones(3), jnp.ones((N, 3))).shape == (3,)


# ------------------------------------------------------------------------- update


@pytest.mark.parametrize("name", METHODS)
def test_an_unbound_axis_name_is_told_with_what_to_do(name):
    expected = says(
        f"{name}(axis_name='data')", "bound", "jax.shard_map", "jax.vmap", "groups="
    )
    with pytest.raises(ValueError, match=expected):
        update(METHODS[name](axis_name="data"))


def test_of_several_axis_names_one_may_not_be_unbound():
    tx = ksam_jax.k_sam(axis_name=("data", "host"))
    with pytest.raises(ValueError, match=says("('data', 'host')", "unbound", "host")):
        on_vmapped_devices(tx, N)


@pytest.mark.parametrize("argument", ["groups", "num_microbatches"])
@pytest.mark.parametrize("name", METHODS)
def test_parts_must_divide_the_batch(name, argument):
    expected = says(f"{name}({argument}=5)", "must divide", "5 doesn't divide 12")
    with pytest.raises(ValueError, match=expected):
        update(METHODS[name](**{argument: 5}))


def test_microbatches_must_divide_a_group():
    tx = ksam_jax.k_sam(groups=4, num_microbatches=2)
    with pytest.raises(ValueError, match=says("num_microbatches=2", "2 doesn't divide 3")):
        update(tx)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda **common: ksam_jax.k_sam(k=0.2, **common), "k=0.2"),
        (lambda **common: ksam_jax.random_sam(m=0.2, **common), "m=0.2"),
        (lambda **common: ksam_jax.esam(gamma=0.2, **common), "gamma=0.2"),
        (lambda **common: ksam_jax.k_momentum_sam(k=0.2, **common), "k=0.2"),
    ],
)
def test_a_fraction_below_one_example_of_each_group_is_refused(make, argument):
    """Rounded up it would be several times the fraction that was asked for."""
    expected = says(argument, "at least one example of each", "0.2 of the 4", "=1")
    for common in ({"groups": 3}, {"groups": 3, "sync_ascent": False}):
        with pytest.raises(ValueError, match=expected):
            update(make(**common))
    # Five of them make one example, and without groups one is taken of few.
    update(make(groups=2), n=10)
    update(make(), n=4)


def test_a_fraction_below_one_example_of_each_device_is_refused():
    tx = ksam_jax.k_sam(k=0.2, axis_name="data")
    with pytest.raises(ValueError, match=says("k=0.2", "at least one example of each")):
        on_vmapped_devices(tx, 4)


def test_more_examples_than_a_group_has_are_refused():
    with pytest.raises(ValueError, match=says("k_sam(k=5)", "N=4")):
        update(ksam_jax.k_sam(k=5, groups=3))


def test_one_gradient_of_the_batch_is_no_climb_of_each_group():
    tx = ksam_jax.sam(groups=2, sync_ascent=False)
    expected = says("updates=<gradient>", "sam(sync_ascent=False, groups=2)", "pass None")
    with pytest.raises(ValueError, match=expected):
        update(tx, updates=jnp.ones(3))


def test_a_batch_that_the_devices_do_not_divide_is_told_by_jax():
    mesh = jax.make_mesh((8,), ("data",))
    tx: Any = ksam_jax.k_sam(axis_name="data")
    w = jnp.ones(3)

    def step(batch: Any) -> Any:
        return tx.update(None, tx.init(w), w, loss_fn=losses, batch=batch)[0]

    spread = jax.shard_map(step, mesh=mesh, in_specs=P("data"), out_specs=P())
    with pytest.raises(ValueError, match="evenly divisible"):
        spread(jnp.ones((12, 3)))
