"""The two passes of a step, and the move between them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._forward import Loss, select_later, whole
from ._selection import Chosen, Evidence, Selection, take
from ._tree import norm, wide_dtype


class Problem(NamedTuple):
    """The loss of a step, and the examples that it is taken over."""

    loss: Loss
    batch: PyTree


class GradientPass(NamedTuple):
    """One gradient over the selected examples, and what came with it.

    Attributes:
      gradient: of the mean loss over the chosen examples.
      chosen: the examples that the gradient is of; None for the whole batch.
      losses: of the examples that ran forward; None if none did.
      rows: the examples that the losses are of; None for the whole batch. K-SAM's climb
        chooses k examples by the losses of all.
      aux: of the forward pass over the whole batch; None if there was none.
      state: the selection's next state.
    """

    gradient: PyTree
    chosen: Chosen | None
    losses: Float[Array, " _"] | None
    rows: Chosen | None
    aux: Any
    state: Any


def gradient_pass(
    problem: Problem,
    params: PyTree,
    selection: Selection,
    state: Any,
    see: Callable[[Any], Evidence],
    look_first: bool,
    chosen: Chosen | None = None,
) -> GradientPass:
    """The gradient at `params` over the selected examples.

    `look_first` runs the whole batch forward before choosing; `see` turns its losses,
    or None, into what the selection may look at. Examples that are `chosen` already are
    taken as they are.
    """
    loss, batch = problem
    if selection.choose is None:
        run = whole(loss, params, batch)
        gradient = run.gradient(jnp.ones(run.losses.shape, bool))
        return GradientPass(gradient, None, run.losses, None, run.aux, state)
    if look_first:
        run = select_later(loss, params, batch)
        chosen, state = selection.choose(see(run.losses), state)
        state = _learn(selection, batch, chosen, run.losses[chosen.indices], state)
        gradient = run.gradient(chosen)
        return GradientPass(gradient, chosen, run.losses, None, run.aux, state)
    is_new = chosen is None
    if is_new:
        chosen, state = selection.choose(see(None), state)
    run = whole(loss, params, take(batch, chosen.indices))
    if is_new:
        state = _learn(selection, batch, chosen, run.losses, state)
    gradient = run.gradient(chosen.counts)
    return GradientPass(gradient, chosen, run.losses, chosen, None, state)


def _learn(
    selection: Selection, batch: PyTree, chosen: Chosen, losses: Array, state: Any
) -> Any:
    if selection.learn is None:
        return state
    return selection.learn(batch, chosen, losses, state)


def given_gradient(
    gradient: PyTree, problem: Problem, params: PyTree, state: Any, look_first: bool
) -> GradientPass:
    """A gradient from elsewhere, to climb along; a forward pass only where needed."""
    loss, batch = problem
    losses, aux = loss(params, batch) if look_first else (None, None)
    return GradientPass(gradient, None, losses, None, aux, state)


def perturb(params: PyTree, epsilon: PyTree, dtype: Any) -> tuple[PyTree, Float[Array, ""]]:
    """Returns `params + epsilon` in `dtype`, and the norm of what was really added."""

    def add(p: Array, e: Array) -> tuple[Array, Array]:
        target = p.dtype if dtype is None or jnp.iscomplexobj(p) else jnp.dtype(dtype)
        wide = max(wide_dtype(p.dtype), target, key=lambda dtype: jnp.finfo(dtype).bits)
        total = _rounded(p.astype(wide) + e.astype(wide), target)
        return total.astype(target), total - p.astype(wide)

    leaves, treedef = jax.tree.flatten(params)
    sums = [add(p, e) for p, e in zip(leaves, treedef.flatten_up_to(epsilon), strict=True)]
    perturbed = treedef.unflatten([total for total, _ in sums])
    return perturbed, norm([difference for _, difference in sums])


def _rounded(x: Array, dtype: Any) -> Array:
    """Rounds to the precision of `dtype` without leaving the dtype of `x`.

    XLA may drop a cast down and up again, and with it the rounding: this one it keeps.
    """
    target = jnp.finfo(dtype)
    if target.bits >= jnp.finfo(x.dtype).bits:
        return x
    return jax.lax.reduce_precision(x, target.nexp, target.nmant)
