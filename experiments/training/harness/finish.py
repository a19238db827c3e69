"""What a finished run leaves behind: result.json, and from it the report."""

import datetime
from pathlib import Path
from typing import Any

import jax

from experiments.data import catalogue
from experiments.shell import files
from experiments.shell.cli import RunError
from experiments.training.harness import folder, judging, metrics
from experiments.training.harness.contents import RESULT, About, Record, Result
from experiments.training.harness.job import Job
from experiments.training.step import TrainState


def write(
    where: Path, job: Job, state: TrainState, measured: Record, command: str
) -> Result | None:
    """Writes result.json and returns its content.

    All processes call this, for the sharpness; the first one writes, and only it has it.
    """
    found = {"sharpness": judging.sharpness(job, state), **measured}
    if jax.process_index():
        return None
    content = {
        "complete": True,
        "command": command,
        "date": datetime.date.today().isoformat(),
        **about(job),
        **_ends(where, job),
        **found,
        "machine": files.machine(),
        "versions": files.versions(),
    }
    return RESULT.write(where / folder.RESULT, content)


def about(job: Job) -> About:
    """What is trained, on what."""
    test = job.inputs.judged["test"]
    validation = job.inputs.judged.get("validation")
    return {
        **folder.plain(job.name, job.experiment),
        "metric": judging.metric(job),
        "parameters": job.programs.parameters,
        "dataset": {
            "title": test.title,
            "source": test.source,
            "things": catalogue.named(job.experiment.dataset).things,
            "judged_on": test.judged_on,
            "train": job.inputs.train.size,
            "validation": validation.size if validation else 0,
            "test": test.size,
        },
        "steps": job.steps,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def _ends(where: Path, job: Job) -> dict[str, Any]:
    """The last evaluation, and the best: the last one that none is above."""
    path = where / folder.METRICS
    _, evaluations = metrics.read(path)
    metric = judging.metric(job)
    # To find the best, and to tell of the last.
    needed = {"step", "epoch", "train_loss", f"validation_{metric}", f"test_{metric}"}
    whole = all(record.keys() >= needed for record in evaluations)
    if not whole or not evaluations or evaluations[-1]["step"] != job.steps:
        raise RunError(
            f"{path} lacks evaluations or parts of them, and the run is at its end: "
            f"delete its checkpoints to train again, or put the file back"
        )
    # Among equals the last one, as in `Checkpoints`.
    best = max(
        evaluations, key=lambda record: (judging.score(record, metric), record["step"])
    )
    return {
        "last": _numbers(evaluations[-1]),
        "best": {**_numbers(best), "judged_by": judging.judged_by(job)},
    }


def _numbers(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "kind"}
