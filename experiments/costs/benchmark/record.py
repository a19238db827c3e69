"""A model's results on disk, and what they depend on."""

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import ksam_jax
from experiments.configs.benchmark import Workload
from experiments.shell import files


def about(workload: Workload, config: Any) -> dict[str, Any]:
    """What a result depends on, as it is read back from JSON."""
    described = {
        field.name: getattr(workload, field.name)
        for field in fields(workload)
        if field.name != "model"
    }
    settings = {
        name: getattr(config, name)
        for name in ("methods", "keeps", "dtype", "rounds", "sweep")
    }
    return files.plain({"workload": described, "settings": settings}) | here()


def here() -> dict[str, Any]:
    """This machine, and this state of the library."""
    return files.plain(
        {
            "machine": files.machine(),
            "versions": files.versions() | {"ksam_jax": ksam_jax.__version__},
            "digest": _digest(),
        }
    )


def _digest() -> str:
    """Tells states of the library and of the benchmark apart."""
    content = b"".join(path.read_bytes() for path in sources())
    return hashlib.sha256(content).hexdigest()[:12]


def sources() -> list[Path]:
    """The files that a result depends on, whatever folders they are in."""
    here = Path(__file__).parent
    rooms = (here.parents[1] / name for name in ("methods", "models"))
    folders = Path(ksam_jax.__file__).parent, here, *rooms
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def path(folder: Path, model: str) -> Path:
    """Where a model's results are kept."""
    return folder / f"{model}.json"
