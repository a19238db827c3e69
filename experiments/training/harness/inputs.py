"""The examples of an experiment: to train on, and to look at."""

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from rich.console import Console

from experiments.configs.experiment import Experiment
from experiments.data import augment, datasets, glue, imagenet, memory, texts
from experiments.data.augment import Normalization
from experiments.data.datasets import Dataset
from experiments.shell import cli
from experiments.training.splits import shuffled

# The split that experiments are trained on, the same for all seeds; `experiments.search`
# chooses hyperparameters on validation examples of the same one.
SPLIT = 0
WORTH_A_LINE = 2000
# Training examples to look at, where each look has to decode them.
STREAMED = 10_000


class Inputs(NamedTuple):
    """An experiment's examples.

    Attributes:
      train: what it is trained on.
      judged: what it is looked at with: "train", as many training examples as there are
        test examples, or `STREAMED`; "validation", if some are held out; "test", and what
        else there is.
      normalization: the training images' means and standard deviations; None of texts.
    """

    train: Dataset
    judged: Mapping[str, Dataset]
    normalization: Normalization | None


def load(experiment: Experiment, data_dir: Path | None, console: Console | None) -> Inputs:
    """Opens, draws and decodes; what several experiments share is done once.

    Raises:
      UsageError: if the dataset isn't prepared, or has too few examples.
    """
    name, held = experiment.dataset, experiment.validation_examples
    wanted = experiment.train_examples
    if name in glue.TASKS:
        reader = texts.Reader(
            experiment.length, experiment.vocabulary, experiment.pretrained
        )
        return _texts(name, data_dir, wanted, held, reader, console)
    if name == imagenet.NAME:
        return _streamed(data_dir, wanted, held)
    return _decoded(name, data_dir, wanted, held, console)


class Numbers(NamedTuple):
    """Which of a dataset's examples are for what; none is in two of them."""

    train: Int[np.ndarray, " n"]
    validation: Int[np.ndarray, " m"]
    rest: Int[np.ndarray, " r"]


def drawn(dataset: Dataset, wanted: int | None, held: int) -> Numbers:
    """Draws the training examples, those held out of them, and what is left.

    Args:
      dataset: to draw from.
      wanted: how many to train on; None: all that aren't held out.
      held: how many to hold out.

    Raises:
      UsageError: if there aren't so many.
    """
    count = dataset.size - held if wanted is None else wanted
    if held < 0 or count < 1 or count + held > dataset.size:
        raise cli.UsageError(
            f"--train-examples (at least 1) and --validation-examples (at least 0) must be "
            f"at most the {dataset.size} of {dataset.title} together; got {count} and "
            f"{held}"
        )
    # All of them: in the order that they are stored in, which is read fastest.
    is_whole = count == dataset.size
    order = np.arange(dataset.size) if is_whole else shuffled(dataset, SPLIT)
    return Numbers(order[:count], order[count : count + held], order[count + held :])


@functools.lru_cache(maxsize=4)
def _decoded(
    name: str, data_dir: Path | None, wanted: int | None, held: int, console: Console | None
) -> Inputs:
    """Small images, all in memory."""
    whole = datasets.load(name, data_dir)
    numbers = drawn(whole, wanted, held)
    if whole.official_test is None:
        if not len(numbers.rest):
            raise cli.UsageError(
                f"{whole.title} has no test examples of its own: leave some of its "
                f"{whole.size} out of --train-examples and --validation-examples"
            )
        test = memory.part(whole, numbers.rest)
    else:
        test = datasets.load(name, data_dir, "test")
    parts = {
        "training": memory.part(whole, numbers.train),
        "validation": memory.part(whole, numbers.validation),
        "test": test,
    }
    train, validation, test = (
        _resident(part, purpose, console) for purpose, part in parts.items()
    )
    pixels = train.fetch(np.arange(train.size)).inputs
    judged = {"validation": validation, "test": test}
    return _together(train, judged, augment.statistics(pixels))


def _resident(part: Dataset, purpose: str, console: Console | None) -> Dataset:
    # A few examples take no time that is worth a line.
    console = console if part.size > WORTH_A_LINE else None
    return memory.resident(part, memory.decode(part, console, purpose=purpose))


@functools.lru_cache(maxsize=4)
def _streamed(data_dir: Path | None, wanted: int | None, held: int) -> Inputs:
    """Large images, decoded as they are needed."""
    whole = imagenet.load(data_dir, "train")
    numbers = drawn(whole, wanted, held)
    train = memory.part(whole, numbers.train)
    judged = {
        "validation": memory.part(whole, numbers.validation),
        "test": imagenet.load(data_dir, "test"),
    }
    return _together(train, judged, imagenet.NORMALIZATION, most=STREAMED)


@functools.lru_cache(maxsize=4)
def _texts(
    name: str,
    data_dir: Path | None,
    wanted: int | None,
    held: int,
    reader: texts.Reader,
    console: Console | None,
) -> Inputs:
    """Texts as tokens, all in memory."""
    start = time.monotonic()
    whole, official = texts.load(name, data_dir)
    numbers = drawn(whole, wanted, held)
    train = memory.part(whole, numbers.train)
    encode = reader.encoder(train)
    parts = {"validation": memory.part(whole, numbers.validation), **official}
    judged = {purpose: encode(part) for purpose, part in parts.items()}
    found = _together(encode(train), judged, None)
    if console is not None and train.size > WORTH_A_LINE:
        taken = f"{time.monotonic() - start:.1f} s"
        console.print(f"{whole.title}: {train.size} training texts in tokens, {taken}")
    return found


def _together(
    train: Dataset,
    judged: Mapping[str, Dataset],
    normalization: Normalization | None,
    most: int | None = None,
) -> Inputs:
    count = min(train.size, judged["test"].size, most or train.size)
    some = memory.part(train, np.arange(count))
    judged = {"train": some, **judged}
    there = {purpose: dataset for purpose, dataset in judged.items() if dataset.size}
    return Inputs(train, there, normalization)
