"""The loss of one example, made a loss of a batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ..checks import _arguments, _kinds, _leaves
from ..trees._keys import drawn_alone
from ._residuals import checked


@dataclasses.dataclass(frozen=True)
class PerExample:
    """A batch loss made of one example's loss by `vmap`; see `per_example`."""

    example_loss: Callable[[Any, Any], Any]
    keep: str | int = "auto"

    def __call__(self, params: Any, batch: Any) -> Any:
        """Losses of shape `(N,)`, and the examples' aux stacked where there is one."""
        call = "per_example(example_loss)"
        _leaves.no_generator(call, "params", params)
        batch = drawn_alone(_arguments.batch_arrays(batch, call, least=0))
        return jax.vmap(self._of_one, in_axes=(None, 0))(params, batch)

    def _of_one(self, params: Any, example: Any) -> Any:
        call, takes = "per_example", "params and one example"
        args = params, example
        try:
            out = _kinds.called(call, "example_loss", self.example_loss, takes, *args)
        except NameError as error:
            if "unbound axis name" not in str(error):
                raise
            raise ValueError(
                f"{call}(example_loss): example_loss must not ask for other examples by an "
                f"axis's name, as BatchNorm with axis_name does, since it sees one example "
                f"({error}); write a batch-level loss with has_aux, (params, batch) -> "
                f"(losses of shape (N,), statistics), with jax.vmap(..., axis_name=...) in "
                f"it, or take GroupNorm or LayerNorm."
            ) from error
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
    _kinds.function("per_example", "example_loss", example_loss)
    return PerExample(example_loss, checked(keep))
