"""Command-line options that several scripts have in common."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from experiments.configs.compare import PROTOCOLS
from experiments.methods import METHODS
from experiments.shell import cli

# These programs train with SGD.
BEFORE_SGD = {
    name: method for name, method in METHODS.items() if method.optimizer in (None, "sgd")
}

DatasetName = Annotated[
    str,
    arg(
        metavar="{" + ",".join(PROTOCOLS) + "}",
        help="What to train on. The digits (384 of them, or 900) need no files; mnist and "
        "cifar10 are read from --data-dir.",
    ),
]
DataDir = Annotated[
    Path | None,
    arg(
        metavar="DIR",
        help="Folder with datasets prepared by tensorflow_datasets.",
        help_behavior_hint="(default: TFDS's own)",
    ),
]
MethodNames = Annotated[
    tuple[str, ...],
    arg(
        metavar="NAME ...",
        help="Any of "
        + ", ".join(f"{name} ({method.label})" for name, method in BEFORE_SGD.items())
        + ".",
        help_behavior_hint="(default: those of the first table in docs/results.md)",
    ),
]
LabelNoise = Annotated[
    float,
    arg(
        metavar="FRACTION",
        help="How many of the training labels are replaced by another class, from 0 to "
        "below 1. Validation and test labels stay right.",
    ),
]


def chosen_methods(names: tuple[str, ...]) -> list[str]:
    """The named methods in the table's order.

    Raises:
      UsageError: if there is none, or one that doesn't exist.
    """
    if not names:
        raise cli.UsageError(f"--methods needs at least one of {', '.join(BEFORE_SGD)}")
    for name in names:
        cli.one_of("method", name, BEFORE_SGD)
    return [name for name in BEFORE_SGD if name in names]
