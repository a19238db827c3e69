"""The part of a step that one device, or one group, does for itself.

It climbs, moves, and comes back with the descent gradient at the perturbed weights. With
`sync_ascent=True` the ascent gradient is averaged over the devices on the way.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from . import _leaves
from ._ascent import Ascent
from ._info import geometry, mean_losses
from ._mask import masked, only
from ._passes import GradientPass, Note, Problem, gradient_pass, perturb
from ._residuals import depends_on_example
from ._selection import Evidence, Selection
from ._state import SharpnessAwareState


class Recipe(NamedTuple):
    """A method: its answers to the three questions, and how they are carried out.

    Attributes:
      flags: which parameters are perturbed, one bool per leaf; None for all.
    """

    call: str
    perturbation: optax.GradientTransformation
    ascent: Ascent
    descent: Selection
    flags: PyTree | None
    perturbed_dtype: Any
    sync_ascent: bool

    @property
    def selects(self) -> bool:
        """Whether one of the passes runs on examples that it chooses."""
        climb = self.ascent.selection
        chooses = self.descent.choose, climb and climb.choose
        return any(choose is not None for choose in chooses)


class Climbed(NamedTuple):
    """What all devices share of a synchronized climb."""

    gradient: PyTree
    applied: Float[Array, ""]


class Move(NamedTuple):
    """What a device has to tell; with groups, one row for each of them.

    Attributes:
      descent: the descent gradient.
      told: the numbers of the info; only those of the losses after a synchronized climb.
      aux: of the clean pass.
      climb: what the ascent's selection may learn from.
      fall: what the descent's may.
      climbed: a synchronized climb; else None.
    """

    descent: PyTree
    told: Float[Array, " numbers"]
    aux: Any
    climb: Note | None
    fall: Note | None
    climbed: Climbed | None


class States(NamedTuple):
    """The next states, the same on all devices."""

    perturbation: Any
    ascent: Any
    descent: Any


def move(
    recipe: Recipe,
    problem: Problem,
    params: PyTree,
    given: PyTree | None,
    state: SharpnessAwareState,
    extra_args: dict[str, Any],
) -> tuple[Move, States]:
    """Climbs, moves and looks back, without learning from it yet."""
    flags = recipe.flags
    climb = _climb(recipe, problem, params, given, state.ascent)
    perturbation = masked(recipe.perturbation, flags)
    if not recipe.sync_ascent:
        _refuse_memory(recipe, perturbation, climb.gradient, state, params, extra_args)
    epsilon, perturbation_state = perturbation.update(
        climb.gradient, state.perturbation, params, **extra_args
    )
    epsilon = only(flags, _leaves.as_epsilon(recipe.call, epsilon, params))
    perturbed, applied = perturb(params, epsilon, recipe.perturbed_dtype)
    perturbed = problem.axis.varying(perturbed)
    fall = _fall(recipe, problem, perturbed, climb, state.descent)
    told = mean_losses(climb, fall, state.info)
    climbed = Climbed(climb.gradient, applied) if recipe.sync_ascent else None
    if climbed is None:
        own = geometry(flags, climb.gradient, fall.gradient, applied, state.info)
        told = jnp.concatenate([told, own])
    result = Move(fall.gradient, told, climb.aux, climb.note, fall.note, climbed)
    return result, States(perturbation_state, climb.state, fall.state)


def _climb(
    recipe: Recipe,
    problem: Problem,
    params: PyTree,
    given: PyTree | None,
    state: Any,
) -> GradientPass:
    """The gradient to climb along, computed or given, averaged if it is to be."""
    look_first = problem.loss.has_aux or _needs_clean(recipe)
    local = problem.axis.varying(params)
    climb = recipe.ascent.run(problem, local, given, recipe.flags, state, look_first)
    if recipe.ascent.selection is None or not recipe.sync_ascent:
        return climb
    return climb._replace(gradient=problem.axis.mean(climb.gradient))


def _fall(
    recipe: Recipe, problem: Problem, perturbed: PyTree, climb: GradientPass, state: Any
) -> GradientPass:
    """The descent gradient, over the examples of the climb if it is the same selection."""
    descent = recipe.descent
    # Losses that ran for aux alone must not change what is chosen.
    clean = climb.losses if _needs_clean(recipe) else None
    see = functools.partial(Evidence, problem.batch, clean)
    needed = {"perturbed"} if clean is not None else {"perturbed", "first"}
    again = climb.chosen if descent is recipe.ascent.selection else None
    look_first = again is None and bool(descent.reads & needed)
    return gradient_pass(problem, perturbed, descent, state, see, look_first, again)


def _needs_clean(recipe: Recipe) -> bool:
    """Whether choosing needs the losses at the unperturbed weights.

    Without a climb the first losses of the step are those at the perturbed ones.
    """
    climb, descent = recipe.ascent.selection, recipe.descent
    if climb is None:
        return "clean" in descent.reads
    return bool({"first", "clean"} & (climb.reads | descent.reads))


def _refuse_memory(
    recipe: Recipe,
    perturbation: optax.GradientTransformationExtraArgs,
    gradient: PyTree,
    state: SharpnessAwareState,
    params: PyTree,
    extra_args: dict[str, Any],
) -> None:
    """Checks that no device would remember its own gradients in a state that all share."""

    def next_state(params: PyTree, gradient: PyTree) -> PyTree:
        return perturbation.update(gradient, state.perturbation, params, **extra_args)[1]

    batched = jax.tree.map(lambda g: g[None], gradient)
    if any(depends_on_example(next_state, params, batched)):
        raise ValueError(
            f"{recipe.call}(sync_ascent=False): sync_ascent must be True with a "
            f"perturbation that remembers gradients, such as subtract_ema: it needs the "
            f"averaged gradient, or every device would remember another one; leave "
            f"sync_ascent at True."
        )
