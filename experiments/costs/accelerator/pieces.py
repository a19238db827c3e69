"""The benchmark in pieces, each of which is a file: what is there isn't measured again."""

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax

from experiments.configs.accelerator import Sizes
from experiments.configs.benchmark import Workload
from experiments.costs.accelerator import contents
from experiments.costs.accelerator.contents import PIECE
from experiments.costs.benchmark import record
from experiments.costs.benchmark.contenders import DEFAULT_KEEP, KEEPS, USUAL
from experiments.costs.benchmark.contents import Step, Steps
from experiments.costs.benchmark.measurement import measure
from experiments.costs.benchmark.plan import Group, on_own_batch
from experiments.costs.benchmark.programs import Model
from experiments.costs.benchmark.task import make_task

Content = dict[str, Any]

MAIN = ("sgd", "optax_sam", "sam", "k_sam", "k_momentum_sam", "esam")
REST = ("sgd", *(name for name in USUAL if name not in MAIN))
# Of each part: methods, values of `keep`.
PARTS = {
    "main": (MAIN, (DEFAULT_KEEP,)),
    "keep": (("sgd", "k_sam"), KEEPS),
    "rest": (REST, (DEFAULT_KEEP,)),
}


class Piece(NamedTuple):
    """Some methods on one model."""

    workload: Workload
    part: str
    methods: tuple[str, ...]
    keeps: tuple[str, ...]

    def path(self, folder: Path) -> Path:
        """Where its results are."""
        return folder / f"{self.workload.name}-{self.part}.json"


def pieces(sizes: Sizes) -> list[Piece]:
    """All, from the most wanted to the least."""
    return [
        Piece(workload, part, _among(sizes, methods), keeps)
        for part, (methods, keeps) in PARTS.items()
        for workload in sizes.workloads
    ]


def _among(sizes: Sizes, methods: tuple[str, ...]) -> tuple[str, ...]:
    wanted = methods if sizes.methods is None else sizes.methods
    return tuple(name for name in methods if name in wanted)


def measure_all(sizes: Sizes, folder: Path, say: Callable[[str], None] = print) -> int:
    """Measures what isn't there yet; returns 0."""
    # In all threads, unlike the context of the same name.
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    wanted = pieces(sizes)
    for i, piece in enumerate(wanted, 1):
        where = f"[{i}/{len(wanted)}] {piece.workload.title}, {piece.part}"
        if done(piece, sizes, folder):
            say(f"{where}: is there")
            continue
        start = time.monotonic()
        _measure(piece, sizes, folder)
        say(f"{where}: measured in {time.monotonic() - start:.0f} s")
    return 0


def _about(piece: Piece, sizes: Sizes) -> Content:
    settings = {"methods": piece.methods, "keeps": piece.keeps, "dtype": sizes.dtype}
    settings |= {"rounds": sizes.rounds, "sweep": False}
    return record.about(piece.workload, SimpleNamespace(**settings))


def done(piece: Piece, sizes: Sizes, folder: Path) -> bool:
    """Whether it has been measured by this state of the library, on this machine."""
    earlier = PIECE.kept(piece.path(folder))
    return earlier is not None and _about(piece, sizes).items() <= earlier.items()


def _measure(piece: Piece, sizes: Sizes, folder: Path) -> None:
    workload = piece.workload
    task = make_task(workload.build(sizes.dtype))
    cases = on_own_batch(
        workload, piece.methods, piece.keeps, couples_examples=task.has_aux
    )
    model = Model(workload, task)
    group = Group("methods", workload.batch_size, tuple(cases))
    found = measure(model, [group], sizes.rounds, threads=sizes.threads)
    content = _about(piece, sizes) | {
        "date": datetime.date.today().isoformat(),
        "parameters": model.parameters,
        "groups": found,
    }
    PIECE.write(piece.path(folder), content)


def joined(sizes: Sizes, folder: Path) -> list[contents.Piece]:
    """Of each model that has any piece, all of them as one content."""
    parts: dict[str, list[contents.Piece]] = {}
    for piece in pieces(sizes):
        content = PIECE.kept(piece.path(folder))
        if content is not None:
            parts.setdefault(piece.workload.name, []).append(content)
    # In the order of the models, whichever was measured first.
    names = [workload.name for workload in sizes.workloads]
    return [_joined(parts[name]) for name in names if name in parts]


def _joined(parts: list[contents.Piece]) -> contents.Piece:
    cases: dict[tuple[Any, ...], Step] = {}
    for part in parts:
        for case in part["groups"][0]["cases"]:
            key = case["method"], case["share"], case["keep"], case["batch"]
            cases.setdefault(key, case)
    group: Steps = {**parts[0]["groups"][0], "cases": list(cases.values())}
    return {**parts[0], "groups": [group]}
