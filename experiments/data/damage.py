"""What is wrong with a folder that tensorflow_datasets has prepared, in a few words."""

import json
from collections.abc import Iterable
from pathlib import Path

from PIL import UnidentifiedImageError

INFO, FEATURES = "dataset_info.json", "features.json"


def has_array_records(folder: Path) -> bool:
    """Whether something was prepared there that can be read by number, whole or not."""
    return any(folder.glob("*.array_record*"))


def of_info(folder: Path) -> str:
    """What is wrong with the description of the dataset; "" if it can be read."""
    return _of_json(folder / INFO, "splits") or _of_json(folder / FEATURES, "featuresDict")


def of_files(folder: Path, records: Iterable[str]) -> str:
    """What is wrong with a folder whose description TFDS could read; "" if all is there.

    Args:
      folder: of a version of a dataset.
      records: the names of the files that a split is in.
    """
    missing = [name for name in sorted(records) if not (folder / name).is_file()]
    return f"{missing[0]} is missing" if missing else of_info(folder)


def of_records(error: Exception) -> str:
    """What came up as records were read."""
    # Pillow's text would name an object in memory.
    if isinstance(error, UnidentifiedImageError):
        return "a record is no image"
    return first_line(error)


def first_line(error: Exception) -> str:
    """What an error says, or its name if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _of_json(path: Path, key: str) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    except ValueError:
        return f"{path.name} isn't JSON"
    if not isinstance(content, dict) or key not in content:
        return f"{path.name} has no {key}"
    return ""
