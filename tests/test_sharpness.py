"""The rise within a radius: closed forms, independent loops, devices, dtypes."""

import functools
import gc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import batched, mlp, slow_but
from quadratics import flat, largest_rise, quadratic

import ksam_jax
from ksam_jax import sharpness

SPECTRUM = [9.0, 5.0, 2.0, 1.0, 0.5, 0.3, 0.2, 0.1]
quiet = {"progress": False}


@functools.cache
def bowl():
    return quadratic(SPECTRUM)


def one_step(gradient, hessian, rho):
    length = np.linalg.norm(gradient)
    return rho * length + 0.5 * rho**2 * gradient @ hessian @ gradient / length**2


def test_one_step_is_the_closed_form():
    q = bowl()
    found = sharpness.sam_sharpness(q.loss_fn, q.params, q.batches, rho=0.3, **quiet)
    assert found.value == pytest.approx(one_step(q.gradient, q.hessian, 0.3), rel=1e-5)
    assert found.gradient_norm == pytest.approx(np.linalg.norm(q.gradient), rel=1e-5)
    assert found.perturbed_loss - found.loss == pytest.approx(found.value, rel=1e-5)
    epsilon = np.asarray(flat(found.perturbation))
    np.testing.assert_allclose(
        epsilon, 0.3 * q.gradient / np.linalg.norm(q.gradient), rtol=1e-4, atol=1e-6
    )


def test_several_steps_find_the_largest_rise():
    q = bowl()
    wanted = largest_rise(q.gradient, q.hessian, 0.8)
    values = [
        sharpness.sam_sharpness(
            q.loss_fn, q.params, q.batches, rho=0.8, num_steps=steps, **quiet
        ).value
        for steps in (1, 3, 30)
    ]
    assert values == sorted(values)
    assert values[0] < 0.999 * wanted
    assert values[2] == pytest.approx(wanted, rel=1e-4)


def test_at_a_minimum_it_is_half_the_largest_eigenvalue():
    q = quadratic(SPECTRUM, shift=np.zeros(len(SPECTRUM)))
    measure = functools.partial(
        sharpness.sam_sharpness, q.loss_fn, q.params, q.batches, rho=0.5, **quiet
    )
    assert measure().value == 0.0
    assert measure(num_steps=40).value == pytest.approx(0.5 * 0.25 * 9.0, rel=1e-4)


def test_a_saddle_is_climbed_where_it_rises():
    """From a zero gradient, among nineteen directions that fall and one that rises."""

    def loss_fn(w, batch):
        return 0.5 * batch["x"] * (w[0] ** 2 - jnp.sum(w[1:] ** 2))

    found = sharpness.sam_sharpness(
        loss_fn, jnp.zeros(20), [{"x": jnp.ones(2)}], rho=1.0, num_steps=40, **quiet
    )
    assert found.value == pytest.approx(0.5, rel=1e-3)


def test_a_step_to_where_there_is_no_loss_is_made_shorter():
    def loss_fn(w, batch):
        return -jnp.log(1.0 - w[0]) * batch["x"]

    measure = functools.partial(
        sharpness.sam_sharpness, loss_fn, jnp.zeros(1), [{"x": jnp.ones(2)}], **quiet
    )
    assert measure(rho=1.5, num_steps=4).value == pytest.approx(-np.log(0.25), rel=1e-3)
    with pytest.raises(sharpness.NonFiniteError, match="smaller rho"):
        measure(rho=1.5)
    with pytest.raises(sharpness.NonFiniteError, match="smaller rho"):
        measure(rho=1e6, num_steps=2)


def test_steps_stop_inside_where_the_top_is():
    """A concave loss has its maximum within the radius; the best place counts."""

    def loss_fn(w, batch):
        return 1.0 - jnp.sum((w - 0.1) ** 2) * batch["x"]

    found = sharpness.sam_sharpness(
        loss_fn, jnp.zeros(1), [{"x": jnp.ones(2)}], rho=1.0, num_steps=12, **quiet
    )
    assert found.value == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("steps", [1, 40])
