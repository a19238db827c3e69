"""CIFAR-10 and CIFAR-100 with the papers' networks: a row for each method.

All methods on a network share its learning rate, weight decay, batches, epochs and
augmentation, so that a table compares methods and nothing else:

- ResNet-18 and PyramidNet-110 (270) are trained as ESAM's code trains them;
- WRN-28-10 as SAM's paper does, with what it calls basic augmentation;
- VGG16-BN, which F-SAM's paper has, as F-SAM's code trains ResNet-18.

All train with momentum 0.9 and a cosine. Each row tells the origin of its values, and
where the authors give none, the rule that ours follow.
"""

from dataclasses import dataclass, replace

from experiments.configs.cifar_methods import OWN
from experiments.configs.experiment import Experiment, Row
from experiments.configs.published import PUBLISHED
from experiments.data.augment import CROP_AND_FLIP

DATASETS = ("cifar10", "cifar100")


@dataclass(frozen=True)
class Base:
    """What all methods on a network share, and where it comes from, on each dataset."""

    experiment: Experiment
    origin: dict[str, str]


RESNET_18 = Experiment(
    dataset="cifar10",
    model="resnet18",
    method="sgd",
    epochs=200,
    learning_rate=0.05,
    weight_decay=1e-3,
    batch_size=128,
    augmentation=replace(CROP_AND_FLIP, cutout=16),
)
PYRAMIDNET_110 = replace(RESNET_18, model="pyramidnet110", epochs=300, weight_decay=5e-4)
VGG_16 = replace(RESNET_18, model="vgg16")
WRN_28_10 = replace(
    RESNET_18,
    model="wrn28_10",
    learning_rate=0.1,
    weight_decay=5e-4,
    batch_size=256,
    augmentation=CROP_AND_FLIP,
)

# The sentence's subject is all that `Base.experiment` sets.
ESAM = "ESAM's code for {} (Du et al., ICLR 2022)"
BASES = (
    Base(
        RESNET_18,
        {
            "cifar10": f"{ESAM.format('ResNet-18')}.",
            "cifar100": f"{ESAM.format('ResNet-18')}, and F-SAM's (Li et al., CVPR 2024).",
        },
    ),
    Base(
        WRN_28_10,
        dict.fromkeys(
            DATASETS,
            "SAM's paper (Foret et al., ICLR 2021); momentum and cosine as in ESAM's code.",
        ),
    ),
    Base(
        PYRAMIDNET_110,
        dict.fromkeys(
            DATASETS,
            f"{ESAM.format('PyramidNet-110 (270)')}, with the learning rate and batch size "
            f"that it has for ResNet-18.",
        ),
    ),
    Base(
        VGG_16,
        dict.fromkeys(
            DATASETS,
            "F-SAM's code for ResNet-18 on CIFAR-100 (Li et al., CVPR 2024), for want of "
            "theirs for VGG16-BN; not searched.",
        ),
    ),
)


def _row(base: Base, dataset: str, method: str) -> Row:
    model = base.experiment.model
    own = OWN[method](dataset, model)
    return Row(
        name=f"{dataset}_{model}_{method}",
        experiment=replace(base.experiment, dataset=dataset, method=method, **own.values),
        published=PUBLISHED.get((dataset, model, method)),
        origin=(
            "Learning rate, weight decay, batch size, epochs and augmentation, the same "
            f"for all methods here: {base.origin[dataset]} {own.origin}"
        ),
    )


CIFAR = tuple(
    _row(base, dataset, method) for dataset in DATASETS for base in BASES for method in OWN
)
