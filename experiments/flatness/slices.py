"""The loss along a random line through each method's solutions, side by side.

Directions are filter-normalized, so that solutions with larger weights don't look flatter.

Reference: Li et al., Visualizing the Loss Landscape of Neural Nets (NeurIPS 2018).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, PyTree

from experiments.data.examples import Examples
from experiments.flatness.solutions import Losses, in_batches, replica
from experiments.methods import METHODS
from experiments.results import plots, report
from experiments.results.contents import Comparison, Slice
from experiments.training.evaluation import losses_of
from experiments.training.study import Extra, Study, Trained
from ksam_jax import sharpness

AT = np.linspace(-1, 1, 21)


def extra(study: Study) -> Extra:
    """Slices through the first split's replicas, for `experiments.training.study`."""
    losses = losses_of(study.model)

    def measure(trained: Trained, advance: Callable[[int], None]) -> dict[str, Any]:
        # It takes little beside the training, and isn't counted.
        del advance
        if trained.split:
            return {}
        batches = in_batches(trained.train)
        found = [
            _along(losses, replica(trained.params, seed), batches, seed)
            for seed in range(trained.replicas)
        ]
        return {"slice": {"at": AT, "losses": found}}

    return Extra(measure)


def _along(
    losses: Losses, params: PyTree, batches: list[Examples], seed: int
) -> Float[np.ndarray, " points"]:
    """Seeds have a direction each, the same for all methods."""
    direction = sharpness.random_direction(params, seed=seed)
    return sharpness.loss_along(
        losses, params, batches, [direction], AT[:, None], progress=False
    )


def draw(content: Comparison, path: Path) -> None:
    """Draws one curve per method: mean, lowest and highest over the seeds.

    Where all have diverged there is nothing to draw, and no picture afterwards.

    Args:
      content: of results.json; replicas whose loss isn't finite everywhere are left out.
      path: where to write.
    """
    curves = [
        curve
        for name, entry in content["methods"].items()
        for slices in [entry["runs"][0].get("slice")]
        if slices is not None
        for curve in _curves(name, slices)
    ]
    if not curves:
        path.unlink(missing_ok=True)
        return
    plots.loss_slice(
        curves,
        path,
        title="Training loss along a random direction through each solution",
        note=f"{report.title(content)}\n{_note(content)}",
    )


def _curves(name: str, slices: Slice) -> list[plots.Curve]:
    """One, or none where no replica has a finite loss everywhere."""
    found = np.array(slices["losses"], np.float64)
    known = found[np.isfinite(found).all(axis=1)]
    if not known.size:
        return []
    method = METHODS[name]
    return [
        plots.Curve(
            method.mark or method.label,
            method.colour,
            method.marker,
            np.array(slices["at"]),
            known.mean(axis=0),
            known.min(axis=0),
            known.max(axis=0),
        )
    ]


def _note(content: Comparison) -> str:
    seeds = content["config"]["seeds"]
    over = "" if seeds == 1 else f"; line: mean over {seeds} seeds, band: lowest to highest"
    return f"Gaussian direction, filter-normalized, of each seed its own{over}"
