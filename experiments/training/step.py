"""One training step, the same in every program: gradient, optimizer, new weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PyTree

import ksam_jax
from experiments.methods.baselines import GradientState
from experiments.models.pure import PureModel, Variables
from ksam_jax import LossScaleState

# As in ksam_jax's info, so that jax_debug_infs can be on.
UNKNOWN = 2.0**100


class Optimizer(NamedTuple):
    """A method that makes the gradient, and the optimizer that it is chained before."""

    gradient: optax.GradientTransformationExtraArgs
    base: optax.GradientTransformation


class TrainState(NamedTuple):
    """What training carries from step to step.

    Attributes:
      params: the weights.
      rest: BatchNorm's statistics, if the model has any.
      gradient: the method's state.
      base: the optimizer's.
    """

    params: PyTree
    rest: PyTree
    gradient: PyTree
    base: PyTree


class Note(NamedTuple):
    """What a step says about itself; see `ksam_jax.SharpnessAwareInfo`.

    Where the method doesn't know them all but the last two are `UNKNOWN`, on the host
    infinite. Of a skipped step the numbers are those of the last one that was made.

    Attributes:
      loss, perturbed_loss, sharpness, ascent_norm, perturbation_norm, cosine, examples: as
        there.
      gradient_norm: of what the method hands to the optimizer: the descent gradient;
        infinite for a step that was skipped though the loss scale is at its smallest.
      skipped: 1 if a gradient overflowed and the step was not made, else 0.
    """

    loss: Float[Array, ""]
    perturbed_loss: Float[Array, ""]
    sharpness: Float[Array, ""]
    ascent_norm: Float[Array, ""]
    perturbation_norm: Float[Array, ""]
    cosine: Float[Array, ""]
    examples: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    skipped: Float[Array, ""]


def start(optimizer: Optimizer, variables: Variables) -> TrainState:
    """The state before the first step."""
    params, rest = variables
    return TrainState(
        params, rest, optimizer.gradient.init(params), optimizer.base.init(params)
    )


def train_step(
    optimizer: Optimizer, model: PureModel, state: TrainState, batch: Any
) -> tuple[TrainState, Note]:
    """One whole step.

    Args:
      optimizer: the method and the base optimizer.
      model: what is trained.
      state: before the step.
      batch: with `inputs`, `labels`, and each example's number as `index`.
    """
    no_gradient: Any = None  # The method makes its own.
    gradient, told = optimizer.gradient.update(
        no_gradient,
        state.gradient,
        state.params,
        loss_fn=model.loss_fn(state.rest),
        batch=batch,
        has_aux=model.has_aux,
    )
    rest = state.rest
    if model.has_aux:
        statistics, told = _take_aux(told)
        rest = nnx.merge_state(rest, statistics)
    updates, base = optimizer.base.update(gradient, state.base, state.params)
    params = optax.apply_updates(state.params, updates)
    after = TrainState(params, rest, told, base)
    if not isinstance(told, LossScaleState):
        return after, _note(told, gradient)
    return _if_made(state, after), _note_of_scaled(state.gradient, told, gradient)


def _if_made(before: TrainState, after: TrainState) -> TrainState:
    """The next state, or if the step was skipped only the method's."""
    made = after.gradient.finite
    kept = jax.tree.map(
        lambda new, old: jnp.where(made, new, old),
        after._replace(gradient=None),
        before._replace(gradient=None),
    )
    return kept._replace(gradient=after.gradient)


def _take_aux(told: PyTree) -> tuple[PyTree, PyTree]:
    if isinstance(told, LossScaleState):
        aux, inner = _take_aux(told.inner)
        return aux, told._replace(inner=inner)
    if isinstance(told, GradientState):
        return told.aux, told._replace(aux=None)
    return ksam_jax.take_aux(told)


def _note(told: PyTree, gradient: PyTree) -> Note:
    own = {"gradient_norm": optax.tree.norm(gradient), "skipped": jnp.zeros(())}
    if isinstance(told, GradientState):
        unknown = dict.fromkeys(Note._fields, jnp.full((), UNKNOWN))
        return Note(**unknown | {"loss": told.loss} | own)
    info = ksam_jax.get_info(told)._asdict()
    return Note(**{name: info[name] for name in Note._fields if name in info}, **own)


def _note_of_scaled(before: LossScaleState, told: LossScaleState, gradient: PyTree) -> Note:
    note = _note(told.inner, gradient)
    # No smaller scale is left to try: it isn't the backward pass that overflows.
    is_stuck = ~told.finite & (told.scale == before.scale)
    return note._replace(
        gradient_norm=jnp.where(is_stuck, jnp.inf, note.gradient_norm),
        skipped=(~told.finite).astype(jnp.float32),
    )


def first_failure(notes: Note) -> int | None:
    """The first of several steps, notes stacked (steps,), that isn't a number; or None.

    A gradient that isn't finite spoils the weights at once. A loss may be infinite because
    it isn't known, but never NaN. Skipping a step whose gradient overflowed is no failure,
    unless its loss scale was the smallest already: a smaller one can't mend it.
    """
    unknown = np.isnan(notes.loss) | np.isnan(notes.perturbed_loss)
    bad = unknown | ~np.isfinite(notes.gradient_norm)
    return int(np.argmax(bad)) if bad.any() else None


def stacked(notes: list[Note]) -> Note:
    """The notes of several steps, each number as an array (steps,) on the host."""

    def on_host(*values: Any) -> np.ndarray:
        found = np.stack(values)
        return np.where(found == UNKNOWN, np.asarray(np.inf, found.dtype), found)

    return jax.tree.map(on_host, *jax.device_get(notes))


def mean(notes: Note) -> Note:
    """The mean of several steps, notes stacked (steps,).

    Over those that were made, infinite if none was; `skipped` is the share of the others.
    """
    made = np.asarray(notes.skipped) == 0

    def of_made(values: Any) -> Any:
        return np.mean(values[made]) if made.any() else np.float32(np.inf)

    return jax.tree.map(of_made, notes)._replace(skipped=np.mean(notes.skipped))
