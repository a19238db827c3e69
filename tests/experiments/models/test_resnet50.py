"""ResNet-50: its published size, its shapes, and its parts against NumPy."""

import functools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import quick_jit

from experiments.models.resnet50 import Bottleneck, BottleneckResNet

IMAGE = (224, 224, 3)
TINY = partial(BottleneckResNet, (40, 24, 2), 5, blocks=(1, 2), width=3)


class OneKey:
    """Random streams that don't count: NNX takes long to trace hundreds of counts."""

    def params(self):
        return jax.random.key(0)


def abstract(build):
    return nnx.eval_shape(lambda: build(rngs=OneKey()))


@functools.cache
def full(norm):
    return abstract(partial(BottleneckResNet, IMAGE, 1000, norm=norm))


def count(model, kind):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, kind)))


def size_of(blocks, width, depth, classes):
    """By hand: n m s^2 for a convolution, 2 n for a normalization."""
    size, entering = 49 * depth * width + 2 * width, width
    for stage, number in enumerate(blocks):
        n = width * 2**stage
        for i in range(number):
            size += entering * n + 9 * n * n + 4 * n * n + 2 * (n + n + 4 * n)
            size += entering * 4 * n + 8 * n if i == 0 else 0
            entering = 4 * n
    return size + (entering + 1) * classes


@pytest.mark.parametrize(("norm", "statistics"), [("batch", 53_120), ("group", 0)])
def test_resnet_50_has_the_size_that_is_known(norm, statistics):
    # torchvision's, whose 53 counts of batches aren't among the statistics.
    assert count(full(norm), nnx.Param) == 25_557_032
    assert count(full(norm), nnx.BatchStat) == statistics
    assert size_of((3, 4, 6, 3), 64, 3, 1000) == 25_557_032


def test_stages_and_width_can_be_chosen():
    assert count(abstract(TINY), nnx.Param) == size_of((1, 2), 3, 2, 5)


def outputs(model, layer_type, image_shape):
    """Shapes that the layers of a type return for two images, in order."""
    shapes = []

    def record(layer, x):
        y = call(layer, x)
        shapes.append(y.shape)
        return y

    model.eval()
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    call = layer_type.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_type, "__call__", record)
        jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), state, images)
    return shapes


def test_resnet_50_halves_the_resolution_five_times():
    stages = [(56, 256, 3), (28, 512, 4), (14, 1024, 6), (7, 2048, 3)]
    expected = [(2, side, side, n) for side, n, number in stages for _ in range(number)]
    assert outputs(full("group"), Bottleneck, IMAGE) == expected


def test_the_3x3_convolution_has_the_stride_as_in_version_1_5():
    found = outputs(full("group"), nnx.Conv, IMAGE)
    assert found[0] == (2, 112, 112, 64)
    # The first block of the second stage, behind the stem, a block of 4 and two of 3.
    expected = [(28, 512), (56, 128), (28, 128), (28, 512)]
    assert found[11:15] == [(2, side, side, n) for side, n in expected]


@pytest.mark.parametrize("image_shape", [(32, 32, 3), (225, 97, 1)])
def test_other_images_fit_as_well(image_shape):
    model = abstract(partial(TINY.func, image_shape, 7, blocks=(1, 1, 1), width=2))
    model.eval()
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((3, *image_shape), jnp.float32)
    logits = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), state, images)
    assert (logits.shape, logits.dtype) == ((3, 7), jnp.float32)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_logits_and_parameters_are_float32_while_bfloat16_is_computed(norm):
    build = partial(TINY, norm=norm, dtype=jnp.bfloat16)
    images = jnp.ones((2, 40, 24, 2))
    jaxpr = jax.make_jaxpr(lambda: build(rngs=nnx.Rngs(0))(images))()
    outputs: list[Any] = list(jaxpr.out_avals)
    assert [(v.shape, v.dtype) for v in outputs] == [((2, 5), jnp.float32)]
    assert "conv_general_dilated" in str(jaxpr)
    convolutions = [line for line in str(jaxpr).splitlines() if "= conv_general" in line]
    assert convolutions
    assert all("bf16[" in line.split("=")[0] for line in convolutions)
    params = jax.tree.leaves(nnx.state(abstract(build), nnx.Param))
    assert {leaf.dtype for leaf in params} == {np.dtype("float32")}


