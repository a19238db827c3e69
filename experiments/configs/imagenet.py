"""ImageNet with ResNet-50 and with ViT-S/16, in bfloat16, for many devices."""

from dataclasses import replace

from experiments.configs.experiment import Experiment, Published, Row
from experiments.configs.large_methods import METHODS
from experiments.data.augment import Augmentation

# The random part of the image is drawn while it is decoded.
FLIP = Augmentation(flip=True)
# Of batches of 256, which others are in proportion to (Goyal et al., 2017).
RATE = 0.1

RESNET50 = Experiment(
    dataset="imagenet2012",
    model="resnet50",
    method="sgd",
    epochs=100,
    learning_rate=RATE * 4096 / 256,
    weight_decay=1e-4,
    batch_size=4096,
    warmup=0.05,
    decay_all=False,
    augmentation=FLIP,
    label_smoothing=0.1,
    dtype="bfloat16",
)
VIT_S_16 = Experiment(
    dataset="imagenet2012",
    model="vit_s_16",
    method="adamw",
    optimizer="adamw",
    epochs=90,
    learning_rate=1e-3,
    weight_decay=0.1,
    batch_size=1024,
    warmup=0.09,
    clip=1.0,
    decay_all=False,
    augmentation=FLIP,
    label_smoothing=0.1,
    dtype="bfloat16",
)

RESNET50_ORIGIN = (
    "100 epochs as in SAM's paper (Foret et al., ICLR 2021). The rest is a usual recipe "
    "for large batches, after Goyal et al. (2017): a learning rate of 0.1 for every 256 "
    "examples of the batch, rising over 5 epochs, weight decay 1e-4 but for biases and "
    "norms; label smoothing 0.1; not searched. "
)
VIT_S_16_ORIGIN = (
    "Batch 1,024, 90 epochs, learning rate 1e-3 that rises for 10,000 steps, and weight "
    "decay 1e-4, which is 0.1 times that rate, follow Beyer et al. (2022), who also use "
    "RandAugment and Mixup: this has neither, but label smoothing 0.1; not searched. "
)

FORET = (
    "Foret et al., ICLR 2021 (SAM): top-1 error {} % after 100 epochs; batch, learning "
    "rate and spread aren't known to us"
)
GROUP = (
    "ESAM's group, as quoted by others: SGD has 76.0 and SAM 76.9 there; epochs, settings "
    "and spread aren't known to us"
)
PUBLISHED = {
    "sgd": Published(77.1, None, None, FORET.format(22.9)),
    "sam": Published(77.5, None, None, FORET.format(22.5)),
    "esam": Published(77.1, None, None, GROUP),
}

IMAGENET = (
    *(
        Row(
            name=f"imagenet_resnet50_{method}",
            experiment=replace(RESNET50, method=method, **METHODS[method].values),
            published=PUBLISHED.get(method),
            origin=f"{RESNET50_ORIGIN}{METHODS[method].origin}",
        )
        for method in ("sgd", "sam", "k_sam_half", "esam", "f_sam")
    ),
    *(
        Row(
            name=f"imagenet_vit_s_16_{method}",
            experiment=replace(VIT_S_16, method=method, **METHODS[method].values),
            published=None,
            origin=f"{VIT_S_16_ORIGIN}{METHODS[method].origin}",
        )
        for method in ("adamw", "sam", "k_sam_half")
    ),
)
