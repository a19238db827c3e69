"""What tensorflow_datasets has prepared, read without TensorFlow and without a network."""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.data import damage
from experiments.data.damage import first_line
from experiments.shell.cli import UsageError


class Source(NamedTuple):
    """A split whose examples are read by number.

    Attributes:
      of: what TFDS has of it.
      place: whose files they are.
    """

    of: Any
    place: "Place"

    @property
    def dataset_info(self) -> Any:
        """What TFDS knows of the whole dataset."""
        return self.of.dataset_info

    @property
    def size(self) -> int:
        """How many examples there are."""
        return len(self.of)

    def rows(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The examples of these numbers, in their order.

        Raises:
          UsageError: if a file is damaged.
        """
        try:
            return list(self.of.__getitems__([int(number) for number in numbers]))
        except MemoryError:
            raise
        # A truncated file gives any of a dozen errors, by where it was cut.
        except Exception as error:
            raise self.place.damaged(damage.of_records(error)) from error


class Place(NamedTuple):
    """Where a dataset is looked for, with the words for what is wrong there.

    Attributes:
      name: as TFDS calls it.
      data_dir: where TFDS keeps its datasets; None: its default.
      folder: of this version of it, whether it is there or not.
    """

    name: str
    data_dir: Path | None
    folder: Path

    def missing(self) -> UsageError:
        """It isn't there, or not in a form that can be read by number."""
        where = f"in {self.data_dir}" if self.data_dir else "where TFDS keeps its datasets"
        return UsageError(
            f"dataset {self.name!r} is not prepared {where}; prepare it with: "
            f"{self._build()} (this one step needs TensorFlow, reading doesn't), or say "
            f"where it is with --data-dir"
        )

    def damaged(self, why: str) -> UsageError:
        """It is there, but not whole."""
        return UsageError(
            f"dataset {self.name!r} is damaged in {self.folder} ({why}): copy that folder "
            f"again from where it was prepared, or delete it and prepare it anew with: "
            f"{self._build()}"
        )

    def _build(self) -> str:
        folder = f" --data_dir {self.data_dir}" if self.data_dir else ""
        return f"tfds build {self.name} --file_format array_record{folder}"


def data_source(name: str, split: str, data_dir: Path | None, **options: Any) -> Source:
    """What TFDS has of a split, by number.

    Args:
      name: as TFDS calls the dataset.
      split: as well.
      data_dir: where TFDS keeps its datasets; None: its default.
      **options: of `tfds.data_source`.

    Raises:
      UsageError: if it isn't prepared there, or is damaged.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    # It warns of what an error below says better, and that OpenCV would decode faster.
    logging.getLogger("absl").setLevel(logging.ERROR)
    place = Place(name, data_dir, _folder(name, data_dir))
    try:
        found: Any = tfds.data_source(
            name, split=split, data_dir=data_dir, download=False, **options
        )
    # So TFDS says that there is nothing, another config of it, nothing that can be read by
    # number, or a file that isn't what it has written.
    except (
        NotImplementedError,
        AssertionError,
        OSError,
        RuntimeError,
        json.JSONDecodeError,
        ParseError,
        tfds.core.DatasetNotFoundError,
    ) as error:
        if not damage.has_array_records(place.folder):
            raise place.missing() from error
        raise place.damaged(damage.of_info(place.folder) or first_line(error)) from error
    if why := damage.of_files(place.folder, found.dataset_info.splits[split].filenames):
        raise place.damaged(why)
    return Source(found, place)


def _folder(name: str, data_dir: Path | None) -> Path:
    """Where TFDS looks: in its code's version, or, of what is only there, the newest."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.constants import DATA_DIR

    dataset, _, config = name.partition("/")
    root = (data_dir or Path(DATA_DIR).expanduser()) / name
    try:
        builder: Any = tfds.builder_cls(dataset)
    except tfds.core.DatasetNotFoundError:
        return max(_versions(root), key=_numbers, default=root)
    own = builder.builder_configs[config].version if config else None
    return root / str(own or builder.VERSION)


def _versions(root: Path) -> list[Path]:
    return [path for path in root.glob("*.*.*") if re.fullmatch(r"[\d.]+", path.name)]


def _numbers(version: Path) -> list[int]:
    return [int(number) for number in version.name.split(".")]
