"""Eigenvalues, trace and density: known spectra, and a dense Hessian in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import batched, cross_entropy, mean_loss, mlp
from quadratics import quadratic

import ksam_jax
from ksam_jax import sharpness
from ksam_jax.sharpness._problem import Problem

quiet = {"progress": False}
# Far apart, close together, twice the same, zero and negative.
SPECTRUM = [40.0, 12.0, 11.9, 3.0, 3.0, 1.0, 0.5, 0.0, -0.2, -7.0]


@functools.cache
def known():
    return quadratic(SPECTRUM, seed=1)


def test_eigenvalues_are_the_known_ones():
    q = known()
    found = sharpness.top_eigenvalues(q.loss_fn, q.params, q.batches, k=10, **quiet)
    np.testing.assert_allclose(found.values, SPECTRUM, atol=1e-4)
    assert np.all(found.errors < 1e-3)


def test_eigenvectors_have_length_one_and_their_value():
    q = known()
    found = sharpness.top_eigenvalues(q.loss_fn, q.params, q.batches, k=2, **quiet)
    for value, vector in zip(found.values, found.vectors, strict=True):
        v = np.asarray(ravel_pytree(vector)[0], np.float64)
        assert np.linalg.norm(v) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(q.hessian @ v, value * v, atol=2e-4)


def test_errors_bound_what_few_steps_miss():
    """A hundred parameters, and steps for a fifth of them."""
    spectrum = np.sort(np.random.default_rng(5).gamma(0.5, 2.0, 100))[::-1]
    q = quadratic(spectrum, seed=2)
    found = sharpness.top_eigenvalues(
        q.loss_fn, q.params, q.batches, k=3, num_steps=12, **quiet
    )
    nearest = [np.min(np.abs(spectrum - value)) for value in found.values]
    assert np.all(nearest <= found.errors)
    assert found.values[0] == pytest.approx(spectrum[0], rel=1e-3)


@pytest.mark.parametrize("spectrum", [[0.0] * 8, [2.0] * 8, [5.0, 5.0] + [1.0] * 6])
def test_exhausted_subspaces_are_left_for_the_rest(spectrum):
    """Every vector of the Krylov space is found in one or two steps."""
    q = quadratic(spectrum, seed=3)
    found = sharpness.top_eigenvalues(q.loss_fn, q.params, q.batches, k=3, **quiet)
    np.testing.assert_allclose(found.values, spectrum[:3], atol=1e-4)
    assert np.all(np.isfinite(ravel_pytree(found.vectors)[0]))


def test_the_trace_is_within_its_stated_error_which_is_the_known_one():
    """The variance of one sample is twice the sum of the squares off the diagonal."""
    q = known()
    found = sharpness.hessian_trace(
        q.loss_fn, q.params, q.batches, num_samples=200, **quiet
    )
    off = q.hessian - np.diag(np.diag(q.hessian))
    assert found.error == pytest.approx(np.sqrt(2 * np.sum(off**2) / 200), rel=0.15)
    assert abs(found.value - sum(SPECTRUM)) < 3.5 * found.error


def test_the_trace_of_a_diagonal_hessian_is_exact():
    def loss_fn(w, batch):
        return 0.5 * batch["s"] * jnp.sum(jnp.array([3.0, -1.0, 0.5]) * w**2)

    batches = [{"s": jnp.array([1.0, 2.0])}, {"s": jnp.array([0.0])}]
    found = sharpness.hessian_trace(loss_fn, jnp.ones(3), batches, num_samples=2, **quiet)
    assert found.value == pytest.approx(2.5, rel=1e-6)
    assert found.error == 0.0


def test_the_density_has_the_moments_of_the_spectrum():
    q = known()
    found = sharpness.spectral_density(
        q.loss_fn, q.params, q.batches, num_samples=16, **quiet
    )
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0, rtol=1e-5)
    means = np.sum(found.weights * found.nodes, axis=1)
    error = np.std(means, ddof=1) / np.sqrt(16)
    assert abs(np.mean(means) - np.mean(SPECTRUM)) < 3.5 * error
    at = np.linspace(-30, 70, 4001)
    assert np.trapezoid(found.density(at, width=1.0), at) == pytest.approx(1, abs=1e-3)
    assert found.density(np.array([40.0]))[0] > 5 * found.density(np.array([25.0]))[0]


@functools.cache
def network():
    problem = mlp(n=10)
    loss_fn = batched(problem.example_loss)
    batch = {**problem.batch, "factor": jnp.linspace(0.5, 2.0, 10)}
    parts = [jax.tree.map(lambda x: x[:7], batch), jax.tree.map(lambda x: x[7:], batch)]
    return loss_fn, problem.params, batch, parts


@functools.cache
def dense_spectrum():
    """The whole Hessian by second derivatives in float64, and NumPy's eigenvalues."""
    loss_fn, params, batch, _ = network()
    with jax.enable_x64(True):
        wide = lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x  # noqa: E731
        flat, unravel = ravel_pytree(jax.tree.map(wide, params))
        whole = jax.tree.map(wide, batch)
        hessian = jax.jit(jax.hessian(lambda w: mean_loss(loss_fn)(unravel(w), whole)))
        return np.asarray(hessian(flat))


