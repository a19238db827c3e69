"""Small images, all of them in memory."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from rich.console import Console

from experiments.data import memory
from experiments.data.drawn import drawn
from experiments.data.examples import Dataset, Examples
from experiments.data.named import WORTH_A_LINE, Inputs, NamedImages, Wanted, together
from experiments.data.normalization import Normalization
from experiments.data.prepared import Source, data_source
from experiments.shell.cli import UsageError


@dataclass(frozen=True)
class Images(NamedImages):
    """Images of one size and their classes, as TFDS has them by the same name.

    Attributes:
      normalization: see `experiments.data.examples.Dataset`.
    """

    normalization: Normalization | None = None

    @property
    def pixels(self) -> str:
        """See `Named`."""
        return "" if self.normalization is None else str(self.normalization)

    def open(self, data_dir: Path | None = None, split: str = "train") -> Dataset:
        """A split of it.

        Args:
          data_dir: where TFDS keeps its datasets; None: its default.
          split: "train" or "test".

        Raises:
          UsageError: if it isn't prepared in `data_dir`.
        """
        source = data_source(self.name, split, data_dir)
        info = source.dataset_info
        features = info.features
        jpeg = is_jpeg(Path(info.data_dir))
        # The official CIFAR-10 is lossless: accuracies on JPEG pixels aren't comparable.
        title = self.title + (" (JPEG)" if jpeg else "")
        return Dataset(
            title=title,
            source=f"tensorflow_datasets {info.full_name}" + (", JPEG images" * jpeg),
            shape=features["image"].shape,
            classes=features["label"].num_classes,
            size=source.size,
            fetch=lambda indices: _decode(source, indices),
            # Ten thousand images to decode: once, not for every split.
            official_test=functools.cache(
                lambda: _decode_all(data_source(self.name, "test", data_dir))
            ),
            normalization=self.normalization,
        )

    def inputs(self, wanted: Wanted) -> Inputs:
        """See `Named`."""
        return in_memory(self, wanted)


@dataclass(frozen=True)
class Digits(Images):
    """The digits inside scikit-learn, which have no test examples of their own."""

    def open(self, data_dir: Path | None = None, split: str = "train") -> Dataset:
        """All of them, whatever the folder and the split."""
        del data_dir, split
        # scikit-learn is only needed here, and takes a second to import.
        import sklearn
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        images = np.asarray(digits["images"], np.float32)[..., None]
        labels = np.asarray(digits["target"], np.int32)
        return Dataset(
            title=self.title,
            source=f"scikit-learn {sklearn.__version__}, load_digits",
            shape=(8, 8, 1),
            classes=10,
            size=len(labels),
            fetch=lambda indices: Examples(images[indices], labels[indices]),
            normalization=self.normalization,
        )


@functools.lru_cache(maxsize=4)
def in_memory(named: Images, wanted: Wanted) -> Inputs:
    """The images decoded, and the statistics of those to train on."""
    whole = named.open(wanted.data_dir)
    numbers = drawn(whole, wanted.train, wanted.held)
    if whole.official_test is None:
        if not len(numbers.rest):
            raise UsageError(
                f"{whole.title} has no test examples of its own: leave some of its "
                f"{whole.size} out of --train-examples and --validation-examples"
            )
        test = memory.part(whole, numbers.rest)
    else:
        test = named.open(wanted.data_dir, "test")
    parts = {
        "training": memory.part(whole, numbers.train),
        "validation": memory.part(whole, numbers.validation),
        "test": test,
    }
    train, validation, test = (
        _resident(part, purpose, wanted.console) for purpose, part in parts.items()
    )
    judged = {"validation": validation, "test": test}
    return together(train, judged, train.scaling(np.arange(train.size)))


def _resident(part: Dataset, purpose: str, console: Console | None) -> Dataset:
    # A few examples take no time that is worth a line.
    console = console if part.size > WORTH_A_LINE else None
    return memory.resident(part, memory.decode(part, console, purpose=purpose))


def is_jpeg(folder: Path) -> bool:
    """Whether the images were stored with losses, by the prepared folder itself."""
    # The builder's features say what the code would write, this file what was written.
    features = json.loads((folder / "features.json").read_text())
    image = features["featuresDict"]["features"]["image"]["image"]
    return image.get("encodingFormat") == "jpeg"


def _decode(source: Source, indices: Int[np.ndarray, " n"]) -> Examples:
    rows = source.rows(indices.tolist())
    return Examples(
        np.stack([row["image"] for row in rows]).astype(np.float32),
        np.asarray([row["label"] for row in rows], np.int32),
    )


def _decode_all(source: Source) -> Examples:
    return _decode(source, np.arange(source.size))
