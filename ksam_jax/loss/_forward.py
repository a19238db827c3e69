"""One forward pass: per-example losses now, the gradient of chosen examples later.

A batch-level loss may couple its examples (BatchNorm in training mode does), so the
gradient of chosen examples is that of the loss on the gathered sub-batch: a second
forward pass. `per_example` can't couple them, so the forward pass that gave the losses
may serve the gradient too. Which is correct follows from what the user passed.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..checks import _arguments, _kinds
from ..devices._axis import mean_of_parts, undivided
from ..trees._numbers import divided
from ._microbatches import gradient_in_turn, join_microbatches, losses_in_turn
from ._per_example import PerExample
from ._residuals import AUTO, keeping, pull_back_rows, split_linearized
from ._rows import Chosen, cotangent

# What computing can raise, as opposed to tracing: not about `keep`.
_RUNTIME_ERRORS = (FloatingPointError, jax.errors.JaxRuntimeError)


class Loss(NamedTuple):
    """The user's loss, with one calling convention and checked results.

    Attributes:
      scale: what the loss is multiplied by on the way back, and its gradient divided by;
        None to do neither.
    """

    loss_fn: Any
    has_aux: bool
    num_microbatches: int = 1
    scale: Any = None

    def __call__(self, params: PyTree, batch: PyTree) -> tuple[Float[Array, " N"], Any]:
        """Returns `(losses, aux)`, aux being None where the user has none."""
        n = jax.tree.leaves(batch)[0].shape[0]
        args = (params, to_draw_again(batch))
        out = _kinds.called("tx.update", "loss_fn", self.loss_fn, "params and batch", *args)
        losses, aux = _arguments.losses_and_aux(out, n, self.has_aux)
        return undivided(losses), aux

    @property
    def is_per_example(self) -> bool:
        """Whether aux has one row per example."""
        return isinstance(self.loss_fn, PerExample)

    def scaled(self, weights: Float[Array, " rows"]) -> Float[Array, " rows"]:
        """What to pull back for these weights, before it takes the dtype of the losses.

        In float16 the scale alone may be too large a number, and the weight too small.
        """
        if self.scale is None:
            return weights
        return weights * jnp.asarray(self.scale, weights.dtype)

    def unscaled(self, gradient: PyTree) -> PyTree:
        """The gradient of the loss itself, from what was pulled back."""
        if self.scale is None:
            return gradient
        return jax.tree.map(lambda g: divided(g, self.scale), gradient)


def to_draw_again(batch: PyTree) -> PyTree:
    """The batch with keys that count as new ones to `jax_debug_key_reuse`.

    Both passes draw the same from an example's key on purpose. Costs no operation; a key
    that the loss itself uses twice is found as before.
    """

    def clone(leaf: Array) -> Array:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.clone(leaf) if is_key else leaf

    return jax.tree.map(clone, batch)


class Pass(NamedTuple):
    """A forward pass, and what turns it into a gradient.

    Attributes:
      losses: of all examples.
      aux: likewise.
      gradient: of the chosen; and their losses in the pass that it is of, which are others
        if a loss that couples examples was run on the chosen alone.
    """

    losses: Float[Array, " N"]
    aux: Any
    gradient: Callable[[Chosen], tuple[PyTree, Float[Array, " k"]]]


def forward(loss: Loss, params: PyTree, batch: PyTree) -> tuple[Float[Array, " N"], Any]:
    """The losses and aux of all of `batch`, and no gradient."""
    if loss.num_microbatches == 1:
        return loss(params, batch)
    losses, aux = losses_in_turn(loss, params, batch, loss.num_microbatches)
    return losses, _joined(loss, aux)


def weighted(
    loss: Loss, params: PyTree, batch: PyTree, weights: Float[Array, " N"]
) -> tuple[Float[Array, " N"], Any, PyTree]:
    """As `forward`, and the gradient of the weighted sum of the losses."""
    weights = loss.scaled(weights)
    if loss.num_microbatches > 1:
        parts = loss.num_microbatches
        losses, aux, gradient = gradient_in_turn(loss, params, batch, weights, parts)
        return losses, _joined(loss, aux), loss.unscaled(uphill(gradient))
    losses, pull_back, aux = jax.vjp(lambda p: loss(p, batch), params, has_aux=True)
    (gradient,) = pull_back(cotangent(weights, losses))
    return losses, aux, loss.unscaled(uphill(gradient))


def _joined(loss: Loss, aux: PyTree) -> PyTree:
    """What the microbatches' aux is for the batch: its rows in order, or their mean."""
    return join_microbatches(aux) if loss.is_per_example else mean_of_parts(aux)


