"""One forward pass: per-example losses now, the gradient of chosen examples later.

A batch-level loss may couple its examples (BatchNorm in training mode does), so the
gradient of chosen examples is that of the loss on the gathered sub-batch: a second
forward pass. `per_example` can't couple them, so the forward pass that gave the losses
may serve the gradient too. Which is correct follows from what the user passed.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from . import _arguments, _checks, _leaves
from ._keep import AUTO, checked, keeping
from ._microbatches import gradient_in_turn, join_microbatches, losses_in_turn
from ._residuals import pull_back_rows, split_linearized
from ._rows import Chosen, cotangent, mean_weights, take
from ._statistics import mean_of_parts
from ._tree import divided

# What computing can raise, as opposed to tracing: not about `keep`.
_RUNTIME_ERRORS = (FloatingPointError, jax.errors.JaxRuntimeError)


@dataclasses.dataclass(frozen=True)
class PerExample:
    """A batch loss made of one example's loss by `vmap`; see `per_example`."""

    example_loss: Callable[[Any, Any], Any]
    keep: str | int = "auto"

    def __call__(self, params: Any, batch: Any) -> Any:
        """Losses of shape `(N,)`, and the examples' aux stacked where there is one."""
        call = "per_example(example_loss)"
        _leaves.no_generator(call, "params", params)
        batch = _arguments.batch_arrays(batch, call, least=0)
        return jax.vmap(self._of_one, in_axes=(None, 0))(params, batch)

    def _of_one(self, params: Any, example: Any) -> Any:
        call, takes = "per_example", "params and one example"
        out = _checks.called(
            call, "example_loss", self.example_loss, takes, params, example
        )
        return _arguments.one_result(call, out)


def per_example(
    example_loss: Callable[[Any, Any], Any], keep: str | int = "auto"
) -> PerExample:
    r"""Turns the loss of one example into a `loss_fn` for a batch, by `vmap`.

    .. math:: L(w, b)_i = \ell(w, b_i)

    A function of one example can't see the others, so one forward pass over the batch
    may give both the losses that select and the gradient of the selected: K-SAM then
    costs 1 + 5k forward passes' worth of work per example instead of 1 + 6k. `keep` says
    what stays of that pass. It trades time and memory only; the result is the same up to
    rounding:

    - "nothing": the chosen examples run forward again, and nothing but the losses leaves
      the first pass. Works with every loss that has a gradient. Temporary memory of K-SAM
      at k = 1/4 on a vision transformer (width 128, batch 256): a quarter of SGD's.
    - "matmuls": the outputs of matrix products and convolutions are kept for the whole
      batch, and the elementwise rest is recomputed for the chosen. Memory there: 0.43.
    - an integer: of those, the ones that took at least so many multiply-adds per number
      (the length of the inner axis; of a convolution, window times channels). With 100 the
      products of queries and keys, large results of little work, are recomputed too.
      Memory there: 0.33.
    - "all": every residual is kept. Fewest operations, most memory; there 0.63.
    - "auto": 100; or "nothing" for a loss that can't be linearized example by example, for
      example because it uses a custom_vjp function. The other choices refuse such a loss.

    Args:
      example_loss: `(params, example) -> scalar`, or `(scalar, aux)` with `has_aux=True`.
      keep: "auto", "nothing", "matmuls", an integer >= 1 or "all".

    Returns:
      A callable `(params, batch) -> (N,)`, for `update(..., loss_fn=...)`.

    Raises:
      ValueError: if `keep` is another word or an integer below 1.
      TypeError: if `keep` is something else, or `example_loss` isn't callable.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> squared_error = lambda w, example: (w @ example["x"] - example["y"]) ** 2
      >>> loss_fn = ksam_jax.per_example(squared_error, keep="all")
      >>> batch = {"x": jnp.eye(3), "y": jnp.zeros(3)}
      >>> loss_fn(jnp.array([1.0, 2.0, 3.0]), batch).tolist()
      [1.0, 4.0, 9.0]

    Reference:
      The selecting forward pass is K-SAM's (Ni et al., 2022); sharing it is ours.
    """
    _checks.function("per_example", "example_loss", example_loss)
    return PerExample(example_loss, checked(keep))


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
        args = (params, batch)
        out = _checks.called(
            "tx.update", "loss_fn", self.loss_fn, "params and batch", *args
        )
        return _arguments.losses_and_aux(out, n, self.has_aux)

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
        rows, weights = take(batch, chosen.indices), mean_weights(chosen.counts)
        again, _, found = weighted(loss, params, rows, weights)
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
            out = loss.loss_fn.example_loss(p, example)
            return out if loss.has_aux else (out, None)

        value, linear, aux = jax.linearize(keeping(keep, run), params, has_aux=True)
        return value, aux, linear

    losses, aux, linear = split_linearized(one, params, batch)
    n = jax.tree.leaves(batch)[0].shape[0]
    _arguments.losses_and_aux((losses, aux), n, has_aux=True)

    def gradient(chosen: Chosen) -> tuple[PyTree, Array]:
        weights = loss.scaled(mean_weights(chosen.counts))
        mine = take(losses, chosen.indices)
        weights = cotangent(weights, mine)
        found = pull_back_rows(linear, params, chosen.indices, weights)
        return loss.unscaled(uphill(found)), mine

    return Pass(losses, aux, gradient)


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