# Against NumPy.


def convolve(x, kernel, stride):
    """A convolution by its definition, of odd size, padded by zeros on both sides."""
    size = len(kernel)
    padded = np.pad(x, [(0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    return np.einsum("nhwcij,ijcd->nhwd", windows[:, ::stride, ::stride], kernel)


def relu(x):
    return np.maximum(x, 0.0)


def numbers(*shape):
    return np.random.default_rng(0).normal(-0.2, 1.0, shape).astype(np.float32)


class Shift(nnx.Module):
    """A normalization that says where it stands, whatever its scale."""

    def __init__(self, features, *, rngs):
        del rngs
        self.scale = nnx.Param(jnp.ones(features))

    def __call__(self, x):
        return 1.5 * x - np.linspace(-0.5, 0.7, x.shape[-1], dtype=np.float32)


def shifted(x):
    return 1.5 * x - np.linspace(-0.5, 0.7, x.shape[-1])


@pytest.mark.parametrize(("before", "stride"), [(12, 1), (5, 1), (12, 2), (5, 2)])
def test_a_bottleneck_is_what_the_paper_draws(before, stride):
    x = numbers(2, 6, 5, before)

    @quick_jit
    def run():
        block = Bottleneck(before, 3, stride, norm=Shift, dtype=None, rngs=nnx.Rngs(0))
        convolutions = {n: p for n, p in vars(block).items() if isinstance(p, nnx.Conv)}
        return block(jnp.asarray(x)), {
            name: part.kernel[...] for name, part in convolutions.items()
        }

    y, found = run()
    kernels = {name: np.asarray(kernel, np.float64) for name, kernel in found.items()}
    branch = relu(shifted(convolve(x, kernels["conv1"], 1)))
    branch = relu(shifted(convolve(branch, kernels["conv2"], stride)))
    branch = shifted(convolve(branch, kernels["conv3"], 1))
    is_same = (before, stride) == (12, 1)
    shortcut = x if is_same else shifted(convolve(x, kernels["projection"], stride))
    np.testing.assert_allclose(y, relu(shortcut + branch), rtol=1e-4, atol=1e-4)


def test_the_stem_is_a_convolution_of_7x7_and_the_highest_of_3x3():
    # Of one sign over most of an image, so that in some channels nothing is above zero.
    images = numbers(2, 16, 13, 3) / 8 + numbers(2, 1, 1, 3)

    @quick_jit
    def run():
        model = BottleneckResNet((16, 13, 3), 4, blocks=(), width=5, rngs=nnx.Rngs(0))
        model.eval()
        return model(jnp.asarray(images)), (model.stem.kernel[...], model.head.kernel[...])

    logits, kernels = run()
    stem, head = (np.asarray(kernel, np.float64) for kernel in kernels)
    assert stem.shape == (7, 7, 3, 5)
    # Fresh statistics: mean 0, variance 1.
    x = relu(convolve(images, stem, 2) / math.sqrt(1 + 1e-5))
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    pooled = windows[:, ::2, ::2].max((-2, -1))
    assert pooled.shape == (2, 4, 4, 5)
    np.testing.assert_allclose(logits, pooled.mean((1, 2)) @ head, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_at_first_a_block_is_its_shortcut_and_the_network_can_leave_that(norm):
    images = jnp.asarray(numbers(3, 20, 12, 2))

    @quick_jit
    def run():
        model = TINY(blocks=(2,), norm=norm, rngs=nnx.Rngs(0))
        x = jnp.asarray(numbers(3, 4, 4, 12))
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def loss(params):
            logits = nnx.merge(graphdef, params, rest, copy=True)(images)
            return jax.nn.logsumexp(logits, axis=1).mean()

        return model.blocks[1](x), x, params, jax.grad(loss)(params)

    y, x, params, gradient = run()
    np.testing.assert_array_equal(y, relu(x))
    for block, moved in zip(
        params["blocks"].values(), gradient["blocks"].values(), strict=True
    ):
        scales = [block[name]["scale"][...] for name in ("norm1", "norm2", "norm3")]
        assert [float(scale.min()) for scale in scales] == [1.0, 1.0, 0.0]
        assert float(scales[2].max()) == 0.0
        assert np.all(np.isfinite(moved["norm3"]["scale"][...]))
        assert np.any(moved["norm3"]["scale"][...] != 0)
