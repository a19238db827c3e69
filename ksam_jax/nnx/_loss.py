"""The loss of an NNX model, and the training step that it makes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx
from jaxtyping import Array, PyTree

from ..checks import _arguments, _kinds
from ..loss._residuals import checked
from ..models._choice import EXAMPLES, chosen_form
from ..models._forms import Form, form_of, stepped
from . import _checks
from ._look import Look, look
from ._parts import Parts, keys_of_examples, parts_of, put_into
from ._passes import passes_of

_CALL = "ksam_jax.nnx.loss"


@dataclasses.dataclass(frozen=True)
class Loss:
    """A function of a model's outputs, made a loss that is right in both passes.

    Made by `ksam_jax.nnx.loss`.
    """

    function: Callable[[Any, Any], Any]
    has_aux: bool = False
    keep: str | int = "auto"
    per_example: bool | None = None

    def update(self, model: Any, optimizer: Any, batch: PyTree, **extra_args: Any) -> Any:
        r"""One training step: new weights, statistics, counts and optimizer state.

        .. math:: w \leftarrow w + \mathrm{tx}(\nabla L(w + \epsilon))

        `optimizer.update` itself isn't called: it has no place for what the clean pass
        gives besides.

        Args:
          model: an `nnx.Module`, in training mode; it is updated in place.
          optimizer: the `nnx.Optimizer` of that model, with one of this library's methods
            in its chain; updated likewise. What is trained is its `wrt`.
          batch: a pytree of arrays that share the leading axis N.
          extra_args: handed on to the chain, as `loss_scale` is.

        Returns:
          `SharpnessAwareInfo` of this step; with `has_aux` a pair of it and aux.

        Raises:
          TypeError: if `model` or `optimizer` is something else.
          ValueError: if the optimizer has none of our methods, or several; if `function`
            doesn't give one loss per example.

        Example: see `ksam_jax.nnx.loss`.
        """
        _checks.model_and_optimizer(model, optimizer)
        batch = _arguments.batch_arrays(batch, "loss.update")
        parts = parts_of(model, optimizer.wrt)
        seen = look(parts, self._run, batch)
        form = self._form(model, parts, seen, batch)
        state = nnx.as_pure(optimizer.opt_state)
        found = stepped(optimizer.tx, state, parts.params, form, extra_args)
        put_into(
            model, dict(zip(seen.written, found.written, strict=True)) | seen.counted()
        )
        # What is trained may be written, too, as nnx.SpectralNorm does.
        params = nnx.as_pure(nnx.state(model, optimizer.wrt))
        nnx.update(model, optax.apply_updates(params, found.updates))
        nnx.update(optimizer.opt_state, nnx.state(found.opt_state))
        optimizer.step[...] += 1
        return (found.info, found.aux) if self.has_aux else found.info

    def _run(self, model: Any, batch: PyTree) -> tuple[Array, Any]:
        takes, args = "the model and a batch", (model, batch)
        out = _kinds.called(_CALL, "function", self.function, takes, *args)
        n = jax.tree.leaves(batch)[0].shape[0]
        return _checks.losses_and_aux(_CALL, out, n, self.has_aux)

    def _form(self, model: Any, parts: Parts, seen: Look, batch: PyTree) -> Form:
        by_row, writes = bool(seen.drawn) and seen.only_norms, bool(seen.written)
        call = f"{_CALL}(function)"
        name = chosen_form(call, seen.meeting, writes, by_row, self.per_example)
        if name == EXAMPLES:
            _checks.nothing_is_written(seen)
        keys = keys_of_examples(model, seen.drawn, batch)
        passes, has_any = passes_of(parts, self._run, seen), self.has_aux or writes
        return form_of(name, passes, batch, keys, has_any, self.keep)


def loss(
    function: Callable[[Any, Any], Any],
    *,
    has_aux: bool = False,
    keep: str | int = "auto",
    per_example: bool | None = None,
) -> Loss:
    r"""From a model and a function of its outputs to a loss that is right in both passes.

    .. math:: L(w)_i = \mathrm{function}(\mathrm{model}_w, \mathrm{batch})_i

    - What is perturbed and trained is what the optimizer's `wrt` says: `nnx.Param`,
      `nnx.LoRAParam`, any filter.
    - What the model writes, as BatchNorm's running statistics, is put back into it from the
      clean pass over the whole batch. The perturbed pass has a copy of its own.
    - Where it draws from its own streams, as dropout does, each example has a key, made
      from the key that the stream would give next: the same in both passes, another in each
      step. Counts move on as in one ordinary pass.
    - Where no layer looks at other examples, the loss is that of `ksam_jax.per_example`. If
      BatchNorm alone does, and something is drawn, rows run with their own keys and
      BatchNorm averages over them. Otherwise the model runs the batch as it is, with its
      own streams: there a dropout mask is by place in the batch, and methods that choose
      examples warn of it. Which it is, is seen in a trace of the model.

    What is sown (`nnx.Intermediate`) stays in the copies.

    Args:
      function: `(model, batch) -> losses` of shape `(N,)`, or `(losses, aux)`; it is given
        a model to call, and a batch or a part of it, down to one example, N = 1.
      has_aux: whether it gives aux, arrays of one row for each example, or of the batch.
      keep: as in `ksam_jax.per_example`.
      per_example: whether no layer looks at other examples; None to have it seen.

    Returns:
      A `Loss`, whose `update(model, optimizer, batch)` is a training step.

    Raises:
      TypeError: if `function` isn't callable, or an argument is of another type.
      ValueError: if `keep` is another word or an integer below 1.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> import ksam_jax.nnx
      >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
      >>> tx = optax.chain(ksam_jax.k_sam(), optax.sgd(0.1, momentum=0.9))
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
      >>> loss = ksam_jax.nnx.loss(
      ...     lambda model, batch: (model(batch["x"])[:, 0] - batch["y"]) ** 2
      ... )
      >>> @nnx.jit
      ... def train_step(model, optimizer, batch):
      ...     return loss.update(model, optimizer, batch)
      >>> batch = {"x": jnp.ones((4, 2)), "y": jnp.zeros(4)}
      >>> bool(train_step(model, optimizer, batch).loss > 0)
      True

    Reference:
      None; ours.
    """
    _kinds.function(_CALL, "function", function)
    _kinds.switch(_CALL, "has_aux", has_aux)
    if per_example is not None:
        _kinds.switch(_CALL, "per_example", per_example)
    return Loss(function, has_aux, checked(keep), per_example)
