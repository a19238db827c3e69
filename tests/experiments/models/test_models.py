"""Models: sizes counted by hand, shapes, types, and BatchNorm's statistics."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from problems import quick_jit

from experiments.models import CNN, MLP, ResNet, Transformer, ViT

IMAGE = (32, 32, 3)


def abstract(build):
    return nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))


def parameters(model):
    return jax.tree.leaves(nnx.state(model, nnx.Param))


def count(model):
    return sum(math.prod(leaf.shape) for leaf in parameters(model))


def encoder(length, width, depth):
    """Positions, blocks (attention, perceptron, two norms), the last norm."""
    attention = 4 * (width * width + width)
    perceptron = 8 * width * width + 5 * width
    return length * width + depth * (attention + perceptron + 4 * width) + 2 * width


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_resnet_18_has_the_size_that_is_known(norm):
    model = abstract(partial(ResNet, IMAGE, 10, norm=norm))
    assert count(model) == 11_173_962
    # A mean and a variance for each of 20 normalizations; GroupNorm has no statistics.
    statistics = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    assert len(statistics) == (40 if norm == "batch" else 0)


def test_resnet_18_halves_the_resolution_in_each_stage_but_the_first():
    model = abstract(partial(ResNet, IMAGE, 10))
    graphdef, state = nnx.split(model)

    def sizes(state, images):
        model = nnx.merge(graphdef, state)
        x = model.stem(images)
        outputs = []
        for block in model.blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    outputs = jax.eval_shape(sizes, state, jnp.zeros((2, *IMAGE)))
    expected = [(2, side, side, 2048 // side) for side in (32, 16, 8, 4)]
    assert [output.shape for output in outputs] == [s for s in expected for _ in range(2)]


@pytest.mark.parametrize(("width", "depth", "heads"), [(128, 4, 4), (384, 12, 6)])
def test_the_size_of_a_vit(width, depth, heads):
    model = abstract(partial(ViT, IMAGE, 10, width=width, depth=depth, heads=heads))
    ends = 4 * 4 * 3 * width + width + 10 * width + 10
    assert count(model) == ends + encoder(64, width, depth)


def test_the_size_of_a_transformer():
    model = abstract(partial(Transformer, 24, 5, vocabulary=99, width=12, depth=3, heads=2))
    assert count(model) == 99 * 12 + encoder(24, 12, 3) + 5 * 12 + 5


def test_patches_must_cover_the_image():
    with pytest.raises(ValueError, match=r"patch must divide the image's sides; got 28x30"):
        ViT((28, 30, 1), 10, patch=4, rngs=nnx.Rngs(0))


BUILDS = {
    "mlp": partial(MLP, IMAGE, 10),
    "cnn": partial(CNN, IMAGE, 10),
    "resnet": partial(ResNet, IMAGE, 10, widths=(4, 8), blocks=1),
    "resnet_group": partial(ResNet, IMAGE, 10, widths=(4, 8), blocks=1, norm="group"),
    "vit": partial(ViT, IMAGE, 10, width=8, depth=1, heads=2),
    "transformer": partial(Transformer, 6, 10, vocabulary=9, width=8, depth=1, heads=2),
}


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_logits_and_parameters_are_float32_whatever_is_computed_in(name, dtype):
    inputs = (
        jnp.zeros((3, 6), jnp.int32) if name == "transformer" else jnp.ones((3, *IMAGE))
    )
    build = partial(BUILDS[name], dtype=dtype)
    logits = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))(inputs))
    assert (logits.shape, logits.dtype) == ((3, 10), jnp.float32)
    assert {leaf.dtype for leaf in parameters(abstract(build))} == {np.dtype("float32")}
    jaxpr = str(jax.make_jaxpr(lambda: build(rngs=nnx.Rngs(0))(inputs))())
    assert ("bf16" in jaxpr) == (dtype == "bfloat16")


def test_batch_norm_moves_its_statistics_a_tenth_of_the_way():
    images = jnp.float32(np.random.default_rng(0).normal(1.0, 2.0, (5, 8, 8, 3)))

    @quick_jit
    def statistics():
        model = ResNet((8, 8, 3), 2, widths=(4,), blocks=1, rngs=nnx.Rngs(0))
        entering = model.stem(images)
        model(images)
        return entering, model.norm.mean[...], model.norm.var[...]

    entering, mean, variance = statistics()
    x = np.asarray(entering, np.float64)
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(variance, 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet_group", "vit", "transformer"])
def test_an_example_sees_no_other(name):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(3, *IMAGE)).astype(np.float32)
    if name == "transformer":
        inputs = rng.integers(9, size=(3, 6))

    @quick_jit
    def logits():
        model = BUILDS[name](rngs=nnx.Rngs(0))
        return model(inputs), model(inputs[1:2])

    together, alone = logits()
    assert not np.allclose(together[1], together[0], rtol=1e-2)
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-4, atol=1e-5)
