"""Every model by its name: sizes, outputs, types, titles and what is refused."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from problems import slow_but

from experiments.data.tokens import Tokens
from experiments.models import zoo
from experiments.shell.cli import UsageError


class OneKey:
    """Random streams that don't count: NNX takes long to trace hundreds of counts."""

    def params(self):
        return jax.random.key(0)


SHAPES = {"vit_s_16": (224, 224, 3)}
LENGTH, VOCABULARY = 40, 8192


@functools.cache
def abstract(name, classes, norm="batch", dtype="float32"):
    reads = zoo.MODELS[name].reads
    shape = {"images": SHAPES.get(name, (32, 32, 3)), "texts": (LENGTH,)}[reads]
    vocabulary = VOCABULARY if reads == "texts" else None
    make = zoo.build(name, shape, classes, norm=norm, dtype=dtype, vocabulary=vocabulary)
    streams: Any = OneKey()
    return nnx.eval_shape(lambda: make(streams))


def logits(name, model):
    model.eval()
    graphdef, state = nnx.split(model)
    inputs: Any = jax.ShapeDtypeStruct((3, *SHAPES.get(name, (32, 32, 3))), jnp.float32)
    if zoo.MODELS[name].reads == "texts":
        shapes = (jax.ShapeDtypeStruct((3, LENGTH), dtype) for dtype in ("uint16", "uint8"))
        inputs = Tokens(*shapes)
    return jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, inputs)


# What is as another one but for its sizes, and takes long to trace.
LARGER = {"vit_s", "vit_s_16", "bert_base", "bert_large"}


@pytest.mark.parametrize(
    "name",
    slow_but(
        zoo.MODELS.keys() - {"pyramidnet110"}, [m for m in zoo.MODELS if m not in LARGER]
    ),
)
def test_every_model_has_logits_of_its_classes(name):
    out = logits(name, abstract(name, 10))
    assert (out.shape, out.dtype) == ((3, 10), jnp.float32)


@pytest.mark.parametrize(
    "name", ["mlp", "cnn_wide", "resnet8", "vit_ti", "transformer", "bert_tiny"]
)
def test_the_type_is_that_of_the_computation_not_of_the_parameters(name):
    model = abstract(name, 7, dtype="bfloat16")
    assert jnp.dtype("bfloat16") in computed(model)
    assert computed(abstract(name, 7)) <= {None, jnp.dtype("float32")}
    out = logits(name, model)
    assert (out.shape, out.dtype) == ((3, 7), jnp.float32)
    types = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))}
    assert types == {jnp.dtype("float32")}


def computed(model):
    """The types that layers were told to compute in."""
    layers = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)]
    types = {vars(layer)["dtype"] for layer in layers if "dtype" in vars(layer)}
    return {None if each is None else jnp.dtype(each) for each in types}


@pytest.mark.parametrize(
    ("name", "classes", "size"),
    [
        ("resnet18", 10, 11_173_962),
        ("wrn28_10", 10, 36_479_194),
        ("pyramidnet110", 10, 28_485_477),
        ("vgg16", 10, 14_728_266),
        ("vit_ti", 10, 5_362_378),
        ("vit_s", 10, 21_341_578),
        # 1x1 shortcuts included: 3 16 9 + 2 16, then three blocks, then 64 7 + 7.
        ("resnet8", 7, 464 + 4672 + 14_528 + 57_728 + 455),
        # As the MNIST protocol: 8 x 8 x 32 numbers before the dense layer.
        ("cnn", 7, 448 + 32 + 4640 + 64 + 2049 * 128 - 128 + 128 + 129 * 7),
        ("mlp", 7, 3073 * 256 + 257 * 256 + 257 * 7),
        # 14 x 14 places of 16 x 16 pixels, and no token for the class.
        ("vit_s_16", 1000, 295_296 + 75_264 + 12 * 1_774_464 + 768 + 385_000),
        ("transformer", 2, (8192 + 2 + 40) * 64 + 2 * 49_984 + 128 + 130),
        # With 30,522 tokens it is the published size; and the classifier.
        ("bert_large", 3, 335_141_888 - (30_522 - 8192) * 1024 + 3075),
        ("bert_tiny", 2, 4_385_920 - (30_522 - 8192) * 128 + 258),
    ],
)
def test_sizes(name, classes, size):
    params = jax.tree.leaves(nnx.state(abstract(name, classes), nnx.Param))
    assert sum(math.prod(leaf.shape) for leaf in params) == size


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_normalization_is_chosen(norm):
    model = abstract("resnet8", 10, norm)
    assert bool(jax.tree.leaves(nnx.state(model, nnx.BatchStat))) == (norm == "batch")


@pytest.mark.parametrize(
    ("name", "norm", "expected"),
    [
        ("vgg16", "batch", "VGG16-BN"),
        ("vgg16", "group", "VGG16, GroupNorm"),
        ("pyramidnet110", "batch", "PyramidNet-110 (270)"),
        ("cnn", "batch", "small CNN (16-32)"),
    ],
)
def test_titles(name, norm, expected):
    assert zoo.title(name, norm) == expected


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "resnet81",
            {},
            "unknown --model 'resnet81'; did you mean 'resnet8'.*bert_large$",
        ),
        ("cnn", {"norm": "layer"}, "unknown --norm 'layer'.* Valid: batch, group$"),
        ("cnn", {"dtype": "float8"}, "--dtype 'float8'.* float32, bfloat16, float16$"),
        (
            "vit_s",
            {"norm": "group"},
            "--norm must be batch for --model vit_s, which has no choice; got 'group'. "
            "Models with a choice: resnet8, .* vgg16, resnet50$",
        ),
    ],
)
def test_unknown_names_are_one_line(name, options, message):
    with pytest.raises(UsageError, match=message):
        zoo.build(name, (32, 32, 3), 10, **options)