def test_adaptive_sharpness_is_the_closed_form_in_the_weights_own_units(steps):
    q = bowl()
    w = np.asarray(flat(q.params), np.float64)
    sizes = np.where(np.arange(len(w)) < 6, np.abs(w) + 0.05, 1.0)
    gradient, hessian = sizes * q.gradient, sizes[:, None] * q.hessian * sizes
    wanted = {1: one_step(gradient, hessian, 0.4), 40: largest_rise(gradient, hessian, 0.4)}
    found = sharpness.adaptive_sharpness(
        q.loss_fn, q.params, q.batches, rho=0.4, eta=0.05, num_steps=steps, **quiet
    )
    assert found.value == pytest.approx(wanted[steps], rel=1e-4)


def relu_net(params, batch):
    hidden = jnp.maximum(batch["x"] @ params["one"] + params.get("bias", 0.0), 0)
    return (hidden @ params["two"])[:, 0] ** 2


def test_rescaling_layers_changes_sharpness_and_not_adaptive_sharpness():
    """Biases are to be measured by their size for that, too."""
    rng = np.random.default_rng(3)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    params = {"one": draw(4, 5), "two": draw(5, 1), "bias": draw(5)}
    scaled = {name: 4.0 * params[name] for name in ("one", "bias")}
    scaled["two"] = 0.25 * params["two"]
    batches = [{"x": draw(7, 4)}]
    plain, adaptive = (
        [measure(relu_net, p, batches, **options).value for p in (params, scaled)]
        for measure, options in (
            (sharpness.sam_sharpness, quiet),
            (
                sharpness.adaptive_sharpness,
                {"eta": 0.0, "rho": 0.1, "adaptive_mask": True, **quiet},
            ),
        )
    )
    assert adaptive[0] == pytest.approx(adaptive[1], rel=1e-4)
    assert abs(plain[0] - plain[1]) > 0.2 * plain[0]


@functools.cache
def mlp_measured():
    """One loss for all tests, so that they compile it once."""
    problem = mlp(n=10)
    return batched(problem.example_loss), problem.params, problem.batch


def rows(batch, chosen):
    return jax.tree.map(lambda x: x[np.asarray(chosen)], batch)


@pytest.mark.parametrize("m", slow_but((3,), (1, 3, 10)))
def test_m_sharpness_is_the_loop_over_groups(m):
    """Ten examples in threes are three groups and one left over."""
    loss_fn, params, batch = mlp_measured()
    groups = [list(range(10))[i : i + m] for i in range(0, 10, m)]
    wanted = [
        sharpness.sam_sharpness(loss_fn, params, [rows(batch, g)], rho=0.2, **quiet).value
        for g in groups
    ]
    found = sharpness.m_sharpness(loss_fn, params, [batch], m, rho=0.2, **quiet)
    np.testing.assert_allclose(found.rises, wanted, rtol=1e-4, atol=1e-6)
    assert found.sizes.tolist() == [len(g) for g in groups]
    assert found.value == pytest.approx(np.average(wanted, weights=found.sizes), rel=1e-4)


def test_per_example_sharpness_is_each_examples_own():
    loss_fn, params, batch = mlp_measured()
    found = sharpness.per_example_sharpness(
        loss_fn,
        params,
        [rows(batch, range(4)), rows(batch, range(4, 10))],
        rho=0.1,
        **quiet,
    )
    alone = sharpness.m_sharpness(loss_fn, params, [batch], 1, rho=0.1, **quiet)
    np.testing.assert_allclose(found, alone.rises, rtol=1e-5)
    assert found.shape == (10,)


def test_it_is_what_a_step_of_sam_says_of_itself():
    loss_fn, params, batch = mlp_measured()
    tx: Any = ksam_jax.sam(rho=0.2)
    _, state = tx.update(None, tx.init(params), params, loss_fn=loss_fn, batch=batch)
    info = ksam_jax.get_info(state)
    found = sharpness.sam_sharpness(loss_fn, params, [batch], rho=0.2, **quiet)
    assert found.value == pytest.approx(float(info.sharpness), rel=1e-4)


