"""One of the two gradients of a step: over which examples, and what comes with it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..checks import _arguments, _kinds, _leaves
from ..devices._axis import GROUPS, Axis, undivided
from ..loss._forward import Loss, forward, select_later, weighted
from ..loss._residuals import depends_on_example
from ..loss._rows import Chosen, equal_weights, fill_up, fit_to_run, split_groups
from ..nodes._with_rows import with_rows
from ..parts._selection import Evidence, Selection
from ..trees._lengths import plain_norm
from ..trees._numbers import wide_dtype


class Problem(NamedTuple):
    """The loss of a step, the examples that it is taken over, and how they are divided.

    Attributes:
      loss: the user's.
      batch: the examples, on several devices one device's.
      groups: how many equal parts of `batch` are selected from separately.
      axis: the devices.
    """

    loss: Loss
    batch: PyTree
    groups: int
    axis: Axis

    @property
    def num_examples(self) -> int:
        """N, of this device."""
        return jax.tree.leaves(self.batch)[0].shape[0]


class Note(NamedTuple):
    """What a selection may learn from: the losses that its choice had."""

    chosen: Chosen
    losses: Float[Array, " rows"]


class Gradient(NamedTuple):
    """A gradient over the selected examples, and what came with it.

    Attributes:
      value: of the weighted sum of the losses of the chosen.
      chosen: the examples that the gradient is of; None for the whole batch.
      losses: of the examples that ran forward; None if none did.
      rows: the examples that the losses are of; None for the whole batch. K-SAM's climb
        chooses k examples by the losses of all.
      aux: of the forward pass over the whole batch; None if there was none.
      state: the selection's state, which has not learned from this pass yet.
      note: what it may learn; None if it chose nothing anew.
      chosen_losses: of the chosen, in the pass that the gradient is of: of a loss that
        couples examples they aren't those among `losses`. None if all ran, or none.
    """

    value: PyTree
    chosen: Chosen | None
    losses: Float[Array, " _"] | None
    rows: Chosen | None
    aux: Any
    state: Any
    note: Note | None = None
    chosen_losses: Float[Array, " k"] | None = None


def gradient_over(
    problem: Problem,
    params: PyTree,
    selection: Selection,
    state: Any,
    see: Callable[[Any], Evidence],
    look_first: bool,
    chosen: Chosen | None = None,
) -> Gradient:
    """The gradient at `params` over the selected examples.

    `look_first` runs the whole batch forward before choosing; `see` turns its losses,
    or None, into what the selection may look at. Examples that are `chosen` already are
    taken as they are.
    """
    loss, batch = problem.loss, problem.batch
    if selection.choose is None:
        every = equal_weights(problem.num_examples)
        losses, aux, found = weighted(loss, params, batch, every)
        return Gradient(found, None, losses, None, aux, state)
    if look_first:
        run = select_later(loss, params, batch)
        chosen, state = _choose(problem, selection, see(run.losses), state)
        note = Note(chosen, chosen.take(run.losses))
        found, own = run.gradient(chosen)
        return Gradient(found, chosen, run.losses, None, run.aux, state, note, own)
    is_new = chosen is None
    if is_new:
        chosen, state = _choose(problem, selection, see(None), state)
    losses, _, found = weighted(loss, params, chosen.take(batch), chosen.row_weights)
    note = Note(chosen, losses) if is_new else None
    return Gradient(found, chosen, losses, chosen, None, state, note)


def _choose(
    problem: Problem, selection: Selection, evidence: Evidence, state: Any
) -> tuple[Chosen, Any]:
    """What the selection chooses, on each device and in each group for itself."""
    loss, _, groups, axis = problem
    clean, perturbed = jax.lax.stop_gradient((evidence.clean, evidence.perturbed))
    evidence = undivided(evidence._replace(clean=clean, perturbed=perturbed))
    if groups == 1:
        group = axis.index() if axis.size > 1 else None
        chosen, state = _asked(selection, evidence._replace(group=group), state)
    else:
        inner = Axis((*axis.names, GROUPS))

        def of_group(evidence: Evidence) -> tuple[Chosen, Any]:
            return _asked(selection, evidence._replace(group=inner.index()), state)

        each_group = jax.vmap(of_group, out_axes=(0, None), axis_name=GROUPS)
        chosen, state = each_group(split_groups(evidence, groups))
    return fill_up(chosen, loss.num_microbatches), state


def _refuse_state_of_examples(selection: Selection, evidence: Evidence, state: Any) -> None:
    """Checks that no device would remember its own examples in a state that all share."""
    choose = selection.choose
    assert choose is not None

    def next_state(nothing: Any, evidence: Evidence) -> Any:
        del nothing
        return choose(evidence, state)[1]

    several = with_rows(lambda x: x[None], evidence, before=0)
    if any(depends_on_example(next_state, (), several)):
        raise ValueError(
            f"{selection.call}: the state that choose returns must not depend on the "
            f"examples, since each device or group has others and all share one state; "
            f"remember them in learn, which can join them."
        )


def _asked(selection: Selection, evidence: Evidence, state: Any) -> tuple[Chosen, Any]:
    assert selection.choose is not None
    call, takes = selection.call, "the evidence and the state"
    found = _kinds.called(call, "choose", selection.choose, takes, evidence, state)
    chosen, after = _arguments.choice(call, found)
    after = _leaves.next_state(call, "choose", after, state)
    if evidence.group is not None and jax.tree.leaves(state):
        _refuse_state_of_examples(selection, evidence, state)
    known = evidence.perturbed if evidence.clean is None else evidence.clean
    return fit_to_run(Chosen(*chosen), evidence.num_examples, known), after


def given_gradient(
    gradient: PyTree, problem: Problem, params: PyTree, state: Any, look_first: bool
) -> Gradient:
    """A gradient from elsewhere, to climb along; a forward pass only where needed."""
    losses, aux = (
        forward(problem.loss, params, problem.batch) if look_first else (None, None)
    )
    return Gradient(gradient, None, losses, None, aux, state)


def perturb(
    params: PyTree, epsilon: PyTree, dtype: Any, is_measured: bool
) -> tuple[PyTree, Float[Array, ""]]:
    """Returns `params + epsilon` in `dtype`, and the norm of what was really added.

    The norm, if it `is_measured`; else zero.
    """

    def add(p: Array, e: Array) -> tuple[Array, Array]:
        target = p.dtype if dtype is None or jnp.iscomplexobj(p) else jnp.dtype(dtype)
        wide = max(wide_dtype(p.dtype), target, key=lambda dtype: jnp.finfo(dtype).bits)
        total = _rounded(p.astype(wide) + e.astype(wide), target)
        return total.astype(target), total - p.astype(wide)

    leaves, treedef = jax.tree.flatten(params)
    sums = [add(p, e) for p, e in zip(leaves, treedef.flatten_up_to(epsilon), strict=True)]
    perturbed = treedef.unflatten([total for total, _ in sums])
    if not is_measured:
        return perturbed, jnp.zeros(())
    return perturbed, plain_norm([difference for _, difference in sums], like=params)


def _rounded(x: Array, dtype: Any) -> Array:
    """Rounds to the precision of `dtype` without leaving the dtype of `x`.

    XLA may drop a cast down and up again, and with it the rounding: this one it keeps.
    """
    target = jnp.finfo(dtype)
    if target.bits >= jnp.finfo(x.dtype).bits:
        return x
    return jax.lax.reduce_precision(x, target.nexp, target.nmant)
