"""Writing results: whole files or none, valid JSON, and what machine they come from."""

import json
import math
import os
import platform
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any, TypedDict

import jax
import numpy as np

PACKAGES = (
    "jax",
    "optax",
    "flax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "scikit-learn",
    "tokenizers",
    "tensorflow-datasets",
)


class Machine(TypedDict):
    """What results come from, without names of hosts, users or folders."""

    cores: int | None
    cpu: str
    system: str
    device: str
    backend: str


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces the file in one go: a reader, or a kill, never meets half of it."""
    # allow_nan=False: a bare NaN is not JSON, and other languages' parsers refuse it.
    text = json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False)
    # A list of numbers on one line: a person may want to read this.
    text = re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s+\]", _on_one_line, text)
    _replace(path, lambda file: file.write(f"{text}\n".encode()))


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replaces the file in one go, as `write_json` does."""
    _replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with unfinished.open("wb") as file:
        write(file)
    os.replace(unfinished, path)


def _on_one_line(found: re.Match[str]) -> str:
    return "[" + " ".join(line.strip() for line in found[1].split("\n")) + "]"


def plain(value: Any) -> Any:
    """Python numbers, lists and dictionaries; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def machine() -> Machine:
    """The hardware and system that this runs on."""
    device = jax.devices()[0]
    return {
        "cores": _cores(),
        "cpu": _cpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device.device_kind,
        "backend": jax.default_backend(),
    }


def _cores() -> int | None:
    """Those that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    return next(named, platform.processor())


def versions() -> dict[str, str]:
    """Python's version and those of the packages that results depend on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed
