"""Training in float16: a loss scale that finds its own size, and skips what overflowed.

Scaling has to happen where the gradients are computed, which is inside the method: it
takes `loss_scale`, multiplies each of its backward passes by it and divides the gradient
again. What is here chooses the number, and undoes a step in which one was too large.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..checks import _arguments, _leaves, _values
from ..checks._words import shown
from ..step._reading import without_aux
from ..step._state import our_states
from ..trees._lengths import all_finite

_CALL = "dynamic_loss_scale"


class LossScaleState(NamedTuple):
    """What `dynamic_loss_scale` carries from step to step.

    Attributes:
      inner: state of what is wrapped, as the last step that was made left it; but aux, if
        there is any, is that of the last step even if it was skipped.
      scale: of the loss, for the next step.
      good_steps: made since the scale last changed or a step was skipped.
      skipped: how many steps were skipped so far.
      finite: whether the last step was made: where it is False, statistics in aux may
        have overflowed, too, and those from before it should be kept.
    """

    inner: Any
    scale: Float[Array, ""]
    good_steps: Int[Array, ""]
    skipped: Int[Array, ""]
    finite: Bool[Array, ""]


def dynamic_loss_scale(
    inner: optax.GradientTransformation,
    initial: Any = 2.0**15,
    growth_interval: Any = 2000,
    factor: Any = 2.0,
    minimum: Any = 1.0,
    maximum: Any = 2.0**24,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales the loss in both passes, for models that compute in float16.

    .. math::
      g = \frac{1}{S} \nabla (S L)(w), \qquad
      u = \frac{1}{S} \nabla (S L)(w + \epsilon(g)), \qquad
      S \leftarrow \begin{cases}
        \max(S / f, S_\min) & \text{if } g \text{ or } u \text{ isn't finite} \\
        \min(f S, S_\max) & \text{after } n \text{ steps in which both were}
      \end{cases}

    Gradients that would vanish in float16 stay in its range on the way back, and what
    comes out are those of the loss itself: the radius, `info`, selections and averages
    don't see the scale, and in float32 a power of two rounds nothing. A step in which
    either gradient overflowed is skipped: its updates are zeros, and the state of `inner`
    (moments, averages, counts, `info`) stays what it was. A climb that overflowed alone is
    seen too, though the gradient after it is that of a plain step.

    Put it around the whole chain: an optimizer behind it would take a skipped step for a
    gradient of zero. Keep parameters in float32, cast them to float16 inside the loss, and
    return losses in float32. bfloat16 has float32's range and needs no scaling. A forward
    pass that overflows isn't helped by any scale: steps are then skipped while the scale
    falls to `minimum`, and for ever after. `skipped` tells.

    Of several devices (`axis_name`, `groups`) all skip a step or none does, since what is
    looked at is averaged over them.

    Args:
      inner: a sharpness-aware transformation, or a chain with one and the optimizer; what
        computes gradients itself in `update`, from `loss_fn`, and takes `loss_scale`.
      initial: the first scale.
      growth_interval: n, good steps in a row after which the scale rises; an integer >= 1.
      factor: f > 1. Powers of two keep the arithmetic exact, here and in the bounds.
      minimum: the scale never falls below it.
      maximum: nor rises above it.

    Returns:
      An `optax.GradientTransformationExtraArgs`, called as `inner` is, with a
      `LossScaleState`. A gradient handed in as `updates` is that of the unscaled loss.

    Raises:
      ValueError: if a number is out of range, or not minimum <= initial <= maximum; in
        `update` if `inner` is left to compute no gradient: `loss_fn` is missing, or one is
        handed to a plain optimizer.
      TypeError: if an argument has the wrong type.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> def loss_fn(w, batch):  # a gradient of 1e-9 is zero in float16
      ...     half = batch.astype(jnp.float16) @ w.astype(jnp.float16)
      ...     return 1e-9 * half.astype(jnp.float32)
      >>> tx = ksam_jax.dynamic_loss_scale(
      ...     optax.chain(ksam_jax.sam(rho=0.05), optax.sgd(1e9))
      ... )
      >>> w, batch = jnp.zeros(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> opt_state = tx.init(w)
      >>> updates, opt_state = tx.update(
      ...     None, opt_state, w, loss_fn=loss_fn, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates], bool(opt_state.finite)
      ([-2.0, -3.0], True)

    Reference:
      Micikevicius et al., Mixed Precision Training, ICLR 2018. Skipping on either of the
      two gradients is ours.
    """
    _check_inner(_CALL, inner)
    bounds = {"minimum": minimum, "initial": initial, "maximum": maximum}
    _values.dynamic_scale(_CALL, growth_interval, factor, **bounds)
    inner = optax.with_extra_args_support(inner)
    rule = _Rule(growth_interval, factor, minimum, maximum)

    def init_fn(params):
        return _first_state(inner.init(params), initial)

    def update_fn(updates, state, params=None, *, loss_fn: Any = None, **extra_args):
        _arguments.state_of(f"{_CALL}.update", state, LossScaleState)
        _check_computes_gradients(_CALL, updates, loss_fn, state)
        given = {"loss_fn": loss_fn, **extra_args, "loss_scale": state.scale}
        updates, after = inner.update(updates, state.inner, params, **given)
        finite = _is_sound(updates, after, params)
        updates = jax.tree.map(lambda u: jnp.where(finite, u, jnp.zeros_like(u)), updates)
        before = without_aux(state.inner)
        return updates, rule.adapted(state, _if_made(finite, after, before), finite)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Rule(NamedTuple):
    """How the scale follows what overflowed; by the arguments' names."""

    growth_interval: Any
    factor: Any
    minimum: Any
    maximum: Any

    def adapted(
        self, state: LossScaleState, inner: PyTree, finite: Bool[Array, ""]
    ) -> LossScaleState:
        """The state after a step that was made, or wasn't, and left that of `inner`."""
        one = jnp.array(1, jnp.int32)
        good = jnp.where(finite, state.good_steps + one, 0)
        is_due = good >= self.growth_interval
        scale, by = state.scale, jnp.asarray(self.factor, jnp.float32)
        grown = jnp.minimum(scale * by, jnp.asarray(self.maximum, jnp.float32))
        shrunk = jnp.maximum(scale / by, jnp.asarray(self.minimum, jnp.float32))
        return LossScaleState(
            inner,
            jnp.where(finite, jnp.where(is_due, grown, scale), shrunk),
            good_steps=jnp.where(is_due, 0, good),
            skipped=jnp.where(finite, state.skipped, optax.safe_increment(state.skipped)),
            finite=finite,
        )


