"""All pictures of committed results, each with what it shows and the command."""

from typing import Any, NamedTuple

from experiments.configs import mnist
from experiments.costs.benchmark.contents import BENCHMARK
from experiments.costs.devices.contents import SCALING
from experiments.costs.growth.contents import GROWTH
from experiments.flatness.landscapes.contents import LANDSCAPE
from experiments.pages.block import REFERENCE, Source
from experiments.racing.contents import RACE
from experiments.results.contents import COMPARISON
from experiments.shell.formats import Format

_SETTINGS = "at-sgds-own-settings"
_AT_SGD = "All methods at SGD's learning rate and weight decay."


class Shown(NamedTuple):
    """A picture.

    Attributes:
      title: its heading.
      picture: where it is, from the folder of all results.
      source: the file that has the command; several pictures may share it.
      format: what that file has.
      says: what one sees.
      page: where more of it is, from docs.
      command: instead of the one in the file.
    """

    title: str
    picture: str
    source: str
    format: Format[Any]
    says: str
    page: str
    command: str | None = None


def _race(title: str, name: str) -> Shown:
    says = "All that was raced there."
    place = f"race/{name}"
    names = f"{place}/race.png", f"{place}/race.json"
    return Shown(title, *names, RACE, says, f"results.md#{_SETTINGS}")


def _compared(title: str, place: str, says: str, anchor: str) -> Shown:
    names = f"{place}/comparison.png", f"{place}/results.json"
    return Shown(title, *names, COMPARISON, says, f"results.md#{anchor}")


def _landscape(title: str, name: str, says: str) -> Shown:
    place = "landscape"
    return Shown(
        title,
        f"{place}/{name}.png",
        f"{place}/landscape.json",
        LANDSCAPE,
        says,
        "sharpness.md#pictures",
    )


GROUPS: dict[str, tuple[Shown, ...]] = {
    "Accuracy against time": (
        Shown(
            "Small data sets",
            "race/races.png",
            "race/digits/race.json",
            RACE,
            "Our defaults beside the plain optimizer, drawn from the races below.",
            f"results.md#{_SETTINGS}",
            "python -m experiments.figures",
        ),
        _race("digits", "digits"),
        _race("MNIST", "mnist_1000"),
        _race("MNIST, 5,000 images and a perceptron", "mnist_5000"),
        _race("SST-2", "sst2_transformer"),
        _race("CIFAR-10", "cifar10_10000"),
        _race("CIFAR-10, a rate that wasn't searched", "cifar10_resnet8"),
        _race("CIFAR-10, GroupNorm", "cifar10_10000_group"),
        _race("CIFAR-10, GroupNorm, a rate that wasn't searched", "cifar10_resnet8_group"),
        _race("CIFAR-10, 40 epochs of 2,500 images", "cifar10_resnet8_long"),
        _race("CIFAR-10, statistics of BatchNorm", "cifar10_resnet8_statistics"),
    ),
    "Accuracy against the cost of a step": (
        _compared(
            "digits",
            "digits",
            "All methods, each with hyperparameters of its own; best is up and left.",
            "digits",
        ),
        _compared("digits, at SGD's settings", "sgd/digits", _AT_SGD, _SETTINGS),
        _compared(
            "MNIST, at SGD's settings", f"sgd/{mnist.BASE.dataset}", _AT_SGD, _SETTINGS
        ),
        _compared(
            "MNIST, 5,000 images, at SGD's settings",
            "sgd/mnist_5000",
            "SGD, SAM and our defaults at SGD's learning rate and weight decay.",
            _SETTINGS,
        ),
        _compared(
            "Remembered losses",
            "remembered/digits",
            "Examples ranked by the loss that they had when last used.",
            "remembered-losses",
        ),
        _compared(
            "MNIST, 1,000 training images",
            "reproduce/mnist_1000",
            "A small CNN with GroupNorm.",
            "mnist-1000-training-images",
        ),
        _compared(
            "CIFAR-10, ResNet-8",
            "reproduce/cifar10_resnet8",
            "A small network and few epochs: the path works.",
            "cifar-10-resnet-8-the-path-works",
        ),
        _compared(
            "SST-2 from scratch",
            "reproduce/sst2_transformer",
            "A small text transformer.",
            "sst-2-from-scratch",
        ),
        _compared(
            "SST-2 from scratch, k follows training",
            "reproduce/sst2_searched",
            "The same transformer, the default k, each with a search of its own.",
            "sst-2-from-scratch",
        ),
    ),
    "What a step costs": (
        Shown(
            "Time against k",
            "benchmark/ratio_against_k.png",
            "benchmark/cnn.json",
            BENCHMARK,
            "A step's time over SGD's, as k grows.",
            "performance.md#measured",
        ),
        Shown(
            "Memory against the batch",
            "benchmark/memory.png",
            "benchmark/cnn.json",
            BENCHMARK,
            "What a step needs besides weights and data.",
            "performance.md#memory",
        ),
        Shown(
            "Larger models, batches, and more devices",
            "growth/growth.png",
            "growth/growth.json",
            GROWTH,
            "How a step's time over SGD's grows with each.",
            "growth.md",
        ),
        Shown(
            "The same of a CNN and a ViT",
            "growth-images/growth.png",
            "growth-images/growth.json",
            GROWTH,
            "Where a weight serves many positions, smaller batches are enough.",
            "growth.md",
        ),
        Shown(
            "Many devices",
            "scaling/devices.png",
            "scaling/scaling.json",
            SCALING,
            "A step's time by a formula, not measured on such machines.",
            "scaling.md#many-devices-when-communication-dominates",
        ),
    ),
    "The loss around a solution": (
        _landscape("Random directions", "slice", "The training loss along lines."),
        _landscape("Two random directions", "surface", "The same over a plane."),
        _landscape("Three solutions", "plane", "The plane that goes through all three."),
        _landscape(
            "Sharpness over training", "sharpness", "At the checkpoints of each run."
        ),
        _landscape("The Hessian's spectrum", "spectrum", "Density of its eigenvalues."),
        _landscape(
            "Alignment",
            "alignment",
            "The cosine between the gradient of the k highest losses and that of all.",
        ),
    ),
}

ALL = tuple(one for group in GROUPS.values() for one in group)
SOURCES = tuple(Source(one.format, REFERENCE / one.source) for one in ALL)


def markdown(*contents: Any, folder: str) -> str:
    """All of them, in groups; `contents` in the order of `ALL`."""
    del folder
    commands = dict(zip(ALL, (content["command"] for content in contents), strict=True))
    parts = []
    for heading, group in GROUPS.items():
        parts.append(f"## {heading}")
        parts += [_one(one, commands[one]) for one in group]
    return "\n\n".join(parts)


def _one(one: Shown, command: str) -> str:
    place = f"../{REFERENCE.as_posix()}/{one.picture}"
    picture = f"[![{one.title}]({place})]({place})"  # on a telephone one wants it larger
    text = f"{one.says} [More]({one.page})."
    return f"### {one.title}\n\n{text}\n\n{picture}\n\n`{one.command or command}`"
