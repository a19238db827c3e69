"""Alignment of gradients, directions and slices of the loss: independent loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from landscape_oracle import normalized
from problems import batched, mlp
from quadratics import flat, quadratic

from ksam_jax import sharpness

quiet = {"progress": False}


@functools.cache
def network():
    problem = mlp(n=10)
    batch = {**problem.batch, "factor": jnp.linspace(0.5, 2.0, 10)}
    return batched(problem.example_loss), problem.params, batch


def vector(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(np.float64)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def rows(batch, chosen):
    return jax.tree.map(lambda x: x[np.asarray(chosen)], batch)


def each_gradient(params, batch):
    """One row per example: (N, parameters)."""
    loss_fn, _, _ = network()
    one = lambda p, row: loss_fn(p, jax.tree.map(lambda x: x[None], row))[0]  # noqa: E731
    found = jax.jit(jax.vmap(jax.grad(one), in_axes=(None, 0)))(params, batch)
    return np.concatenate([np.reshape(x, (10, -1)) for x in jax.tree.leaves(found)], axis=1)


def test_alignment_is_that_of_means_of_single_gradients():
    loss_fn, params, batch = network()
    gradients, losses = each_gradient(params, batch), np.asarray(loss_fn(params, batch))
    parts = [rows(batch, range(6)), rows(batch, range(6, 10))]
    found = sharpness.gradient_alignment(
        loss_fn, params, parts, ks=(1, 2, 0.75, 1.0), **quiet
    )
    assert found.ks == (1, 2, 0.75, 1.0)
    assert found.cosines.shape == found.random.shape == found.dataset.shape == (2, 4)
    # 0.75 of 4 is 3, of 6 it is 4.5, rounded half up to 5.
    for b, sizes in enumerate(([1, 2, 5, 6], [1, 2, 3, 4])):
        here = range(6) if b == 0 else range(6, 10)
        ranked = sorted(here, key=lambda j: -losses[j])
        for i, k in enumerate(sizes):
            part = gradients[ranked[:k]].mean(0)
            assert found.cosines[b, i] == pytest.approx(
                cosine(part, gradients[here].mean(0)), abs=1e-5
            )
            assert found.dataset[b, i] == pytest.approx(
                cosine(part, gradients.mean(0)), abs=1e-5
            )
    np.testing.assert_allclose(found.random[:, -1], 1, atol=1e-5)


def test_one_k_is_recommended():
    cosines = np.array([[0.5, 0.8, 1.0], [0.7, 1.0, 1.0]])
    found = sharpness.Alignment((0.25, 0.5, 1.0), cosines, cosines, cosines)
    assert [sharpness.recommend_k(found, c) for c in (0.6, 0.61, 0.9, 0.91)] == [
        0.25, 0.5, 0.5, 1.0,
    ]  # fmt: skip
    assert sharpness.recommend_k(found._replace(ks=(2, 4, 6)), 0.9) == 4
    few = sharpness.Alignment((0.25,), cosines[:, :1], cosines[:, :1], cosines[:, :1])
    assert sharpness.recommend_k(few, 0.99) == 1.0


def kernels(seed):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(0.4, 2.0, shape), jnp.float32)  # noqa: E731
    conv = draw(3, 3, 2, 5).at[..., 2].set(0.0)
    return {"conv": conv, "dense": draw(7, 4), "bias": draw(4), "scale": draw()}


def test_filters_are_normalized_as_by_loops():
    direction, weights = kernels(0), kernels(1)
    found = sharpness.filter_normalized(direction, weights)
    for name in weights:
        np.testing.assert_allclose(
            found[name], normalized(direction[name], weights[name]), rtol=1e-5, atol=1e-6
        )
    assert not np.any(found["conv"][..., 2])


def test_filters_may_be_along_the_first_axis():
    direction, weights = kernels(0)["dense"], kernels(1)["dense"]
    found = sharpness.filter_normalized(direction.T, weights.T, filter_axis=0)
    np.testing.assert_allclose(found.T, normalized(direction, weights), rtol=1e-5)


def test_random_directions_are_gaussian_and_repeatable():
    weights = {"kernel": jnp.ones((400, 50)), "bias": jnp.ones(50)}
    one, same, other = (
        sharpness.random_direction(weights, seed=seed)["kernel"] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert abs(cosine(vector(one), vector(other))) < 0.05
    # Each filter has length 20, so a coordinate is normal with deviation one.
    assert np.mean(np.abs(one) < 1) == pytest.approx(0.683, abs=0.02)
    masked = sharpness.random_direction(weights, mask={"kernel": False, "bias": True})
    assert not np.any(masked["kernel"])


def test_a_slice_is_the_loss_at_every_point():
    loss_fn, params, batch = network()
    directions = [sharpness.random_direction(params, seed=seed) for seed in (1, 2)]
    at = np.array([[0.0, 0.0], [0.5, 0.0], [-1.0, 2.0]])
    parts = [rows(batch, range(6)), rows(batch, range(6, 10))]
    found = sharpness.loss_along(loss_fn, params, parts, directions, at, **quiet)
    for (a, b), value in zip(at.astype(np.float32), found, strict=True):
        moved = jax.tree.map(
            lambda w, d, e, a=a, b=b: w + a * d + b * e, params, *directions
        )
        assert value == pytest.approx(float(jnp.mean(loss_fn(moved, batch))), rel=1e-5)
    line = sharpness.loss_along(loss_fn, params, [batch], directions[:1], [0.5], **quiet)
    assert line[0] == pytest.approx(found[1], rel=1e-5)


def test_a_plane_goes_through_its_three_points():
    q = quadratic(np.arange(1.0, 9.0))
    others = [jax.tree.map(lambda x, s=s: jnp.cos(s * x), q.params) for s in (1.0, 5.0)]
    plane = sharpness.plane_through(q.params, *others)
    first, second = (vector(d) for d in plane.directions)
    np.testing.assert_allclose(
        [first @ first, second @ second, first @ second], [1, 1, 0], atol=1e-5
    )
    found = sharpness.loss_along(
        q.loss_fn, plane.origin, q.batches, plane.directions, plane.coordinates, **quiet
    )
    for point, value in zip([q.params, *others], found, strict=True):
        away = np.asarray(flat(point), np.float64) - q.centre
        assert value == pytest.approx(3 + 0.5 * away @ q.hessian @ away, rel=1e-4)


@pytest.mark.slow
def test_they_are_the_same_on_eight_devices():
    loss_fn, params, batch = network()
    batch = rows(batch, [0, 1, 2, 3, 4, 5, 6, 7])
    mesh = jax.make_mesh((8,), ("data",))
    spread = jax.device_put(batch, NamedSharding(mesh, P("data")))
    placed = jax.device_put(params, NamedSharding(mesh, P()))
    here, there = (
        sharpness.gradient_alignment(loss_fn, p, [b], ks=(0.25,), **quiet)
        for p, b in ((params, batch), (placed, spread))
    )
    np.testing.assert_allclose(there.cosines, here.cosines, atol=1e-5)
    one, other = (sharpness.random_direction(p) for p in (params, placed))
    np.testing.assert_allclose(vector(one), vector(other), rtol=1e-6)
