"""What k the gradients of a config recommend: measured at initial weights, as a table."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from experiments.data import memory
from experiments.flatness.contents import Alignments
from experiments.flatness.landscapes.solutions import WEIGHTS, Batches
from experiments.models.pure import Variables
from experiments.models.zoo import title
from experiments.training.harness import job
from ksam_jax import sharpness

KS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def _share(k: float) -> str:
    # Not "1", which is one example.
    return "all" if k == 1 else str(Fraction(k))


HEADERS = (
    "model and data",
    "batches",
    "examples",
    *(f"k = {_share(k)}" for k in KS),
    "recommended",
)


def measured(mine: job.Job, most: int) -> dict[str, Any]:
    """Mean cosines at the initial weights, over at most so many batches."""
    experiment, train = mine.experiment, mine.inputs.train
    examples = np.arange(min(train.size, most * experiment.batch_size))
    batches = Batches(memory.part(train, examples), experiment.batch_size).whole()
    state = mine.start()
    found = sharpness.gradient_alignment(
        mine.programs.losses,
        Variables(state.params, state.rest),
        batches,
        ks=KS,
        mask=WEIGHTS,
    )
    return {
        "title": f"{title(experiment.model, experiment.norm)}, {train.title}",
        "batch_size": experiment.batch_size,
        "batches": len(batches),
        "highest": found.cosines.mean(axis=0),
        "random": found.random.mean(axis=0),
        "recommended": sharpness.recommend_k(found),
    }


def table_rows(content: Alignments) -> list[tuple[str, ...]]:
    """Two rows of cells for each config: the highest losses, and random examples."""
    return [
        row
        for entry in content["configs"].values()
        for row in (
            (
                entry["title"],
                f"{entry['batches']} of {entry['batch_size']}",
                "highest loss",
                *_cosines(entry["highest"]),
                _share(entry["recommended"]),
            ),
            ("", "", "random", *_cosines(entry["random"]), ""),
        )
    ]


def _cosines(values: Sequence[float]) -> list[str]:
    return [f"{value:.2f}" for value in values]
