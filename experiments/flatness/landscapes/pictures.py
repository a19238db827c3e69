"""The content of landscape.json as pictures, those that there are numbers for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.flatness.landscapes import measured
from experiments.judging.rise import RADIUS
from experiments.methods import METHODS
from experiments.results import plots
from ksam_jax.sharpness import Spectrum

Content = Mapping[str, Any]

# Points of a spectrum's curve; and how wide each eigenvalue's bell is, in parts of all.
FINE, SMOOTHED = 600, 0.01


def draw(content: Content, folder: Path) -> list[Path]:
    """Draws all that was measured, and returns what was written."""
    return [
        path
        for name, picture in PICTURES.items()
        if picture(content, path := folder / f"{name}.png")
    ]


def _slice(content: Content, path: Path) -> bool:
    runs = _with(content, "slice")
    if not runs:
        return False
    curves = []
    for run in runs:
        at, losses = run["slice"]["at"], run["slice"]["losses"]
        bands = losses.min(axis=0), losses.max(axis=0)
        curves.append(_curve(run, at, losses.mean(axis=0), *bands))
    note = (
        f"{_about(content)}.\nGaussian directions, filter-normalized (Li et al. 2018), the "
        f"same for all.\nLine: mean over {measured.DIRECTIONS} directions, band: lowest to "
        f"highest{_kept(content)}."
    )
    plots.loss_slice(curves, path, note=note)
    return True


def _surface(content: Content, path: Path) -> bool:
    runs = _with(content, "surface")
    if not runs:
        return False
    names = ("at", "losses")
    surfaces = [
        plots.Surface(run["label"], *map(run["surface"].get, names)) for run in runs
    ]
    note = (
        f"{_about(content)}.\nTwo Gaussian directions, filter-normalized (Li et al. 2018), "
        f"the same for all. +: the solution{_kept(content)}."
    )
    plots.loss_surface(surfaces, path, note=note)
    return True


def _plane(content: Content, path: Path) -> bool:
    plane = content.get("plane")
    if plane is None:
        return False
    runs = {run["label"]: run for run in content["runs"]}
    solutions = [
        plots.Solution(label, *_look(runs[label]), float(x), float(y))
        for label, (x, y) in zip(plane["runs"], plane["coordinates"], strict=True)
    ]
    note = f"{_about(content)}."
    if content["has_statistics"]:
        note += (
            "\nBatchNorm's statistics are interpolated like weights; white: a variance "
            "would be negative."
        )
    plots.loss_plane(solutions, plane["xs"], plane["ys"], plane["losses"], path, note=note)
    return True


def _sharpness(content: Content, path: Path) -> bool:
    runs = _with(content, "sharpness")
    if not runs:
        return False
    curves = [
        _curve(run, run["sharpness"]["epochs"], run["sharpness"]["values"]) for run in runs
    ]
    note = (
        f"{content['title']}.\nRise of the mean training loss at distance {RADIUS:g} along "
        f"its gradient, the same measure for every method, whatever radius it trains with."
    )
    plots.sharpness_over_training(curves, path, note=note)
    return True


def _spectrum(content: Content, path: Path) -> bool:
    runs = sorted(_with(content, "spectrum"), key=_largest, reverse=True)
    if not runs:
        return False
    nodes = np.concatenate([run["spectrum"]["nodes"].ravel() for run in runs])
    low, high = nodes.min(), nodes.max()
    width = SMOOTHED * (high - low)
    # To where the bell around the last one has fallen by its picture's height.
    at = np.linspace(low - 5 * width, high + 5 * width, FINE)
    curves = []
    for run in runs:
        curve = _curve(run, at, *_densities(run["spectrum"], at, width))
        named = f"{run['label']}\nlargest: {_largest(run):.2g}"
        curves.append(curve._replace(label=named))
    note = (
        f"{_about(content)}.\nStochastic Lanczos quadrature, {measured.LANCZOS_STEPS} "
        f"steps, smoothed by a bell of width {width:.2g}. Line: mean over "
        f"{measured.PROBES} probes, band: lowest to highest."
    )
    plots.spectrum(curves, path, note=note)
    return True


def _largest(run: Content) -> float:
    """The largest eigenvalue that Lanczos has found."""
    return float(run["spectrum"]["nodes"].max())


def _densities(
    spectrum: Content, at: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lowest and highest over probes."""
    each = np.stack(
        [
            Spectrum(nodes[None], weights[None]).density(at, width)
            for nodes, weights in zip(spectrum["nodes"], spectrum["weights"], strict=True)
        ]
    )
    return each.mean(axis=0), each.min(axis=0), each.max(axis=0)


def _alignment(content: Content, path: Path) -> bool:
    runs = _with(content, "alignment")
    if not runs:
        return False
    names = ("ks", "cosines", "random", "recommended", "least")
    solutions = [
        plots.Aligned(run["label"], *map(run["alignment"].get, names)) for run in runs
    ]
    found = runs[0]["alignment"]
    note = (
        f"{_about(content)}; batches of {found['batch_size']}.\nLines: median over "
        f"{len(found['cosines'])} batches, bands: 10% to 90%. Dotted and bold: the "
        f"smallest k with a mean cosine of at least {found['least']:g}."
    )
    plots.alignment(solutions, path, note=note)
    return True


PICTURES: dict[str, Callable[[Content, Path], bool]] = {
    "slice": _slice,
    "surface": _surface,
    "plane": _plane,
    "sharpness": _sharpness,
    "spectrum": _spectrum,
    "alignment": _alignment,
}


def _with(content: Content, part: str) -> list[Content]:
    return [run for run in content["runs"] if part in run]


def _look(run: Content) -> tuple[str, str]:
    method = METHODS[run["experiment"]["method"]]
    return method.colour, method.marker


def _curve(run: Content, at: Any, *values: Any) -> plots.Curve:
    return plots.Curve(run["label"], *_look(run), np.asarray(at), *map(np.asarray, values))


def _about(content: Content) -> str:
    return f"{content['title']}; loss of {content['examples']:,} training examples"


def _kept(content: Content) -> str:
    """What becomes of statistics on the way, if there are any."""
    return "; BatchNorm's statistics are the solution's" * content["has_statistics"]
