"""The papers' vision models: published sizes, shapes, types, blocks and statistics."""

import functools
import itertools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import quick_jit, slow_but

from experiments.models import VGG, PyramidNet, ViT, WideResNet
from experiments.models.layers import norms
from experiments.models.pyramidnet import PyramidBlock, channels
from experiments.models.vgg import Layer
from experiments.models.wide_resnet import PreActivationBlock

IMAGE = (32, 32, 3)
FULL = {"wide_resnet": WideResNet, "pyramidnet": PyramidNet, "vgg": VGG}
# Widths that 32 doesn't divide, and stages that halve the resolution.
TINY = {
    "wide_resnet": partial(WideResNet, depth=10, widen=1),
    "pyramidnet": partial(PyramidNet, depth=8, alpha=7),
    "vgg": partial(VGG, stages=((6, 5), (9,))),
}


class OneKey:
    """Random streams that don't count: NNX takes long to trace hundreds of counts."""

    def params(self):
        return jax.random.key(0)


def abstract(build):
    return nnx.eval_shape(lambda: build(rngs=OneKey()))


def on_shapes(model):
    """A function of state and images, and the state; without statistics to update."""
    model.eval()
    graphdef, state = nnx.split(model)
    return lambda state, images: nnx.merge(graphdef, state)(images), state


@functools.cache
def full(name, classes, norm):
    return abstract(partial(FULL[name], IMAGE, classes, norm=norm))


def images_of(n, shape):
    return jax.ShapeDtypeStruct((n, *shape), jnp.float32)


def parameters(model):
    return jax.tree.leaves(nnx.state(model, nnx.Param))


def count(model):
    return sum(math.prod(leaf.shape) for leaf in parameters(model))


def statistics(model):
    return jax.tree.leaves(nnx.state(model, nnx.BatchStat))


# Sizes, by hand: 9 m n for a 3x3 convolution, 2 n for a normalization.


def wide_resnet_size(depth, widen, classes):
    size, entering = 9 * 3 * 16, 16
    for width in (16 * widen, 32 * widen, 64 * widen):
        first = 2 * entering + 9 * entering * width + 2 * width + 9 * width**2
        projection = entering * width if entering != width else 0
        others = (depth - 4) // 6 - 1
        size += first + projection + others * (18 * width**2 + 4 * width)
        entering = width
    return size + 2 * entering + (entering + 1) * classes


def pyramidnet_size(widths, classes):
    size = 9 * 3 * widths[0] + 2 * widths[0]
    for m, n in itertools.pairwise(widths):
        size += 2 * m + 9 * m * n + 2 * n + 9 * n * n + 2 * n
    return size + 2 * widths[-1] + (widths[-1] + 1) * classes


def vgg16_size(classes):
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    size = sum(9 * m * n + n + 2 * n for m, n in itertools.pairwise(widths))
    return size + 513 * classes


def encoder_size(length, width, depth):
    attention = 4 * (width * width + width)
    perceptron = 8 * width * width + 5 * width
    return length * width + depth * (attention + perceptron + 4 * width) + 2 * width


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("classes", "size"), [(10, 36_479_194), (100, 36_536_884)])
def test_wide_resnet_28_10_has_the_published_36_5_million(classes, size, norm):
    assert count(full("wide_resnet", classes, norm)) == size
    assert size == wide_resnet_size(28, 10, classes)
    assert round(size / 1e6, 1) == 36.5


def test_the_size_of_a_thin_wide_resnet_whose_first_stage_has_nothing_to_project():
    model = abstract(partial(WideResNet, IMAGE, 7, depth=16, widen=1))
    assert count(model) == wide_resnet_size(16, 1, 7)
    projected = [block.is_projected for block in model.blocks]
    assert projected == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    ("classes", "norm", "size"),
    [(10, "batch", 28_485_477), (10, "group", 28_485_477), (100, "batch", 28_511_307)],
)
def test_pyramidnet_110_is_within_a_hundredth_of_the_published(classes, norm, size):
    assert count(full("pyramidnet", classes, norm)) == size
    assert size == pyramidnet_size(range(16, 287, 5), classes)
    # These are the sizes of the authors' code and of pytorchcv; the paper prints 28.3M.
    assert size == pytest.approx(28.3e6, rel=0.01)


