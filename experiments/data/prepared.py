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
      UsageError: if it isn't prepared there, or is damaged.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    # It warns of what an error below says better, and that OpenCV would decode faster.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        return tfds.data_source(
            name, split=split, data_dir=data_dir, download=False, **options
        )
    # So TFDS says that there is nothing, another config of it, or nothing that can be read
    # by number.
    except (
        NotImplementedError,
        AssertionError,
        tfds.core.DatasetNotFoundError,
    ) as error:
        raise UsageError(_said(name, data_dir, "is not prepared")) from error
    except (OSError, ParseError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        why = f"can't be read ({cause}), as it is"
        raise UsageError(_said(name, data_dir, why)) from error


def _said(name: str, data_dir: Path | None, what: str) -> str:
    """What is wrong with a dataset, and what helps, in a line."""
    where = f"in {data_dir}" if data_dir else "where TFDS keeps its datasets"
    folder = f" --data_dir {data_dir}" if data_dir else ""
    return (
        f"dataset {name!r} {what} {where}; prepare it with: tfds build {name} "
        f"--file_format array_record{folder} (this one step needs TensorFlow, reading "
        f"doesn't), or say where it is with --data-dir"
    )