def _first_state(inner: PyTree, initial: Any) -> LossScaleState:
    return LossScaleState(
        inner,
        jnp.array(initial, jnp.float32),
        good_steps=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        finite=jnp.array(True),
    )


def _if_made(finite: Bool[Array, ""], after: PyTree, before: PyTree) -> PyTree:
    """`after` if the step was made, else `before`; but what wasn't there yet is new.

    At rest aux is None: that of the step comes from `after` in either case.
    """
    return jax.tree.map(
        lambda old, new: new if old is None else jnp.where(finite, new, old),
        before,
        after,
        is_leaf=lambda x: x is None,
    )


def _is_sound(updates: PyTree, after: PyTree, params: PyTree) -> Bool[Array, ""]:
    """Whether all gradients of the step were finite.

    The updates alone don't tell: they hide an ascent gradient that overflowed, and behind
    `optax.MultiSteps` a descent gradient, too. Of other transformations than ours they are
    all there is.
    """
    ours = [state.both_finite for state in our_states(after)]
    return jnp.all(jnp.stack([*ours, all_finite(updates, like=params)]))


def _check_inner(call: str, inner: Any) -> None:
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(
            f"{call}(inner={shown(inner)}): inner must be a transformation that computes "
            f"gradients, such as optax.chain(ksam_jax.k_sam(), optax.sgd(0.1)); got type "
            f"{type(inner).__name__}."
        )


def _check_computes_gradients(
    call: str, updates: PyTree, loss_fn: Any, state: LossScaleState
) -> None:
    _leaves.no_generator(f"{call}.update", "updates", updates)
    is_plain = jax.tree.leaves(updates) and not our_states(state.inner)
    if loss_fn is None or is_plain:
        what = "loss_fn=None" if loss_fn is None else "updates=<gradient>"
        raise ValueError(
            f"{call}(inner).update({what}): the loss is scaled where inner computes its "
            f"gradients, from loss_fn, and one computed elsewhere would go unscaled; wrap "
            f"a chain with a method of this library, and write\n    updates, opt_state = "
            f"tx.update(None, opt_state, params, loss_fn=loss_fn, batch=batch)"
        )
