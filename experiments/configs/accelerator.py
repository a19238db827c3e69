"""What `experiments.accelerator` measures, at full size, and at one to try the program."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from experiments.configs import rows
from experiments.configs.benchmark import (
    ACCELERATOR,
    MLP_512,
    RESNET_18,
    Workload,
)
from experiments.configs.experiment import Row
from experiments.models import MLP, ResNet, ViT, zoo

# So long the rounds of a model's methods may take.
TIMING_SECONDS = 8.0


@dataclass(frozen=True)
class Sizes:
    """What is measured, from the most wanted to the least.

    Attributes:
      workloads: of the benchmark.
      largest: the name of the one whose largest batch is looked for.
      dtype: of all computation.
      configs: of `experiments.train`, SGD first; they differ in the method only.
      most_epochs: to train for, however many fit.
      rounds: of timing, at most.
      threads: in which programs are compiled side by side.
      methods: of the benchmark; None: all.
    """

    workloads: tuple[Workload, ...]
    largest: str
    dtype: str
    configs: tuple[str, ...]
    most_epochs: int
    rounds: int
    threads: int
    methods: tuple[str, ...] | None = None

    @property
    def rows(self) -> dict[str, Row]:
        """The configs by name."""
        return {name: rows.row(name) for name in self.configs}

    def training(self, epochs: int) -> dict[str, Any]:
        """What is changed in a config."""
        return {"epochs": epochs, "dtype": self.dtype}


def _bert(name: str, length: int, classes: int, **options: Any) -> Any:
    """A BERT of the zoo that drops nothing."""
    make = zoo.MODELS[name].make
    return make((length,), classes, dropout=0.0, **options)


BERT = Workload(
    name="bert",
    title="BERT-base, 128 tokens",
    model=partial(_bert, "bert_base", vocabulary=30_522),
    shape=(128,),
    classes=2,
    batch_size=128,
    vocabulary=30_522,
    segments=True,
)
VIT = Workload(
    name="vit",
    title="ViT-S/16, images of 224",
    model=partial(ViT, patch=16, width=384, depth=12, heads=6),
    shape=(224, 224, 3),
    classes=1000,
    batch_size=256,
)

FULL = Sizes(
    workloads=tuple(
        replace(workload, timing_seconds=TIMING_SECONDS)
        for workload in (ACCELERATOR["resnet18"], VIT, BERT, ACCELERATOR["mlp"])
    ),
    largest="vit",
    dtype="bfloat16",
    configs=("cifar10_resnet18_sgd", "cifar10_resnet18_k_sam"),
    most_epochs=200,
    rounds=25,
    threads=8,
)

# Of each kind the smallest: a BatchNorm network, one without, a text model.
TOY = Sizes(
    workloads=tuple(
        replace(workload, timing_seconds=0.2, batch_size=8)
        for workload in (
            replace(
                RESNET_18,
                title="ResNet of 4 channels",
                model=partial(ResNet, widths=(4,), blocks=1),
                shape=(6, 6, 3),
            ),
            replace(
                MLP_512,
                title="MLP 16-16-10",
                model=partial(MLP, widths=(16,)),
                shape=(4, 4, 1),
            ),
            replace(
                BERT,
                title="BERT-tiny, 6 tokens",
                model=partial(_bert, "bert_tiny", vocabulary=50),
                shape=(6,),
                vocabulary=50,
            ),
        )
    ),
    largest="mlp",
    dtype="float32",
    configs=("digits_sgd", "digits_k_sam"),
    most_epochs=2,
    rounds=3,
    threads=2,
)