def test_a_mask_keeps_the_others_where_they_are():
    q = bowl()
    found = sharpness.sam_sharpness(
        q.loss_fn, q.params, q.batches, rho=0.3, mask={"a": False, "b": True}, **quiet
    )
    part = slice(6, None)
    gradient, hessian = q.gradient[part], q.hessian[part, part]
    assert found.value == pytest.approx(one_step(gradient, hessian, 0.3), rel=1e-4)
    assert not np.any(found.perturbation["a"])


def test_batches_microbatches_and_aux_change_nothing():
    loss_fn, params, batch = mlp_measured()
    whole = sharpness.sam_sharpness(loss_fn, params, [batch], **quiet)
    others = [
        sharpness.sam_sharpness(
            lambda p, b: (loss_fn(p, b), b["x"]), params, [batch], has_aux=True, **quiet
        ),
        sharpness.sam_sharpness(loss_fn, params, [batch], num_microbatches=5, **quiet),
        sharpness.sam_sharpness(
            ksam_jax.per_example(mlp().example_loss),
            params,
            [rows(batch, range(7)), rows(batch, range(7, 10))],
            **quiet,
        ),
    ]
    for other in others:
        np.testing.assert_allclose(other.rises, whole.rises, rtol=1e-4, atol=1e-6)


def test_bfloat16_weights_are_measured_without_their_rounding():
    q = bowl()
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), q.params)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), low)
    values = [
        sharpness.sam_sharpness(q.loss_fn, p, q.batches, rho=1e-3, **quiet).value
        for p in (low, wide)
    ]
    assert values[0] == values[1] > 0


def on_mesh(kind) -> tuple[Any, Any]:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    return NamedSharding(mesh, P("data")), NamedSharding(mesh, P())


@pytest.mark.parametrize(
    "kind",
    slow_but((AxisType.Explicit,), (AxisType.Auto, AxisType.Explicit)),
    ids=str,
)
def test_it_is_the_same_on_eight_devices(kind):
    """Examples along the mesh, and the hidden layer's rows along it, too."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    params = {"one": draw(4, 16), "two": draw(16, 1)}
    batch = {"x": draw(16, 4)}
    along, everywhere = on_mesh(kind)
    placed = {
        "one": jax.device_put(params["one"], everywhere),
        "two": jax.device_put(
            params["two"], along if kind == AxisType.Auto else everywhere
        ),
    }
    spread = jax.device_put(batch, along)
    for measure in (
        lambda p, b: sharpness.sam_sharpness(relu_net, p, [b], num_steps=2, **quiet).rises,
        lambda p, b: sharpness.m_sharpness(relu_net, p, [b], 4, **quiet).rises,
    ):
        np.testing.assert_allclose(
            measure(placed, spread), measure(params, batch), rtol=1e-4, atol=1e-5
        )


def test_progress_is_told_of_every_batch():
    q, told = bowl(), []
    sharpness.sam_sharpness(
        q.loss_fn, q.params, q.batches, num_steps=2, progress=lambda *a: told.append(a)
    )
    assert told == [(i + 1, 6) for i in range(6)]


def test_a_second_measure_compiles_nothing():
    """During training a measure is taken again and again."""
    traced = []

    def loss_fn(w, batch):
        traced.append(None)
        return batch["x"] * jnp.sum(w**2)

    for scale in (1.0, 2.0):
        before = len(traced)
        sharpness.sam_sharpness(loss_fn, scale * jnp.ones(3), [{"x": jnp.ones(4)}], **quiet)
    # The check of what the loss returns is one trace.
    assert len(traced) - before == 1


@pytest.mark.slow
def test_losses_that_are_gone_leave_no_arrays_behind():
    """Each closes over an array of its own; the compiled functions of a few are kept."""
    batches = [{"x": jnp.ones(2)}]
    for i in range(20):
        table = jnp.full((1234,), float(i))
        sharpness.sam_sharpness(
            lambda w, batch, table=table: batch["x"] * jnp.sum(table[:3] * w),
            jnp.ones(3),
            batches,
            **quiet,
        )
    gc.collect()
    # JAX keeps one more copy, as a constant.
    assert sum(x.shape == (1234,) for x in jax.live_arrays()) <= 2 * 8 + 1
