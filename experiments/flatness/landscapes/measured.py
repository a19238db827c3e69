"""The numbers behind the pictures: of one solution each, and of the plane through three."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PyTree

from experiments.flatness.landscapes.solutions import WEIGHTS, Batches, Solution
from experiments.models.pure import Variables
from experiments.shell.cli import UsageError
from ksam_jax import sharpness

# Random directions of a slice: one alone says little.
DIRECTIONS = 5
# Of the plane beyond the solutions, in parts of their distances; and its proportions.
MARGIN, PROPORTION = 0.35, 1.7
LANCZOS_STEPS, PROBES = 40, 4
LEAST = 0.9

Numbers = dict[str, Any]
# (batches done, batches in all) -> anything.
Told = Callable[[int, int | None], Any]


class Look(NamedTuple):
    """How closely to look.

    Attributes:
      points: along each axis.
      radius: of slices and surfaces, in filters' norms.
      batches: of training examples.
    """

    points: int
    radius: float
    batches: Batches

    @property
    def at(self) -> Float[np.ndarray, " points"]:
        """Distances from the solution."""
        return np.linspace(-self.radius, self.radius, self.points)


def loss(solution: Solution, batches: Batches) -> float:
    """The mean loss at the solution.

    Raises:
      UsageError: if it isn't finite.
    """
    compiled = jax.jit(solution.losses)
    parts = [np.asarray(compiled(solution.variables, rows)) for rows in batches]
    found = float(np.concatenate(parts).mean(dtype=np.float64))
    if not np.isfinite(found):
        raise UsageError(
            f"the mean training loss of {solution.folder} at step {solution.step} is "
            f"{found}: there is nothing to look at around it; leave it out"
        )
    return found


def slices(solution: Solution, look: Look, told: Told) -> Numbers:
    """Losses along several random directions; BatchNorm's statistics stay."""
    directions = _directions(solution, DIRECTIONS)
    # Point by point along the first direction, then along the second, and so on.
    at = np.kron(np.eye(DIRECTIONS), look.at[:, None])
    losses = _along(solution, solution.variables, look, directions, at, told)
    return {"at": look.at, "losses": losses.reshape(DIRECTIONS, look.points)}


def surface(solution: Solution, look: Look, told: Told) -> Numbers:
    """Losses over the plane of two random directions; BatchNorm's statistics stay."""
    at = _grid(look.at, look.at)
    directions = _directions(solution, 2)
    losses = _along(solution, solution.variables, look, directions, at, told)
    return {"at": look.at, "losses": losses.reshape(look.points, look.points)}


def plane(solutions: Sequence[Solution], look: Look, told: Told) -> Numbers:
    """Losses over the plane through three solutions.

    BatchNorm's statistics are interpolated like weights: each is the linear function of
    the place in the plane that has the solutions' own values at the solutions. Far outside
    of the triangle a variance may become negative; there is no loss then.
    """
    first, *_ = solutions
    found = sharpness.plane_through(*(one.variables.params for one in solutions))
    statistics = _statistics(found.coordinates, [one.variables.rest for one in solutions])
    (x, y), (right, up, origin) = found.directions, statistics
    xs, ys = _around(found.coordinates, look.points)
    at, directions = _grid(xs, ys), [Variables(x, right), Variables(y, up)]
    start = Variables(found.origin, origin)
    losses = _along(first, start, look, directions, at, told)
    losses[_impossible(at, statistics)] = np.nan
    return {
        "runs": [one.label for one in solutions],
        "coordinates": found.coordinates,
        "xs": xs,
        "ys": ys,
        "losses": losses.reshape(len(ys), len(xs)),
    }


def _statistics(
    coordinates: Float[np.ndarray, "3 2"], solutions: Sequence[PyTree]
) -> tuple[PyTree, PyTree, PyTree]:
    """Their slopes along both directions, and those at the origin."""
    # Row by row, how much each solution has to do with it.
    shares = np.linalg.inv(np.column_stack([coordinates, np.ones(3)]))

    def mixed(row: np.ndarray) -> PyTree:
        return jax.tree.map(lambda *leaves: np.tensordot(row, leaves, axes=1), *solutions)

    right, up, origin = map(mixed, shares.astype(np.float32))
    return right, up, origin


def _impossible(
    at: Float[np.ndarray, "points 2"], statistics: tuple[PyTree, PyTree, PyTree]
) -> Bool[np.ndarray, " points"]:
    """Where a variance is negative: what is computed there is NaN or, worse, a number."""
    found = np.zeros(len(at), bool)
    slopes = [jax.tree.leaves_with_path(tree) for tree in statistics]
    for (path, right), (_, up), (_, origin) in zip(*slopes, strict=True):
        if "var" in jax.tree_util.keystr(path):
            values = at @ np.stack([np.ravel(right), np.ravel(up)]) + np.ravel(origin)
            found |= (values < 0).any(axis=1)
    return found


def _around(
    coordinates: Float[np.ndarray, "3 2"], points: int
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """A grid with the solutions in its middle, and the picture's proportions."""
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    sides = (high - low) * (1 + 2 * MARGIN)
    height = max(sides[1], sides[0] / PROPORTION)
    halves = np.array([PROPORTION * height, height]) / 2
    middle = (low + high) / 2
    xs, ys = np.linspace(middle - halves, middle + halves, points).T
    return xs, ys


def spectrum(solution: Solution, look: Look, told: Told) -> Numbers:
    """The Hessian's spectral density, by random probes."""
    found = sharpness.spectral_density(
        solution.losses,
        solution.variables,
        look.batches,
        num_steps=LANCZOS_STEPS,
        num_samples=PROBES,
        mask=WEIGHTS,
        progress=told,
    )
    return {"nodes": found.nodes, "weights": found.weights}


def alignment(solution: Solution, look: Look, told: Told) -> Numbers:
    """Cosines of parts of batches with whole ones; see `sharpness.gradient_alignment`."""
    found = sharpness.gradient_alignment(
        solution.losses,
        solution.variables,
        look.batches.whole(),
        mask=WEIGHTS,
        progress=told,
    )
    return {
        "batch_size": look.batches.size,
        "ks": found.ks,
        "cosines": found.cosines,
        "random": found.random,
        "dataset": found.dataset,
        "least": LEAST,
        "recommended": sharpness.recommend_k(found, least=LEAST),
    }


def _directions(solution: Solution, count: int) -> list[PyTree]:
    """Filter-normalized Gaussian ones, zero for statistics, the same for all solutions.

    The same but for the lengths of the solution's own filters.
    """
    return [
        sharpness.random_direction(solution.variables, seed=seed, mask=WEIGHTS)
        for seed in range(count)
    ]


def _along(
    solution: Solution,
    start: Variables,
    look: Look,
    directions: Sequence[PyTree],
    at: Float[np.ndarray, "points directions"],
    told: Told,
) -> Float[np.ndarray, " points"]:
    return sharpness.loss_along(
        solution.losses,
        jax.tree.map(jnp.asarray, start),
        look.batches,
        list(directions),
        at,
        progress=told,
    )


def _grid(xs: np.ndarray, ys: np.ndarray) -> Float[np.ndarray, "points 2"]:
    """All pairs, row by row."""
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
