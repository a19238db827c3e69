"""The largest batch of each method in the memory of this process's device."""

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax

from experiments.configs.accelerator import Sizes
from experiments.configs.benchmark import Workload
from experiments.costs.accelerator.contents import LARGEST
from experiments.costs.benchmark import largest, record
from experiments.costs.benchmark.programs import Model, Program, or_too_large
from experiments.costs.benchmark.task import make_task

MIB = 2**20


def find_all(
    sizes: Sizes, limit_mib: int, path: Path, say: Callable[[str], None] = print
) -> int:
    """Looks for what the file doesn't have yet, and writes each; returns 0."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    (workload,) = (each for each in sizes.workloads if each.name == sizes.largest)
    limit = _limit(limit_mib)
    about = _about(workload, sizes, limit)
    content: dict[str, Any] = {**(LARGEST.kept(path) or {})}
    if not about.items() <= content.items():
        content = about | {"date": datetime.date.today().isoformat(), "largest_batch": {}}
    for label in largest.TRIED:
        if label not in content["largest_batch"]:
            content["largest_batch"][label] = _of(label, workload, sizes.dtype, limit)
            LARGEST.write(path, content)
        say(f"{label}: batch {content['largest_batch'][label]:,}")
    return 0


def _about(workload: Workload, sizes: Sizes, limit: int) -> dict[str, Any]:
    settings = SimpleNamespace(
        methods=list(largest.TRIED), keeps=(), dtype=sizes.dtype, rounds=0, sweep=False
    )
    found = {"model": workload.title, "limit_mib": limit // MIB}
    return record.about(workload, settings) | found


def _limit(mib: int) -> int:
    """Bytes that JAX may use of the device, or so many where it doesn't say."""
    said = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return said or mib * MIB


def _of(label: str, workload: Workload, dtype: str, limit: int) -> int:
    model = Model(workload, make_task(workload.build(dtype)))

    def compiled(batch: int) -> Program:
        model.workload = replace(workload, batch_size=batch)
        return model.compile(largest.case_of(label, model, batch))

    def works(batch: int) -> bool:
        program = compiled(batch)
        if program.compiled is None or _needed(program) > limit:
            return False
        burst = or_too_large(lambda: model.ready(program))
        return (
            burst is not None and or_too_large(lambda: largest.two_steps(burst)) is not None
        )

    first = compiled(workload.batch_size)
    needed = limit + 1 if first.compiled is None else _needed(first)
    return largest.largest(works, largest.guess(workload.batch_size, needed, limit))


def _needed(program: Program) -> int:
    """Bytes of weights, optimizer, batch and all that is computed."""
    analysis: Any = program.compiled
    sizes = analysis.memory_analysis()
    return int(sizes.argument_size_in_bytes + sizes.temp_size_in_bytes)