@pytest.mark.slow
def test_a_network_agrees_with_its_dense_hessian():
    loss_fn, params, _, parts = network()
    hessian = dense_spectrum()
    values = np.linalg.eigvalsh(hessian)[::-1]
    found = sharpness.top_eigenvalues(loss_fn, params, parts, k=5, **quiet)
    np.testing.assert_allclose(found.values, values[:5], atol=1e-4)
    trace = sharpness.hessian_trace(loss_fn, params, parts, num_samples=64, **quiet)
    assert abs(trace.value - np.trace(hessian)) < 3.5 * trace.error
    vector = jax.tree.map(lambda x: jnp.cos(3.0 * x), params)
    product = sharpness.hessian_vector_product(loss_fn, params, parts, vector, **quiet)
    np.testing.assert_allclose(
        ravel_pytree(product)[0], hessian @ np.asarray(ravel_pytree(vector)[0]), atol=1e-5
    )


def test_a_mask_takes_a_block_of_the_hessian():
    loss_fn, params, _, parts = network()
    mask = {"hidden": {"w": True, "b": False}, "out": {"w": True}}
    at = ravel_pytree(jax.tree.map(lambda flag, x: jnp.full(x.shape, flag), mask, params))[
        0
    ]
    chosen = np.flatnonzero(at)
    block = dense_spectrum()[np.ix_(chosen, chosen)]
    found = sharpness.top_eigenvalues(loss_fn, params, parts, k=2, mask=mask, **quiet)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(block)[::-1][:2], atol=1e-4)
    assert not np.any(found.vectors[0]["hidden"]["b"])


def layers(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["one"])
    for _ in range(4):
        hidden = jnp.tanh(hidden @ params["again"])
    return cross_entropy_rows(hidden @ params["two"], batch["y"])


def cross_entropy_rows(logits, labels):
    return jax.vmap(cross_entropy)(logits, labels)


def wide_layers(width, n):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    params = {"one": 0.3 * draw(16, width), "two": 0.3 * draw(width, 10)}
    params["again"] = draw(width, width) / width**0.5
    batch = {"x": draw(n, 16), "y": jnp.asarray(rng.integers(0, 10, n), jnp.int32)}
    return params, batch


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sharded_data_and_weights_give_the_same(kind):
    params, batch = wide_layers(8, 16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    along, everywhere = (NamedSharding(mesh, P(*spec)) for spec in (("data",), ()))
    weights = along if kind == AxisType.Auto else everywhere
    placed = jax.device_put(params, {**dict.fromkeys(params, everywhere), "two": weights})
    spread = jax.device_put(batch, along)
    few = {"num_steps": 6, **quiet}
    here = sharpness.top_eigenvalues(layers, params, [batch], k=2, **few)
    there = sharpness.top_eigenvalues(layers, placed, [spread], k=2, **few)
    np.testing.assert_allclose(there.values, here.values, rtol=1e-4)
    assert there.vectors[0]["two"].sharding == placed["two"].sharding


def compiled(name, params, batch, parts=1):
    problem = Problem("call", layers, params, [batch], None, False, parts, False)
    args = [problem.free, problem.fixed, batch]
    args.append(problem.free if name == "product" else np.ones(len(batch["y"]), np.float32))
    return getattr(problem.compiled, name).lower(*args).compile()


def test_a_product_costs_less_than_four_gradients():
    params, batch = wide_layers(64, 512)
    gradient, product = (
        compiled(name, params, batch).cost_analysis()["flops"]
        for name in ("gradient", "product")
    )
    assert 1.5 < product / gradient < 4


def test_a_part_of_the_batch_at_a_time_fits_into_the_memory_of_a_step():
    params, batch = wide_layers(64, 512)
    tx: Any = optax.chain(ksam_jax.sam(), optax.sgd(0.1, momentum=0.9))

    def step(params, state):
        updates, state = tx.update(None, state, params, loss_fn=layers, batch=batch)
        return optax.apply_updates(params, updates), state

    training = jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params)).compile()
    analyses: list[Any] = [
        made.memory_analysis()
        for made in (compiled("product", params, batch, parts=4), training)
    ]
    used, there = (analysis.temp_size_in_bytes for analysis in analyses)
    assert used <= there
