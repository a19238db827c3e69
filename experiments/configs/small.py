"""Small networks for three epochs: these show that the path works, and no more.

A ResNet-8 on CIFAR, a small CNN on all of Fashion-MNIST.
"""

from dataclasses import replace

from experiments.configs.cifar_methods import USUAL
from experiments.configs.experiment import Experiment, Row
from experiments.data.augment import CROP_AND_FLIP, NOTHING

SGD = Experiment(
    dataset="cifar10",
    model="resnet8",
    method="sgd",
    epochs=3,
    learning_rate=0.1,
    weight_decay=5e-4,
    batch_size=128,
    augmentation=CROP_AND_FLIP,
)
# For this CNN, which has no BatchNorm, our search on MNIST chose a lower rate.
CNN = replace(
    SGD, dataset="fashion_mnist", model="cnn", learning_rate=0.05, augmentation=NOTHING
)
BASES = (SGD, replace(SGD, dataset="cifar100"), CNN)

ORIGIN = (
    "A proof that the path from data to result works: nothing was searched, and three "
    "epochs of a small network compare with no published figure, nor does their order say "
    "which method is better. Learning rate and weight decay are "
)
SETTINGS = {
    "resnet8": "those of SAM's paper for WRN-28-10 (Foret et al., ICLR 2021)",
    "cnn": "ours, half of that and the same as those of SAM's paper for WRN-28-10",
}

SMALL = tuple(
    Row(
        name=f"{base.dataset}_{base.model}_{method}",
        experiment=replace(base, method=method, **own.values),
        published=None,
        origin=f"{ORIGIN}{SETTINGS[base.model]}; {own.origin}",
    )
    for base in BASES
    for method, own in USUAL.items()
)
