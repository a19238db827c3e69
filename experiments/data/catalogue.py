"""All data sets by name. A new one of small images in TFDS is one line here."""

from pathlib import Path

from experiments.data import glue, imagenet
from experiments.data.examples import Dataset, Kind
from experiments.data.images import Digits, Images
from experiments.data.named import Named
from experiments.data.normalization import Normalization
from experiments.data.streamed import ImageNet
from experiments.data.texts import of_task
from experiments.shell.cli import one_of

# The digits' pixels go to 16.
OF_DIGITS = Normalization((0.0,), (1.0,), scale=16)
# Mean and standard deviation of all its training pixels, which are bytes.
OF_MNIST = Normalization((33.32,), (78.57,), scale=1)
# What some are like, so that none must be there; digits are to try it out.
LIKE_DIGITS = Kind((8, 8, 1), 10, 1797, OF_DIGITS)
LIKE_IMAGENET = Kind((224, 224, 3), 1000, 1_281_167, imagenet.NORMALIZATION)
BERTS_VOCABULARY = 30_522
KINDS_OF_TEXTS = {"glue/sst2": Kind((128,), 2, 67_349, None, BERTS_VOCABULARY)}
CUT = "random part of 8% to 100%, then "

IN_MEMORY = {
    images.name: images
    for images in (
        Digits("digits", "digits", kind=LIKE_DIGITS, normalization=OF_DIGITS),
        Images("mnist", "MNIST", normalization=OF_MNIST),
        Images("fashion_mnist", "Fashion-MNIST"),
        Images("cifar10", "CIFAR-10"),
        Images("cifar100", "CIFAR-100"),
    )
}
DATASETS: dict[str, Named] = {
    **IN_MEMORY,
    imagenet.NAME: ImageNet(imagenet.NAME, "ImageNet", kind=LIKE_IMAGENET, cut=CUT),
    **{name: of_task(name, KINDS_OF_TEXTS.get(name)) for name in glue.TASKS},
}


def named(name: str) -> Named:
    """The data set of that name.

    Raises:
      UsageError: if there is none.
    """
    return DATASETS[one_of("dataset", name, DATASETS)]


def load(name: str, data_dir: Path | None = None, split: str = "train") -> Dataset:
    """Opens small images by name.

    Args:
      name: digits, or one of TFDS.
      data_dir: where TFDS keeps its datasets; None: its default.
      split: "train" or "test"; digits has the first alone, and its test examples are for
        the caller to draw.

    Raises:
      UsageError: if there is no such dataset, or it isn't prepared in `data_dir`.
    """
    return IN_MEMORY[one_of("dataset", name, IN_MEMORY)].open(data_dir, split)


def title(name: str) -> str:
    """What tables and plots call it; of one that isn't known, its name."""
    return DATASETS[name].title if name in DATASETS else name
