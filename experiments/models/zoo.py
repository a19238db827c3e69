"""The models that experiments call by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx

from experiments.cli import UsageError, one_of
from experiments.models import CNN, MLP, VGG, PyramidNet, ResNet, ViT, WideResNet

NORMS = ("batch", "group")
# None leaves images and parameters as they are: float32.
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Architecture:
    """A model but for the data that it is for.

    Attributes:
      title: with its normalization of choice, as tables call it.
      make: (image shape, classes, dtype=..., rngs=...) -> NNX model; takes `norm` as well
        if that can be chosen.
      grouped: what tables call it with GroupNorm; None where nothing can be chosen.
    """

    title: str
    make: Callable[..., Any]
    grouped: str | None = None


MODELS = {
    "mlp": Architecture("MLP (256-256)", partial(MLP, widths=(256, 256))),
    "cnn": Architecture("small CNN (16-32)", partial(CNN, channels=(16, 32), dense=128)),
    "cnn_wide": Architecture(
        "small CNN (16-32-64)", partial(CNN, channels=(16, 32, 64), dense=128)
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
}


def build(
    name: str,
    image_shape: Sequence[int],
    classes: int,
    *,
    norm: str = "batch",
    dtype: str = "float32",
) -> Callable[[nnx.Rngs], nnx.Module]:
    """Returns a function of the random streams that makes the model.

    Args:
      name: one of `MODELS`.
      image_shape: height, width, channels.
      classes: number of logits.
      norm: "batch" or "group". The MLP has no normalization, the CNNs always have
        GroupNorm and the transformers LayerNorm: they ignore "batch", the default.
      dtype: of the computation, "float32" or "bfloat16"; parameters are float32.

    Raises:
      UsageError: if a name isn't known, or the model has no choice of normalization.
    """
    architecture = _named(name, norm)
    computed = DTYPES[one_of("--dtype", dtype, DTYPES)]
    options: dict[str, Any] = {"norm": norm} if architecture.grouped else {}
    make = partial(architecture.make, image_shape, classes, dtype=computed, **options)
    return lambda rngs: make(rngs=rngs)


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
