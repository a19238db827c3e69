"""The models that experiments call by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from experiments.models import CNN, MLP, VGG, PyramidNet, ResNet, ViT, WideResNet
from experiments.models.bert import BertClassifier
from experiments.models.bert_config import BertConfig
from experiments.models.huggingface import read_config
from experiments.models.resnet50 import BottleneckResNet
from experiments.models.text import TextTransformer
from experiments.shell.cli import UsageError, one_of

NORMS = ("batch", "group")
# None leaves images and parameters as they are: float32.
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclass(frozen=True)
class Architecture:
    """A model but for the data that it is for.

    Attributes:
      title: with its normalization of choice, as tables call it.
      make: (shape of an input, classes, dtype=..., rngs=...) -> NNX model; takes `norm` as
        well if that can be chosen, and of texts `vocabulary` and `dropout`.
      grouped: what tables call it with GroupNorm; None where nothing can be chosen.
      reads: "images" or "texts".
      bert: of a BERT, but for its vocabulary; None of other models.
      layers: what comparisons call it.
    """

    title: str
    make: Callable[..., Any]
    grouped: str | None = None
    reads: str = "images"
    bert: BertConfig | None = None
    layers: str = ""


def _transformer(shape: Sequence[int], classes: int, **options: Any) -> TextTransformer:
    (length,) = shape
    vocabulary = options.pop("vocabulary")
    return TextTransformer(length, vocabulary, classes, **options)


def _bert(title: str, layers: int, width: int) -> Architecture:
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    return Architecture(title, partial(_classifier, config), reads="texts", bert=config)


def _classifier(
    config: BertConfig,
    shape: Sequence[int],
    classes: int,
    *,
    vocabulary: int,
    dropout: float,
    given: BertConfig | None = None,
    **options: Any,
) -> BertClassifier:
    """Of a checkpoint's own sizes, if they are given."""
    (length,) = shape
    whole = given or replace(config, vocab_size=vocabulary)
    if length > whole.max_position_embeddings:
        raise UsageError(
            f"--length must be at most {whole.max_position_embeddings}, the positions "
            f"that the model has; got {length}"
        )
    rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    return BertClassifier(replace(whole, **rates), classes, **options)


MODELS = {
    "mlp": Architecture(
        "MLP (256-256)", partial(MLP, widths=(256, 256)), layers="MLP 256-256"
    ),
    "cnn": Architecture(
        "small CNN (16-32)",
        partial(CNN, channels=(16, 32), dense=128),
        layers="CNN 16-32, GroupNorm, dense 128",
    ),
    "cnn_wide": Architecture(
        "small CNN (16-32-64)",
        partial(CNN, channels=(16, 32, 64), dense=128),
        layers="CNN 16-32-64, GroupNorm, dense 128",
    ),
    "resnet8": Architecture(
        "ResNet-8",
        partial(ResNet, widths=(16, 32, 64), blocks=1),
        grouped="ResNet-8, GroupNorm",
    ),
    "resnet18": Architecture("ResNet-18", ResNet, grouped="ResNet-18, GroupNorm"),
    "wrn28_10": Architecture(
        "WRN-28-10",
        partial(WideResNet, depth=28, widen=10),
        grouped="WRN-28-10, GroupNorm",
    ),
    "pyramidnet110": Architecture(
        "PyramidNet-110 (270)",
        partial(PyramidNet, depth=110, alpha=270),
        grouped="PyramidNet-110 (270), GroupNorm",
    ),
    # The papers' "BN" is in the name, so that GroupNorm takes it away.
    "vgg16": Architecture("VGG16-BN", VGG, grouped="VGG16, GroupNorm"),
    "vit_ti": Architecture("ViT-Ti/4", partial(ViT, patch=4, width=192, depth=12, heads=3)),
    "vit_s": Architecture("ViT-S/4", partial(ViT, patch=4, width=384, depth=12, heads=6)),
    "resnet50": Architecture("ResNet-50", BottleneckResNet, grouped="ResNet-50, GroupNorm"),
    "vit_s_16": Architecture(
        "ViT-S/16", partial(ViT, patch=16, width=384, depth=12, heads=6)
    ),
    "transformer": Architecture(
        "transformer (64, 2 blocks)",
        partial(_transformer, width=64, depth=2, heads=2),
        reads="texts",
    ),
    "bert_tiny": _bert("BERT-tiny", 2, 128),
    "bert_base": _bert("BERT-base", 12, 768),
    "bert_large": _bert("BERT-large", 24, 1024),
}


def build(
    name: str,
    shape: Sequence[int],
    classes: int,
    *,
    norm: str = "batch",
    dtype: str = "float32",
    vocabulary: int | None = None,
    dropout: float = 0.0,
    pretrained: str | None = None,
) -> Callable[[nnx.Rngs], nnx.Module]:
    """Returns a function of the random streams that makes the model.

    Args:
      name: one of `MODELS`.
      shape: height, width, channels of an image; (length,) of a text.
      classes: number of outputs.
      norm: "batch" or "group". The MLP has no normalization, the CNNs always have
        GroupNorm and the transformers LayerNorm: they ignore "batch", the default.
      dtype: of the computation, one of `DTYPES`; parameters are float32.
      vocabulary: of texts.
      dropout: of models that read texts.
      pretrained: a checkpoint's folder, whose config.json says what isn't in the name.

    Raises:
      UsageError: if a name isn't known, or the model has no choice of normalization.
    """
    architecture = _named(name, norm)
    computed = DTYPES[one_of("--dtype", dtype, DTYPES)]
    options: dict[str, Any] = {"norm": norm} if architecture.grouped else {}
    if architecture.reads == "texts":
        options |= {"vocabulary": vocabulary, "dropout": dropout}
    if pretrained is not None:
        options["given"] = check_pretrained(name, pretrained)
    make = partial(architecture.make, shape, classes, dtype=computed, **options)
    return lambda rngs: make(rngs=rngs)


def check_pretrained(name: str, folder: str) -> BertConfig:
    """The settings of a checkpoint of that model.

    Raises:
      UsageError: if the model isn't a BERT, or the checkpoint's isn't this one.
    """
    expected = MODELS[name].bert
    if expected is None:
        known = ", ".join(n for n, model in MODELS.items() if model.bert)
        raise UsageError(
            f"--pretrained is not for --model {name}, which has no checkpoints; models "
            f"that have: {known}"
        )
    found = read_config(Path(folder))
    for field in ("num_hidden_layers", "hidden_size", "num_attention_heads"):
        mine, its = getattr(expected, field), getattr(found, field)
        if mine != its:
            raise UsageError(
                f"--pretrained {folder} has {field} {its}, and --model {name} has {mine}: "
                f"give the --model that it is of"
            )
    return found


def title(name: str, norm: str = "batch") -> str:
    """The model in words, for tables.

    Raises:
      UsageError: as `build`.
    """
    architecture = _named(name, norm)
    grouped = architecture.grouped if norm == "group" else None
    return grouped or architecture.title


def _named(name: str, norm: str) -> Architecture:
    architecture = MODELS[one_of("--model", name, MODELS)]
    one_of("--norm", norm, NORMS)
    if norm == "group" and architecture.grouped is None:
        choosable = ", ".join(n for n, other in MODELS.items() if other.grouped)
        raise UsageError(
            f"--norm must be batch for --model {name}, which has no choice; got {norm!r}. "
            f"Models with a choice: {choosable}"
        )
    return architecture
