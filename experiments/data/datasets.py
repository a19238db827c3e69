"""Datasets: where examples come from, one by one or all at once.

Digits is inside scikit-learn. The others are read by `tfds.data_source`, which needs
neither TensorFlow nor, once the dataset is prepared, a network.
"""

import functools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from experiments.shell.cli import UsageError, one_of

# Names of TFDS -> as written in tables and plots.
TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}


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


def load(name: str, data_dir: Path | None = None, split: str = "train") -> Dataset:
    """Opens a dataset by name.

    Args:
      name: digits, or one of TFDS.
      data_dir: where TFDS keeps its datasets; None: its default.
      split: "train" or "test"; digits has the first alone, and its test examples are for
        the caller to draw.

    Raises:
      UsageError: if there is no such dataset, or it isn't prepared in `data_dir`.
    """
    one_of("dataset", name, ("digits", *TITLES))
    return _digits() if name == "digits" else _tfds(name, data_dir, split)


def _digits() -> Dataset:
    # scikit-learn is only needed here, and takes a second to import.
    import sklearn
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = np.asarray(digits["images"], np.float32)[..., None]
    labels = np.asarray(digits["target"], np.int32)
    return Dataset(
        title="digits",
        source=f"scikit-learn {sklearn.__version__}, load_digits",
        shape=(8, 8, 1),
        classes=10,
        size=len(labels),
        fetch=lambda indices: Examples(images[indices], labels[indices]),
    )


def _tfds(name: str, data_dir: Path | None, split: str) -> Dataset:
    source = data_source(name, split, data_dir)
    info = source.dataset_info
    features = info.features
    jpeg = _is_jpeg(Path(info.data_dir))
    # The official CIFAR-10 is lossless: accuracies on JPEG pixels aren't comparable.
    title = TITLES[name] + (" (JPEG)" if jpeg else "")
    return Dataset(
        title=title,
        source=f"tensorflow_datasets {info.full_name}" + (", JPEG images" * jpeg),
        shape=features["image"].shape,
        classes=features["label"].num_classes,
        size=len(source),
        fetch=lambda indices: _decode(source, indices),
        # Ten thousand images to decode: once, not for every split.
        official_test=functools.cache(
            lambda: _decode_all(data_source(name, "test", data_dir))
        ),
    )


def data_source(name: str, split: str, data_dir: Path | None, **options: Any) -> Any:
    """What TFDS has of a split, by number.

    Args:
      name: as TFDS calls the dataset.
      split: as well.
      data_dir: where TFDS keeps its datasets; None: its default.
      **options: of `tfds.data_source`.

    Raises:
      UsageError: if it isn't prepared there.
    """
    import tensorflow_datasets as tfds

    # It warns of what an error below says better, and that OpenCV would decode faster.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        return tfds.data_source(
            name, split=split, data_dir=data_dir, download=False, **options
        )
    # Data that isn't there gives NotImplementedError or AssertionError, a damaged folder
    # others; the remedy is the same.
    except Exception as error:
        where = f"in {data_dir}" if data_dir else "where TFDS keeps its datasets"
        folder = f" --data_dir {data_dir}" if data_dir else ""
        raise UsageError(
            f"dataset {name!r} is not prepared {where}; prepare it with: "
            f"tfds build {name} --file_format array_record{folder} (this one step needs "
            f"TensorFlow, reading doesn't), or say where it is with --data-dir"
        ) from error


def _is_jpeg(folder: Path) -> bool:
    """Whether the images were stored with losses, by the prepared folder itself."""
    # The builder's features say what the code would write, this file what was written.
    features = json.loads((folder / "features.json").read_text())
    image = features["featuresDict"]["features"]["image"]["image"]
    return image.get("encodingFormat") == "jpeg"


def _decode(source: Any, indices: Int[np.ndarray, " n"]) -> Examples:
    rows = source.__getitems__([int(i) for i in indices])
    return Examples(
        np.stack([row["image"] for row in rows]).astype(np.float32),
        np.asarray([row["label"] for row in rows], np.int32),
    )


def _decode_all(source: Any) -> Examples:
    return _decode(source, np.arange(len(source)))
