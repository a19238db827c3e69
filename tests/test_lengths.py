"""Lengths and angles of trees against NumPy's in float64, and what they cost."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ksam_jax
from ksam_jax.trees._joined import LONGEST
from ksam_jax.trees._lengths import all_finite, cosine, inner, norm, rounding_of
from ksam_jax.trees._squares import MOST

SIZES = [1e-35, 1e-25, 1e-18, 1.0, 1e15, 1e35]


def tree(seed, size):
    """A matrix, a vector, a kernel of a convolution, which is summed in another way."""
    draw = np.random.default_rng(seed).normal
    shapes = {"w": (7, 3), "b": 5, "k": (3, 3, 2, 4)}

    def numbers(shape):
        drawn = draw(size=shape)
        # What is no normal number in float32 is zero on a CPU.
        return np.sign(drawn) * np.maximum(np.abs(drawn), 0.05) * size

    return {name: jnp.asarray(numbers(s), "f") for name, s in shapes.items()}


def flat(values):
    return np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(values)])


@pytest.fixture(params=[1, 8])
def devices(request, monkeypatch):
    """How many there seem to be: with one short vectors are summed together."""
    monkeypatch.setattr(jax, "device_count", lambda: request.param)
    return request.param


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize("theirs", SIZES)
@pytest.mark.parametrize("ours", SIZES)
def test_a_cosine_is_that_of_float64_whatever_the_two_lengths(ours, theirs):
    a, b = tree(0, ours), tree(1, theirs)
    x, y = flat(a), flat(b)
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert float(cosine(a, b)) == pytest.approx(expected, rel=1e-5)
    assert float(norm(a)) == pytest.approx(np.linalg.norm(x), rel=1e-6)


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize("sizes", [SIZES, SIZES[:3], SIZES[4:], [1e-35, 1.0]], ids=str)
def test_many_leaves_of_all_sizes_are_one_length(sizes):
    """They are summed some at a time, each of these at a scale of their own."""
    many = {i: tree(i, sizes[i * len(sizes) // 150]) for i in range(150)}
    other = {i: tree(200 + i, sizes[0]) for i in range(150)}
    assert len(jax.tree.leaves(many)) > 4 * MOST
    x, y = flat(many), flat(other)
    cosines = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert float(norm(many)) == pytest.approx(np.linalg.norm(x), rel=1e-6)
    assert float(cosine(many, other)) == pytest.approx(cosines, rel=1e-4)
    along = jax.grad(norm)(many)
    np.testing.assert_allclose(flat(along), x / np.linalg.norm(x), rtol=1e-5, atol=1e-30)


def test_vectors_of_all_kinds_are_summed_together_with_one_device(devices):
    """Scalars, none at all, complex and narrow ones; a long one stays as it is."""
    draw = np.random.default_rng(8).normal

    def leaves():
        return {
            "scalar": jnp.asarray(draw(), jnp.bfloat16),
            "none": jnp.zeros(0),
            "complex": jnp.asarray(draw(size=3) + 1j * draw(size=3), jnp.complex64),
            "biases": [jnp.asarray(draw(size=4), "f") for _ in range(5)],
            "long": jnp.asarray(draw(size=LONGEST + 1), "f"),
            "w": jnp.asarray(draw(size=(3, 2)), jnp.bfloat16),
        }

    def real(leaf):
        leaf = np.asarray(leaf).ravel()
        return leaf.view("f") if np.iscomplexobj(leaf) else leaf.astype("f")

    a, b = leaves(), leaves()
    x, y = (
        np.concatenate([*map(real, jax.tree.leaves(t))]).astype(np.float64) for t in (a, b)
    )
    assert float(norm(a)) == pytest.approx(np.linalg.norm(x), rel=1e-6)
    assert float(inner(a, b)) == pytest.approx(x @ y, rel=1e-5)
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    # Functions of their own, of which JAX has no program for the other number of devices.
    found = jax.jit(lambda a, b: cosine(a, b))(a, b)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    sums = str(jax.make_jaxpr(lambda a, b: inner(a, b))(a, b)).count("reduce_sum")
    # Of parts, of which the complex leaf has two, and of their sums.
    assert sums == {1: 3, 8: 11}[devices] + 1


def test_leaves_on_a_mesh_of_one_device_stay_apart(monkeypatch):
    """Their types say how they are spread, and JAX doesn't join them."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    mesh = jax.make_mesh((1,), ("x",), devices=jax.devices()[:1])
    values = {"b": jnp.full(4, 3.0), "c": jnp.full(4, 4.0), "d": jnp.zeros(3)}
    with jax.set_mesh(mesh):
        spread = jax.device_put(values["b"], jax.NamedSharding(mesh, jax.P("x")))
        found = jax.jit(norm)(values | {"b": spread})
    assert float(found) == pytest.approx(10)
    # Without the mesh the type alone says so.
    assert float(jax.jit(lambda t: norm(t))({"b": spread, "e": spread})) == pytest.approx(
        np.sqrt(72)
    )
    nothing = inner({}, {})
    assert (float(nothing), nothing.dtype) == (0, jnp.float32)


