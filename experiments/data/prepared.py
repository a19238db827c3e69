"""What tensorflow_datasets has prepared, read without TensorFlow and without a network."""

import logging
from pathlib import Path
from typing import Any

from experiments.shell.cli import UsageError


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