# pytorchcv counts as many; the paper prints 1.7M and 3.8M.
@pytest.mark.parametrize(("alpha", "size"), [(48, 1_772_706), (84, 3_904_446)])
def test_pyramidnet_rounds_its_widths_to_the_nearest(alpha, size):
    assert pyramidnet_size(channels(110, alpha), 10) == size
    # 54 steps of alpha / 54, in integers.
    assert channels(110, alpha) == [16 + (2 * alpha * i + 54) // 108 for i in range(55)]


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("classes", "size"), [(10, 14_728_266), (100, 14_774_436)])
def test_vgg16_has_the_size_that_is_known(classes, size, norm):
    assert count(full("vgg", classes, norm)) == size == vgg16_size(classes)


@pytest.mark.parametrize(
    ("width", "heads", "small", "timm"),
    [(192, 3, 5_362_378, 5_717_416), (384, 6, 21_341_578, 22_050_664)],
    ids=["Ti", "S"],
)
def test_vit_ti_and_s_have_the_sizes_that_are_known(width, heads, small, timm):
    build = partial(ViT, width=width, depth=12, heads=heads)
    ends = 4 * 4 * 3 * width + width + 10 * width + 10
    assert count(abstract(partial(build, IMAGE, 10))) == small
    assert small == ends + encoder_size(64, width, 12)
    published = abstract(partial(build, (224, 224, 3), 1000, patch=16))
    # We take the mean over the tokens: no class token, and no position for it.
    assert count(published) == timm - 2 * width


@pytest.mark.parametrize(("name", "layers"), [("wide_resnet", 25), ("pyramidnet", 164)])
def test_only_batch_norm_has_statistics(name, layers):
    # Two in each of 12 blocks and one behind; three in each of 54, and one at each end.
    assert len(statistics(full(name, 10, "batch"))) == 2 * layers
    assert not statistics(full(name, 10, "group"))


@pytest.mark.parametrize(
    ("features", "groups"), [(5, 5), (16, 16), (41, 1), (64, 32), (286, 26)]
)
def test_groups_divide_the_channels_and_are_32_at_most(features, groups):
    layer = abstract(partial(norms(None)["group"], features))
    assert layer.num_groups == groups


# Shapes and types.


def outputs(model, layer_type):
    """Shapes that the layers of a type return for two images, in order."""
    shapes = []

    def record(layer, x):
        y = call(layer, x)
        shapes.append(y.shape)
        return y

    call = layer_type.__call__
    apply, state = on_shapes(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_type, "__call__", record)
        jax.eval_shape(apply, state, images_of(2, IMAGE))
    return shapes


