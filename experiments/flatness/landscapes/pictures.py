"""The content of landscape.json as pictures, those that there are numbers for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.flatness.landscapes import measured
from experiments.flatness.landscapes.contents import Density, Landscape, Solution
from experiments.judging.rise import RADIUS
from experiments.methods import METHODS
from experiments.results import plots
from ksam_jax.sharpness import Spectrum

# Points of a spectrum's curve; and how wide each eigenvalue's bell is, in parts of all.
FINE, SMOOTHED = 600, 0.01


def draw(content: Landscape, folder: Path) -> list[Path]:
    """Draws all that was measured, and returns what was written."""
    return [
        path
        for name, picture in PICTURES.items()
        if picture(content, path := folder / f"{name}.png")
    ]


def _slice(content: Landscape, path: Path) -> bool:
    found = [(run, run["slice"]) for run in content["runs"] if "slice" in run]
    if not found:
        return False
    curves = []
    for run, part in found:
        at, losses = _array(part["at"]), _array(part["losses"])
        bands = losses.min(axis=0), losses.max(axis=0)
        curves.append(_curve(run, at, losses.mean(axis=0), *bands))
    note = (
        f"{_about(content)}.\nGaussian directions, filter-normalized (Li et al. 2018), the "
        f"same for all.\nLine: mean over {measured.DIRECTIONS} directions, band: lowest to "
        f"highest{_kept(content)}."
    )
    plots.loss_slice(curves, path, note=note)
    return True


def _surface(content: Landscape, path: Path) -> bool:
    found = [(run, run["surface"]) for run in content["runs"] if "surface" in run]
    if not found:
        return False
    surfaces = [
        plots.Surface(run["label"], _array(part["at"]), _array(part["losses"]))
        for run, part in found
    ]
    note = (
        f"{_about(content)}.\nTwo Gaussian directions, filter-normalized (Li et al. 2018), "
        f"the same for all. +: the solution{_kept(content)}."
    )
    plots.loss_surface(surfaces, path, note=note)
    return True


def _plane(content: Landscape, path: Path) -> bool:
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
    xs, ys, losses = map(_array, (plane["xs"], plane["ys"], plane["losses"]))
    plots.loss_plane(solutions, xs, ys, losses, path, note=note)
    return True


def _sharpness(content: Landscape, path: Path) -> bool:
    found = [(run, run["sharpness"]) for run in content["runs"] if "sharpness" in run]
    if not found:
        return False
    curves = [_curve(run, part["epochs"], part["values"]) for run, part in found]
    note = (
        f"{content['title']}.\nRise of the mean training loss at distance {RADIUS:g} along "
        f"its gradient, the same measure for every method, whatever radius it trains with."
    )
    plots.sharpness_over_training(curves, path, note=note)
    return True


def _spectrum(content: Landscape, path: Path) -> bool:
    found = [(run, run["spectrum"]) for run in content["runs"] if "spectrum" in run]
    found.sort(key=lambda pair: _largest(pair[1]), reverse=True)
    if not found:
        return False
    nodes = np.concatenate([_array(part["nodes"]).ravel() for _, part in found])
    low, high = nodes.min(), nodes.max()
    width = SMOOTHED * (high - low)
    # To where the bell around the last one has fallen by its picture's height.
    at = np.linspace(low - 5 * width, high + 5 * width, FINE)
    curves = []
    for run, part in found:
        curve = _curve(run, at, *_densities(part, at, width))
        named = f"{run['label']}\nlargest: {_largest(part):.2g}"
        curves.append(curve._replace(label=named))
    note = (
        f"{_about(content)}.\nStochastic Lanczos quadrature, {measured.LANCZOS_STEPS} "
        f"steps, smoothed by a bell of width {width:.2g}. Line: mean over "
        f"{measured.PROBES} probes, band: lowest to highest."
    )
    plots.spectrum(curves, path, note=note)
    return True


def _largest(spectrum: Density) -> float:
    """The largest eigenvalue that Lanczos has found."""
    return float(_array(spectrum["nodes"]).max())


def _densities(
    spectrum: Density, at: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lowest and highest over probes."""
    probes = _array(spectrum["nodes"]), _array(spectrum["weights"])
    each = np.stack(
        [
            Spectrum(nodes[None], weights[None]).density(at, width)
            for nodes, weights in zip(*probes, strict=True)
        ]
    )
    return each.mean(axis=0), each.min(axis=0), each.max(axis=0)


def _alignment(content: Landscape, path: Path) -> bool:
    found = [(run, run["alignment"]) for run in content["runs"] if "alignment" in run]
    if not found:
        return False
    solutions = [
        plots.Aligned(
            run["label"],
            part["ks"],
            _array(part["cosines"]),
            _array(part["random"]),
            part["recommended"],
            part["least"],
        )
        for run, part in found
    ]
    _, first = found[0]
    note = (
        f"{_about(content)}; batches of {first['batch_size']}.\nLines: median over "
        f"{len(first['cosines'])} batches, bands: 10% to 90%. Dotted and bold: the "
        f"smallest k with a mean cosine of at least {first['least']:g}."
    )
    plots.alignment(solutions, path, note=note)
    return True


PICTURES: dict[str, Callable[[Landscape, Path], bool]] = {
    "slice": _slice,
    "surface": _surface,
    "plane": _plane,
    "sharpness": _sharpness,
    "spectrum": _spectrum,
    "alignment": _alignment,
}


def _array(values: Any) -> np.ndarray:
    """Of JSON; what isn't finite is None there."""
    return np.array(values, np.float64)


def _look(run: Solution) -> tuple[str, str]:
    method = METHODS[run["experiment"]["method"]]
    return method.colour, method.marker


def _curve(run: Solution, at: Any, *values: Any) -> plots.Curve:
    return plots.Curve(run["label"], *_look(run), np.asarray(at), *map(np.asarray, values))


def _about(content: Landscape) -> str:
    return f"{content['title']}; loss of {content['examples']:,} training examples"


def _kept(content: Landscape) -> str:
    """What becomes of statistics on the way, if there are any."""
    return "; BatchNorm's statistics are the solution's" * content["has_statistics"]
