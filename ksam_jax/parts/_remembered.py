"""Question 1 or 3 answered from memory: no forward pass is spent on choosing."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from ..checks import _kinds, _values
from ..checks._words import shown
from ..devices._axis import sharding_for
from . import _counts
from ._ranking import top_k, weighed
from ._selection import Selection

# Above every loss that is finite, so that new examples come first.
NOT_USED = float(np.finfo(np.float32).max)


class RememberedLosses(NamedTuple):
    """The loss that each training example had when it was last used.

    Attributes:
      losses: shape `(num_examples,)`, float32; the largest finite number, `jnp.finfo(
        jnp.float32).max`: not used yet (an infinity would stop `jax_debug_infs`); NaN: it
        wasn't finite.
    """

    losses: Float[Array, " num_examples"]


def highest_remembered_loss(
    k: Any,
    num_examples: int,
    index: Hashable | Callable[[Any], Any] = "index",
    mean_over: str = "batch",
) -> Selection:
    r"""The k examples whose loss was highest when they were last used (experimental).

    .. math:: M = \mathrm{top}_k \, r_i, \qquad
      r_i \leftarrow \ell_i \text{ for } i \in M, \qquad r_i = \infty \text{ at first}

    Examples not used yet come first, so the first epoch passes over new ones. The
    memory is one float per training example in the transformation's state; after a step
    it is updated for the examples that were used, with their losses in the pass that
    they were chosen for, and for no others. Remembered losses grow old: an example that
    is not chosen keeps its loss of long ago.

    An example whose loss is not finite makes that one step's gradient so (put
    `optax.apply_if_finite` around the base optimizer); from then on it ranks last, and
    isn't used while the batch has others. Where no loss of a step is finite, the step is
    at fault, not the examples, and nothing is remembered.

    As the ascent and the descent of K-SAM this costs 6k forward passes' worth of work
    per example, as the descent after `past_descent` 3k; SGD's is 3.

    Args:
      k: how many, as in `highest_loss`.
      num_examples: size of the training set.
      index: where the batch has the number of each example, integers of shape `(N,)` from
        0 to num_examples - 1, all different: a key or an attribute of the batch, or a
        function `batch -> (N,)`. Under `jax.jit`, where a number out of range can't be an
        error, it makes the gradient NaN.
      mean_over: "chosen" or "batch", as in `highest_loss`.

    Returns:
      A `Selection` for `sharpness_aware`, for the ascent, the descent, or both.

    Raises:
      ValueError: if `k` breaks the rule of `highest_loss`, `num_examples` is below 1, or
        the batch has no such index, one of another shape, or (outside `jax.jit`, where
        it can be seen) one out of range.
      TypeError: if `num_examples` or the batch's index isn't an integer.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> remembered = ksam_jax.highest_remembered_loss(0.5, num_examples=1000)
      >>> tx = ksam_jax.sharpness_aware(
      ...     ksam_jax.scale_to_radius(0.05), ascent=remembered, descent=remembered
      ... )
      >>> batch = {"x": jnp.ones((2, 3)), "index": jnp.array([17, 4])}
      >>> loss_fn = lambda w, batch: batch["x"] @ w
      >>> w = jnp.ones(3)
      >>> _, state = tx.update(None, tx.init(w), w, loss_fn=loss_fn, batch=batch)
      >>> state.ascent.losses[jnp.array([17, 4])].tolist()
      [3.0, 3.4028234663852886e+38]

    Reference:
      None; ours.
    """
    call = "highest_remembered_loss"
    count = _counts.example_count(call, "k", k)
    _values.size(call, "num_examples", num_examples)
    _kinds.one_of(call, "mean_over", mean_over, ("chosen", "batch"))
    size = int(num_examples)

    def init() -> RememberedLosses:
        return RememberedLosses(jnp.full((size,), NOT_USED, jnp.float32))

    def choose(evidence, state):
        n = evidence.num_examples
        numbers = _numbers(index, evidence.batch, n, size)
        ranked = top_k(_scores(state.losses, numbers), evidence.number(count))
        chosen = weighed(*ranked, n, mean_over)
        # Better a gradient that is NaN than to train on the wrong ones.
        is_known = jnp.all(numbers < size)
        weights = jnp.where(is_known, chosen.weights, jnp.nan)
        return chosen._replace(weights=weights), state

    def learn(batch, chosen, losses, state, join):
        n = jax.tree.leaves(batch)[0].shape[0]
        numbers = chosen.take(_numbers(index, batch, n, size))
        # Rows that only fill up the static size have been written once already.
        numbers = jnp.where(chosen.row_weights > 0, numbers, size)
        losses = jax.lax.stop_gradient(losses).astype(jnp.float32)
        numbers, losses = join((numbers, losses))
        is_finite = jnp.isfinite(losses)
        updated = state.losses.at[numbers].set(
            jnp.where(is_finite, losses, jnp.nan), mode="drop"
        )
        return RememberedLosses(jnp.where(jnp.any(is_finite), updated, state.losses))

    name = f"{call}(k={count.value!r}, num_examples={size})"
    return Selection(choose, init=init, learn=learn, call=name)


def _scores(
    losses: Float[Array, " num_examples"], numbers: Int[Array, " N"]
) -> Float[Array, " N"]:
    """Remembered losses to rank by: examples not used yet first, bad ones last."""
    known = losses.at[numbers].get(
        mode="fill", fill_value=jnp.nan, out_sharding=sharding_for(numbers)
    )
    # A batch of bad ones alone gets another try.
    known = jnp.where(jnp.all(jnp.isnan(known)), NOT_USED, known)
    # States that were saved by 0.1.0 have an infinity there.
    return jnp.minimum(known, NOT_USED)


def _numbers(index: Any, batch: PyTree, n: int, size: int) -> Int[Array, " N"]:
    """The examples' numbers, with `size` for those out of range."""
    numbers = _looked_up(index, batch)
    dtype, shape = getattr(numbers, "dtype", None), getattr(numbers, "shape", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        got = type(numbers).__name__ if dtype is None else f"dtype {dtype}"
        raise TypeError(
            f"highest_remembered_loss(index={shown(index)}): index must lead to an "
            f"array of integers in the batch; got {got}; give each example its number in "
            f"the training set as a leaf of the batch."
        )
    if shape != (n,):
        raise ValueError(
            f"highest_remembered_loss(index={shown(index)}): index must lead to one number "
            f"per example, shape ({n},); got shape {shape}; number the examples of this "
            f"batch."
        )
    if not isinstance(numbers, Tracer):
        _check_range(np.asarray(numbers), size)
    # The size itself needn't fit into a narrow dtype.
    numbers = jnp.asarray(numbers)
    numbers = numbers if dtype.itemsize > 4 else numbers.astype(jnp.int32)
    return jnp.where((numbers >= 0) & (numbers < size), numbers, size)


def _check_range(numbers: np.ndarray, size: int) -> None:
    outside = numbers[(numbers < 0) | (numbers.astype(np.int64) >= size)]
    if outside.size:
        raise ValueError(
            f"highest_remembered_loss(num_examples={size}): the batch's index must be from "
            f"0 to {size - 1}; got {outside[0]}; pass the size of the training set."
        )


def _looked_up(index: Any, batch: PyTree) -> Any:
    if callable(index):
        call = "highest_remembered_loss"
        return _kinds.called(call, "index", index, "the batch", batch)
    try:
        return batch[index]
    except (KeyError, TypeError, IndexError):
        pass
    # A tuple has a method of the name "index".
    found = getattr(batch, index, None) if isinstance(index, str) else None
    if found is None or callable(found):
        raise ValueError(
            f"highest_remembered_loss(index={shown(index)}): index must be a key or an "
            f"attribute of the batch, or a function of it; got a batch of type "
            f"{type(batch).__name__} without it; give each example its number in the "
            f"training set as a leaf of the batch."
        )
    return found
