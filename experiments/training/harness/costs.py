"""What a step of each row costs; what was measured before isn't measured again."""

import dataclasses
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.configs.experiment import OWN, Experiment
from experiments.costs import cost
from experiments.costs.cost import Cost, Step
from experiments.costs.timing import operations
from experiments.processes import sharded
from experiments.shell import files
from experiments.training.harness.contents import COSTS, Measured, StepCost
from experiments.training.harness.grid import Cell, Jobs
from experiments.training.harness.job import Job

COST = "cost.json"


def of_methods(cells: Sequence[Cell], jobs: Jobs, path: Path) -> dict[str, Cost]:
    """The cost of each cell's method against the optimizer's alone.

    That is measured if it isn't there.

    Args:
      cells: one of each method, all with one dataset and one network.
      jobs: of their rows.
      path: of a file that keeps costs.

    Raises:
      UsageError: if that file can't be read.
    """
    known = _read(path)
    experiments = {
        cell.experiment.method: (cell.row.name, cell.experiment) for cell in cells
    }
    some_name, some = next(iter(experiments.values()))
    baseline = some.optimizer
    alone = dataclasses.replace(some, method=baseline, **dict.fromkeys(OWN))
    experiments.setdefault(baseline, (f"{some_name}, but by {baseline}", alone))
    about = {method: _depends_on(what) for method, (_, what) in experiments.items()}
    missing = [m for m in experiments if m not in known or known[m]["of"] != about[m]]
    if missing:
        # The baseline beside them, for the ratios of their times.
        needed = dict.fromkeys((baseline, *missing))
        steps = {m: _step(jobs.of(*experiments[m])) for m in needed}
        measured = cost.measure(steps, baseline=baseline)
        for method in missing:
            known[method] = {"of": about[method], "cost": _content(measured[method])}
        if not jax.process_index():
            COSTS.write(path, {"methods": known})
    return {method: _cost(known[method]["cost"]) for method in experiments}


def _read(path: Path) -> dict[str, Measured]:
    """What was measured before."""
    return COSTS.read(path)["methods"] if path.exists() else {}


def _content(cost: Cost) -> StepCost:
    operations, ratio, seconds, times = cost
    return {
        "operations": operations,
        "operations_ratio": ratio,
        "seconds": seconds,
        "time_ratio": list(times),
    }


def _cost(saved: StepCost) -> Cost:
    median, low, high = saved["time_ratio"]
    times = (median, low, high)
    return Cost(saved["operations"], saved["operations_ratio"], saved["seconds"], times)


def _depends_on(experiment: Experiment) -> dict[str, Any]:
    """The settings but for the seed, and what they run on."""
    settings = files.plain(dataclasses.asdict(dataclasses.replace(experiment, seed=0)))
    return {
        "experiment": settings,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": metadata.version("jax"),
    }


def _step(job: Job) -> Step:
    """The compiled step on the job's first batch."""
    size, seed = job.experiment.batch_size, jnp.int32(job.experiment.seed)
    with job.batches() as batches, jax.set_mesh(job.mesh):
        rows = sharded.global_batch(job.mesh, size, next(batches))
        state = job.start()
        compiled: Any = job.programs.step
        compiled = compiled.lower(state, rows, seed).compile()
    return cost.carried(
        operations(compiled), lambda state: compiled(state, rows, seed)[0], state
    )