@pytest.mark.usefixtures("devices")
def test_each_row_of_a_vmap_has_a_scale_of_its_own():
    rows = [tree(number, size) for number, size in enumerate(SIZES)]
    together = jax.tree.map(lambda *xs: jnp.stack(xs), *rows)
    expected = [np.linalg.norm(flat(row)) for row in rows]
    np.testing.assert_allclose(jax.vmap(norm)(together), expected, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_kernels_alone_and_with_others_of_another_size(size):
    kernels = {
        "k": tree(4, size)["k"],
        "l": tree(5, size / 100)["k"],
        "none": jnp.ones((0, 3, 3)),
    }
    mixed = kernels | {"w": tree(6, 1e3)["w"]}
    for found in (kernels, mixed):
        expected = np.linalg.norm(flat(found))
        assert float(jax.jit(norm)(found)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_the_length_of_kernels_that_arent_finite_is_no_number(bad):
    kernels = tree(7, 1.0)
    kernels["k"] = kernels["k"].at[1, 1, 0, 0].set(bad)
    assert not np.isfinite(float(norm(kernels)))
    assert not np.isfinite(float(norm({"k": kernels["k"]})))
    assert float(norm({"k": jnp.zeros((2, 2, 2))})) == 0


def test_rounding_is_of_each_dtype_by_itself():
    leaves = {
        "half": jnp.asarray([3.0, 4.0], jnp.bfloat16),
        "single": jnp.full((3, 3, 2), 7.0),
        "more": jnp.asarray([5.0], jnp.bfloat16),
    }
    half, single = 2.0**-7, 8 * 2.0**-23
    expected = np.hypot(half * np.sqrt(50.0), single * np.sqrt(18 * 49.0))
    assert float(rounding_of(leaves)) == pytest.approx(expected, rel=1e-6)
    assert float(rounding_of({})) == 0


def test_leaves_of_two_dtypes_are_summed_in_the_wider_one():
    with jax.enable_x64(True):
        mixed = {"a": jnp.float32([3e30, 1.0]), "b": jnp.asarray([4e30], jnp.float64)}
        assert float(norm(mixed)) == pytest.approx(5e30, rel=1e-6)
        small = jax.tree.map(lambda x: x * jnp.asarray(1e-60, x.dtype), mixed)
        assert float(norm({"b": small["b"]})) == pytest.approx(4e-30, rel=1e-12)


def test_the_derivatives_are_those_of_the_plain_formulas():
    a, b = tree(2, 1.0), tree(3, 1.0)

    def plain(a, b):
        x, y = (jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
        return x @ y / jnp.sqrt(x @ x) / jnp.sqrt(y @ y)

    found, expected = (jax.grad(f, argnums=(0, 1))(a, b) for f in (cosine, plain))
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for x, y in pairs:
        np.testing.assert_allclose(x, y, atol=1e-6)
    twice = jax.grad(lambda a: norm(jax.grad(norm)(a)))(a)
    assert all(np.max(np.abs(x)) < 1e-5 for x in jax.tree.leaves(twice))


def test_there_is_a_second_derivative_backward_through_a_scan():
    def after(w):
        def step(c, _):
            return c / norm(c) + c, None

        return jax.lax.scan(step, w, None, length=2)[0].sum()

    w = jnp.arange(1.0, 4.0)
    expected = jax.jvp(jax.grad(after), (w,), (jnp.ones(3),))[1]
    found = jax.grad(lambda w: jax.grad(after)(w).sum())(w)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_finite_are_the_largest_numbers_but_no_tree_with_another(bad):
    large = {"w": jnp.full((100, 100), 3e38), "b": jnp.full(3, -3e38)}
    assert bool(all_finite(large))
    assert not bool(all_finite(large | {"b": jnp.array([0.0, bad, 1.0])}))
    assert not bool(all_finite({"w": jnp.array([np.inf, -np.inf])}))
    assert not bool(all_finite({"w": jnp.array([complex(0, bad)])}))


def test_what_a_step_tells_of_its_gradients_keeps_no_copy_of_them():
    # A network whose weights are most of what a step needs, as its batch is small.
    params = {"w": jnp.ones((784, 512)), "v": jnp.ones((512, 10))}
    batch = jnp.ones((16, 784))

    def loss_fn(params, batch):
        return jnp.sum(jnp.tanh(batch @ params["w"]) @ params["v"], axis=1)

    optimizer = optax.chain(ksam_jax.sam(), optax.sgd(0.1, momentum=0.9))

    def step(params, state, optimizer: Any = optimizer):
        updates, state = optimizer.update(None, state, params, loss_fn=loss_fn, batch=batch)
        return optax.apply_updates(params, updates), state

    program = jax.jit(step).lower(params, optimizer.init(params)).compile()
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    # The ascent gradient; the perturbed weights and the descent gradient are where the
    # results will be.
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 1.2 * weights
