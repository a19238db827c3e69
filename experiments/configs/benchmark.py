"""What the benchmark measures: six models, small on a CPU and larger elsewhere.

On two cores a step of SGD takes a few milliseconds (MLP) to two seconds (ResNet-18).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from experiments.models import CNN, MLP, ResNet, Transformer, ViT


@dataclass(frozen=True)
class Workload:
    """A model, the shape of its examples, and how much of it is measured.

    Attributes:
      name: what the command line calls it.
      title: the model in words.
      model: (example shape, classes, dtype=..., rngs=...) -> NNX model.
      shape: of one example; a length where `vocabulary` is given.
      classes: number of classes.
      batch_size: examples per step.
      vocabulary: number of different tokens; None for images.
      segments: whether the model reads `experiments.data.tokens.Tokens` and not numbers.
      swept: the methods whose share of the examples is varied.
      timing_seconds: how long the methods' rounds may take, and a quarter of it those of
        each other batch size; at least three rounds are done.
    """

    name: str
    title: str
    model: Callable[..., Any]
    shape: tuple[int, ...]
    classes: int
    batch_size: int
    vocabulary: int | None = None
    segments: bool = False
    swept: tuple[str, ...] = ("k_sam", "k_momentum_sam")
    timing_seconds: float = 45.0

    def build(self, dtype: str) -> Callable[..., Any]:
        """Returns a function of the random streams that makes the model.

        Args:
          dtype: of the computation; parameters are float32.
        """
        shape = self.shape[0] if self.vocabulary else self.shape
        computed = None if dtype == "float32" else dtype
        return lambda rngs: self.model(shape, self.classes, dtype=computed, rngs=rngs)


ALL_WITH_A_SHARE = (
    "random_sam",
    "k_sam",
    "esam",
    "k_momentum_sam",
    "k_sam_remembered",
    "k_momentum_remembered",
)

MLP_512 = Workload(
    name="mlp",
    title="MLP 784-512-512-10",
    model=partial(MLP, widths=(512, 512)),
    shape=(28, 28, 1),
    classes=10,
    batch_size=128,
    swept=ALL_WITH_A_SHARE,
)
MLP_SMALL = replace(
    MLP_512,
    name="mlp_small",
    title="MLP 784-512-10",
    model=partial(MLP, widths=(512,)),
)
CNN_64 = Workload(
    name="cnn",
    title="GroupNorm CNN 64-128-256",
    model=partial(CNN, channels=(64, 128, 256)),
    shape=(32, 32, 3),
    classes=10,
    batch_size=128,
    swept=ALL_WITH_A_SHARE,
)
RESNET_18 = Workload(
    name="resnet18",
    title="ResNet-18, BatchNorm",
    model=ResNet,
    shape=(32, 32, 3),
    classes=10,
    batch_size=32,
)
VIT_TINY = Workload(
    name="vit",
    title="ViT, width 128, 4 blocks",
    model=partial(ViT, patch=4, width=128, depth=4, heads=4),
    shape=(32, 32, 3),
    classes=10,
    batch_size=128,
)
TRANSFORMER = Workload(
    name="transformer",
    title="Transformer, width 128, 2 blocks",
    model=partial(Transformer, vocabulary=8192, width=128, depth=2, heads=4),
    shape=(64,),
    classes=2,
    batch_size=128,
    vocabulary=8192,
)

CPU = {w.name: w for w in (MLP_512, MLP_SMALL, CNN_64, RESNET_18, VIT_TINY, TRANSFORMER)}

ACCELERATOR = {
    workload.name: replace(workload, swept=ALL_WITH_A_SHARE, timing_seconds=30.0)
    for workload in (
        replace(
            MLP_512,
            title="MLP 784-2048-2048-10",
            model=partial(MLP, widths=(2048, 2048)),
            batch_size=4096,
        ),
        MLP_SMALL,
        replace(CNN_64, batch_size=1024),
        replace(RESNET_18, batch_size=512),
        replace(
            VIT_TINY,
            title="ViT-S, patches of 4",
            model=partial(ViT, patch=4, width=384, depth=12, heads=6),
            batch_size=256,
        ),
        replace(
            TRANSFORMER,
            title="Transformer, width 512, 6 blocks",
            model=partial(Transformer, vocabulary=8192, width=512, depth=6, heads=8),
            shape=(256,),
            batch_size=128,
        ),
    )
}


def workloads(backend: str) -> dict[str, Workload]:
    """The models for JAX's backend of that name."""
    return CPU if backend == "cpu" else ACCELERATOR
