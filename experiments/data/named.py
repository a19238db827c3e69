"""A data set by its name: it is asked, and nobody compares names."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from rich.console import Console

from experiments.data import memory
from experiments.data.augment import Augmentation
from experiments.data.examples import Dataset, Kind
from experiments.data.normalization import Normalization
from experiments.data.preparation import Preparation, of_images

WORTH_A_LINE = 2000


class Wanted(NamedTuple):
    """What an experiment wants of a data set.

    Attributes:
      data_dir: where TFDS keeps its datasets; None: its default.
      train: how many to train on; None: all that aren't held out.
      held: how many of the training examples to hold out.
      length, vocabulary, pretrained: of texts, how they become tokens; see
        `experiments.data.texts.Reader`.
      console: shows progress; None shows nothing.
    """

    data_dir: Path | None
    train: int | None
    held: int
    length: int
    vocabulary: int
    pretrained: str | None
    console: Console | None = None


class Inputs(NamedTuple):
    """An experiment's examples.

    Attributes:
      train: what it is trained on.
      judged: what it is looked at with: "train", as many training examples as there are
        test examples, or fewer; "validation", if some are held out; "test", and what else
        there is.
      normalization: of all images; None of texts.
    """

    train: Dataset
    judged: Mapping[str, Dataset]
    normalization: Normalization | None


@dataclass(frozen=True)
class Named(ABC):
    """A data set, whether it is there or not.

    Attributes:
      things: what the examples are, and what a model must read: "images" or "texts".
      name: what the command line and configs call it.
      title: what tables and plots call it.
      metrics: by which predictions are judged, see `experiments.judging.scores`; the first
        one is quoted.
      kind: what its examples are like, for programs that only count; None: unknown.
      predicts_numbers: whether labels are numbers instead of classes.
      cut: what training sees of an image, in words, before its augmentation.
    """

    things: ClassVar[str]
    name: str
    title: str
    metrics: tuple[str, ...] = ("accuracy",)
    kind: Kind | None = None
    predicts_numbers: bool = False
    cut: str = ""

    @property
    def pixels(self) -> str:
        """How pixels are scaled, where the data set says so; "" where drawn images do."""
        return ""

    @property
    def least_length(self) -> int:
        """How many tokens an example needs at least; 0 of images."""
        return 0

    @abstractmethod
    def preparation(
        self,
        normalization: Normalization | None,
        augmentation: Augmentation,
        dropout: float,
    ) -> Preparation:
        """What happens to the examples in the compiled programs.

        Args:
          normalization: of `Inputs`.
          augmentation: of images.
          dropout: of texts.
        """

    @abstractmethod
    def inputs(self, wanted: Wanted) -> Inputs:
        """Opens, draws and decodes; what several experiments share is done once.

        Raises:
          UsageError: if it isn't prepared, or has too few examples.
        """


@dataclass(frozen=True)
class NamedImages(Named):
    """Images, large or small."""

    things: ClassVar[str] = "images"

    def preparation(
        self,
        normalization: Normalization | None,
        augmentation: Augmentation,
        dropout: float,
    ) -> Preparation:
        """See `Named`."""
        del dropout
        assert normalization is not None, f"{self.name} was opened without one"
        return of_images(augmentation, normalization)


def together(
    train: Dataset,
    judged: Mapping[str, Dataset],
    normalization: Normalization | None,
    most: int | None = None,
) -> Inputs:
    """All of an experiment's examples, those that are there.

    Args:
      train: what it is trained on.
      judged: what it is looked at with besides.
      normalization: of the training images; None of texts.
      most: how many training examples to look at, at most.
    """
    count = min(train.size, judged["test"].size, most or train.size)
    some = memory.part(train, np.arange(count))
    judged = {"train": some, **judged}
    there = {purpose: dataset for purpose, dataset in judged.items() if dataset.size}
    return Inputs(train, there, normalization)
