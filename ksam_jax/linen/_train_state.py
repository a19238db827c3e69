"""A TrainState whose `apply_gradients` hands the loss on."""

from typing import Any

from flax import struct
from flax.training import train_state


class TrainState(train_state.TrainState):
    """Flax's `TrainState` with all that a step of this library needs, and updates.

    `apply_gradients(loss=loss, batch=batch)` is a step. `create` takes what Flax's does,
    and

    Attributes:
      params: the model's weights, of which the chain's state is made.
      variables: the model's collections besides `params`, such as `{"batch_stats": ...}`,
        which a step puts back from the clean pass over the whole batch.
      key: a random key from which those of the examples are made, others in each step;
        None for a model that draws nothing.
      streams: the names under which the model asks for keys.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from flax import linen as nn
      >>> import ksam_jax.linen
      >>> model, batch = nn.Dense(1), {"x": jnp.ones((4, 2)), "y": jnp.zeros(4)}
      >>> state = ksam_jax.linen.TrainState.create(
      ...     apply_fn=model.apply,
      ...     params=model.init(jax.random.key(0), batch["x"])["params"],
      ...     tx=optax.chain(ksam_jax.k_sam(), optax.sgd(0.1, momentum=0.9)),
      ... )
      >>> loss = ksam_jax.linen.loss(
      ...     lambda apply, batch: (apply(batch["x"])[:, 0] - batch["y"]) ** 2
      ... )
      >>> state = state.apply_gradients(loss=loss, batch=batch)
      >>> int(state.step), bool(ksam_jax.get_info(state.opt_state).loss > 0)
      (1, True)

    Reference:
      None; ours.
    """

    # Flax says FrozenDict, and gives dictionaries.
    params: Any
    variables: Any = struct.field(default_factory=dict)
    key: Any = None
    streams: Any = struct.field(pytree_node=False, default=("dropout",))

    def apply_gradients(
        self, *, grads: Any = None, loss: Any = None, batch: Any = None, **kwargs: Any
    ) -> "TrainState":
        """A step by a loss and a batch; with `grads` it is Flax's.

        Args:
          grads: gradients, for a chain without one of this library's methods.
          loss: what `ksam_jax.linen.loss` made.
          batch: a pytree of arrays that share the leading axis N.
          **kwargs: with a loss, extra arguments of the chain; else fields to replace.

        Returns:
          The next state.

        Raises:
          TypeError: if neither a loss nor gradients are given, or both.
          ValueError: as `Loss.update`.
        """
        if (grads is None) == (loss is None):
            raise TypeError(
                "TrainState.apply_gradients(...): either loss or grads must be given; pass "
                "loss=ksam_jax.linen.loss(...) and batch=batch."
            )
        if loss is None:
            return super().apply_gradients(grads=grads, **kwargs)
        return loss.update(self, batch, **kwargs)[0]
