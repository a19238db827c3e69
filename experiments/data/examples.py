"""Examples: raw ones, batches of them, and datasets that they are fetched from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from experiments.data.normalization import Normalization, statistics


class Examples(NamedTuple):
    """Inputs, such as images (N, height, width, depth), and labels (N,)."""

    inputs: Any
    labels: Any

    @property
    def number(self) -> int:
        """N."""
        return self.labels.shape[0]


class Batch(NamedTuple):
    """Examples of one step.

    Attributes:
      inputs, labels: as those of `Examples`.
      index: their numbers (N,) among the training examples.
      key: a random key for each (N,), of models with dropout; None: they have none. It is
        chosen, and gathered, with its example, so that both passes drop the same.
    """

    inputs: Any
    labels: Any
    index: Any
    key: Any = None


@dataclass(frozen=True)
class Dataset:
    """A dataset before it is split.

    Attributes:
      title: as written in tables and plots.
      source: where the examples come from, with the version.
      shape: of an input: (height, width, depth) of an image, (length,) of a text.
      classes: number of classes; 1 where the label is a number to be predicted.
      size: number of examples that splits are drawn from.
      fetch: indices into those -> raw examples.
      official_test: makes the official test set; None where splits draw their own.
      metrics: by which predictions are judged, see `experiments.judging.scores`; the
        first one is quoted.
      vocabulary: how many tokens a text's may be of; None: these aren't texts.
      random_fetch: (indices, epoch, seed) -> raw examples to train on, where a part of each
        image is drawn before all of it is decoded; None: `fetch` gives those, too.
      judged_on: what the examples are called that results are quoted on.
      normalization: of images, whichever are drawn; None: what the drawn ones' pixels say,
        or these are texts.
    """

    title: str
    source: str
    shape: tuple[int, ...]
    classes: int
    size: int
    fetch: Callable[[Int[np.ndarray, " n"]], Examples]
    official_test: Callable[[], Examples] | None = None
    metrics: tuple[str, ...] = ("accuracy",)
    vocabulary: int | None = None
    random_fetch: Callable[[Int[np.ndarray, " n"], int, int], Examples] | None = None
    judged_on: str = "test"
    normalization: Normalization | None = None

    def scaling(self, train: Int[np.ndarray, " n"]) -> Normalization:
        """Of all images, where those of these numbers are trained on."""
        return self.normalization or statistics(self.fetch(train).inputs)


class Kind(NamedTuple):
    """What programs must know of the examples.

    Attributes:
      shape: (height, width, depth) of an image, (length,) of a text.
      classes: how many; 1 where a number is predicted.
      examples: how many to train on.
      normalization: of the training images; None of texts.
      vocabulary: of texts; None of images.
    """

    shape: tuple[int, ...]
    classes: int
    examples: int
    normalization: Normalization | None
    vocabulary: int | None = None