def select_later(loss: Loss, params: PyTree, batch: PyTree) -> Pass:
    """Forward over all of `batch`; `gradient(chosen)` runs the chosen rows backward."""
    mapped = loss.loss_fn
    in_parts = loss.num_microbatches > 1
    if not isinstance(mapped, PerExample) or mapped.keep == "nothing" or in_parts:
        return _recomputed(loss, params, batch)
    if mapped.keep == "auto":
        return _shared_if_possible(loss, params, batch)
    with _naming_keep(mapped.keep, loss, params, batch):
        shared = _shared(mapped.keep, loss, params, batch)

    def gradient(chosen: Chosen) -> tuple[PyTree, Array]:
        with _naming_keep(mapped.keep, loss, params, batch):
            return shared.gradient(chosen)

    return shared._replace(gradient=gradient)


def uphill(cotangents: PyTree) -> PyTree:
    """The direction in which the loss rises: JAX's gradient, conjugated if complex."""
    return jax.tree.map(lambda g: jnp.conj(g) if jnp.iscomplexobj(g) else g, cotangents)


def _recomputed(loss: Loss, params: PyTree, batch: PyTree) -> Pass:
    losses, aux = forward(loss, params, batch)

    def gradient(chosen: Chosen) -> tuple[PyTree, Array]:
        rows = chosen.take(batch)
        again, _, found = weighted(loss, params, rows, chosen.row_weights)
        return found, again

    return Pass(losses, aux, gradient)


def _shared_if_possible(loss: Loss, params: PyTree, batch: PyTree) -> Pass:
    """Shares the pass if the loss allows it; its own errors come out of recomputing."""
    try:
        shared = _shared(AUTO, loss, params, batch)
    except _RUNTIME_ERRORS:
        raise
    except Exception:
        return _recomputed(loss, params, batch)

    def gradient(chosen: Chosen) -> tuple[PyTree, Array]:
        try:
            return shared.gradient(chosen)
        except _RUNTIME_ERRORS:
            raise
        except Exception:
            return _recomputed(loss, params, batch).gradient(chosen)

    return shared._replace(gradient=gradient)


def _shared(keep: str | int, loss: Loss, params: PyTree, batch: PyTree) -> Pass:
    def one(params: PyTree, example: PyTree) -> tuple[Array, Any, Any]:
        def run(p):
            out = loss.loss_fn.example_loss(p, to_draw_again(example))
            return out if loss.has_aux else (out, None)

        value, linear, aux = jax.linearize(keeping(keep, run), params, has_aux=True)
        return value, aux, linear

    losses, aux, linear = split_linearized(one, params, batch)
    n = jax.tree.leaves(batch)[0].shape[0]
    _arguments.losses_and_aux((losses, aux), n, has_aux=True)

    def gradient(chosen: Chosen) -> tuple[PyTree, Array]:
        mine = chosen.take(losses)
        weights = cotangent(loss.scaled(chosen.row_weights), mine)
        found = pull_back_rows(linear, params, chosen.indices, weights)
        return loss.unscaled(uphill(found)), undivided(mine)

    return Pass(undivided(losses), aux, gradient)


@contextlib.contextmanager
def _naming_keep(
    keep: str | int, loss: Loss, params: PyTree, batch: PyTree
) -> Iterator[None]:
    """Explains what `keep` can't do; if the loss itself fails, its own error comes out."""
    try:
        yield
    except _RUNTIME_ERRORS:
        raise
    except Exception as error:
        jax.eval_shape(lambda p, b: loss(p, b), params, batch)
        cause = (str(error).splitlines() or [""])[0]
        given = f'"{keep}"' if isinstance(keep, str) else keep
        raise ValueError(
            f"per_example(keep={given}): this loss can't share its forward pass, for "
            f"example because it uses a custom_vjp function or some form of lax.cond; pass "
            f'keep="nothing". The cause was {type(error).__name__}: {cause}'
        ) from error