def test_wide_resnet_28_10_halves_the_resolution_twice():
    expected = [(2, side, side, 5120 // side) for side in (32, 16, 8) for _ in range(4)]
    assert outputs(full("wide_resnet", 10, "batch"), PreActivationBlock) == expected


def test_pyramidnet_110_halves_the_resolution_twice_and_widens_in_each_block():
    expected = [(2, 32 >> i // 18, 32 >> i // 18, 21 + 5 * i) for i in range(54)]
    assert outputs(full("pyramidnet", 10, "batch"), PyramidBlock) == expected


def test_vgg16_halves_the_resolution_behind_each_stage():
    stages = [(32, 64), (16, 128), (8, 256), (4, 512), (2, 512)]
    expected = [
        (2, side, side, width)
        for (side, width), depth in zip(stages, (2, 2, 3, 3, 3), strict=True)
        for _ in range(depth)
    ]
    assert outputs(full("vgg", 10, "batch"), Layer) == expected


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(
    ("image_shape", "classes"), [(IMAGE, 10), ((28, 28, 1), 100), ((13, 18, 2), 3)]
)
def test_there_is_a_logit_for_each_class_whatever_the_image(
    name, norm, image_shape, classes
):
    model = abstract(partial(TINY[name], image_shape, classes, norm=norm))
    logits = jax.eval_shape(*on_shapes(model), images_of(3, image_shape))
    assert (logits.shape, logits.dtype) == ((3, classes), jnp.float32)


# 28 can't be halved five times, and of 64 more than a pixel is left.
@pytest.mark.parametrize("image_shape", [(28, 28, 1), (64, 64, 3)])
def test_vgg16_takes_images_of_other_sizes(image_shape):
    model = abstract(partial(VGG, image_shape, 7))
    logits = jax.eval_shape(*on_shapes(model), images_of(2, image_shape))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_logits_and_parameters_are_float32_whatever_is_computed_in(name, norm, dtype):
    build = partial(TINY[name], IMAGE, 10, norm=norm, dtype=dtype)
    model = abstract(build)
    assert {leaf.dtype for leaf in parameters(model)} == {np.dtype("float32")}
    apply, state = on_shapes(model)
    jaxpr: Any = jax.make_jaxpr(apply)(state, images_of(3, IMAGE))
    assert [logits.dtype for logits in jaxpr.out_avals] == [np.dtype("float32")]
    convolutions = [e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    assert {e.outvars[0].aval.dtype for e in convolutions} == {
        np.dtype(jnp.bfloat16 if dtype else jnp.float32)
    }


@pytest.mark.parametrize(
    ("model", "depth", "rule"),
    [
        (WideResNet, 27, r"6 n \+ 4"),
        (WideResNet, 4, r"6 n \+ 4"),
        (PyramidNet, 2, r"6 n \+ 2"),
    ],
)
def test_a_depth_without_a_network_is_refused(model, depth, rule):
    with pytest.raises(ValueError, match=rf"\(depth={depth}\): depth must be {rule}"):
        model(IMAGE, 10, depth=depth, rngs=nnx.Rngs(0))


# The blocks, against NumPy: with a normalization that says where it stands.


def shift(features, *, rngs):
    del rngs
    return lambda x: 1.5 * x - np.linspace(-0.5, 0.7, features, dtype=np.float32)


def convolve(x, kernel, stride):
    """A convolution by its definition, of odd size, padded by zeros on both sides."""
    size = len(kernel)
    padded = np.pad(x, [(0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    return np.einsum("nhwcij,ijcd->nhwd", windows[:, ::stride, ::stride], kernel)


def numbers(*shape):
    return np.random.default_rng(0).normal(-0.2, 1.0, shape).astype(np.float32)


def normalized(x):
    return shift(x.shape[-1], rngs=None)(np.asarray(x, np.float64))


def relu(x):
    return np.maximum(x, 0.0)


def run_block(block_type, after, stride, x):
    """What a block returns, and the kernels of its convolutions by their names."""

    @quick_jit
    def run():
        block = block_type(3, after, stride, norm=shift, dtype=None, rngs=nnx.Rngs(0))
        return block(x), {
            name: part.kernel[...]
            for name, part in vars(block).items()
            if isinstance(part, nnx.Conv)
        }

    y, kernels = run()
    return y, {name: np.asarray(kernel, np.float64) for name, kernel in kernels.items()}


@pytest.mark.parametrize(("after", "stride"), [(3, 1), (5, 1), (5, 2)])
def test_a_pre_activation_block_is_what_the_paper_draws(after, stride):
    x = numbers(2, 6, 4, 3)
    y, kernels = run_block(PreActivationBlock, after, stride, x)
    activated = relu(normalized(x))
    branch = convolve(activated, kernels["conv1"], stride)
    expected = convolve(relu(normalized(branch)), kernels["conv2"], 1)
    is_same = (after, stride) == (3, 1)
    expected += x if is_same else convolve(activated, kernels["projection"], stride)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("after", "stride"), [(3, 1), (5, 1), (5, 2)])
def test_a_pyramid_block_is_what_the_paper_draws(after, stride):
    x = numbers(2, 6, 4, 3)
    y, kernels = run_block(PyramidBlock, after, stride, x)
    branch = normalized(convolve(normalized(x), kernels["conv1"], stride))
    expected = normalized(convolve(relu(branch), kernels["conv2"], 1))
    averaged = x.reshape(2, 3, 2, 2, 2, 3).mean((2, 4)) if stride == 2 else x
    expected[..., :3] += averaged
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


# Tiny networks, for real.


@functools.cache
def tiny(name, norm):
    """The definition of a tiny network, its parameters, and its other state."""
    model = abstract(partial(TINY[name], (8, 8, 2), 3, norm=norm))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(1)

    def weights(leaf):
        values = rng.normal(0.1, 1.0, leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))
        return values.astype(np.float32)

    def positive(leaf):
        return rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32)

    return graphdef, jax.tree.map(weights, params), jax.tree.map(positive, rest)


@functools.cache
def trainer(name, norm):
    """(parameters, other state, images) -> logits, new other state, the gradient."""
    graphdef, _, _ = tiny(name, norm)

    def loss(params, rest, images):
        model = nnx.merge(graphdef, params, rest, copy=True)
        logits = model(images)
        negative = -jax.nn.log_softmax(logits)[:, 1].mean()
        return negative, (logits, nnx.state(model, nnx.Not(nnx.Param)))

    def step(params, rest, images):
        gradient, (logits, new) = jax.grad(loss, has_aux=True)(params, rest, images)
        return logits, new, gradient

    return quick_jit(step)


def with_other_neighbours(images):
    """The same second example among others."""
    return np.where(np.arange(len(images))[:, None, None, None] == 1, images, 1.0 - images)


@pytest.mark.parametrize("norm", slow_but(("batch",), ("batch", "group")))
@pytest.mark.parametrize("name", TINY)
def test_every_kernel_has_a_gradient_and_all_are_finite(name, norm):
    _, params, rest = tiny(name, norm)
    _, _, gradient = trainer(name, norm)(params, rest, numbers(4, 8, 8, 2))
    for leaf in map(np.asarray, jax.tree.leaves(gradient)):
        assert np.all(np.isfinite(leaf))
        # BatchNorm subtracts the biases of VGG's convolutions again.
        assert np.any(leaf != 0) or leaf.ndim == 1


@pytest.mark.parametrize("name", TINY)
def test_an_example_sees_others_through_batch_norm_and_not_through_group_norm(name):
    images = numbers(4, 8, 8, 2)
    logits = {}
    for norm in ("batch", "group"):
        _, params, rest = tiny(name, norm)
        step = trainer(name, norm)
        for among, batch in (("these", images), ("those", with_other_neighbours(images))):
            logits[norm, among] = step(params, rest, batch)[0]
    assert not np.allclose(
        logits["batch", "these"][1], logits["batch", "those"][1], rtol=1e-2
    )
    np.testing.assert_allclose(
        logits["group", "these"][1], logits["group", "those"][1], rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(
        logits["group", "these"][0], logits["group", "those"][0], rtol=1e-2
    )


def joined(tree):
    return np.concatenate(jax.tree.leaves(tree))


@pytest.mark.parametrize("name", TINY)
def test_batch_norm_moves_its_statistics_a_tenth_of_the_way(name):
    images = numbers(4, 8, 8, 2)
    _, params, rest = tiny(name, "batch")
    step = trainer(name, "batch")
    # From elsewhere too: what training adds doesn't depend on where the statistics were.
    displaced = jax.tree.map(lambda x: x + 2.0, rest)
    new, new_displaced = (joined(step(params, r, images)[1]) for r in (rest, displaced))
    np.testing.assert_allclose(new_displaced, new + 0.9 * 2.0, rtol=1e-5)
    assert not np.any(np.isclose(new_displaced, joined(rest) + 2.0, rtol=1e-3))


@pytest.mark.parametrize("name", TINY)
def test_batch_norm_moves_its_statistics_in_training_only(name):
    images = numbers(4, 8, 8, 2)
    graphdef, params, rest = tiny(name, "batch")
    after = trainer(name, "batch")(params, rest, images)[1]

    @quick_jit
    def evaluate(images):
        model = nnx.merge(graphdef, params, after, copy=True)
        model.eval()
        return model(images), nnx.state(model, nnx.BatchStat)

    logits, kept = evaluate(images)
    np.testing.assert_array_equal(joined(kept), joined(after))
    others, _ = evaluate(with_other_neighbours(images))
    np.testing.assert_allclose(others[1], logits[1], rtol=1e-5, atol=1e-6)
