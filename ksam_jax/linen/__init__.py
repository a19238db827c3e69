"""From a Flax Linen model to a whole step, statistics and dropout included.

An optional part, `pip install "ksam_jax[linen]"`:

    import ksam_jax.linen

    loss = ksam_jax.linen.loss(lambda apply, batch: losses(apply(batch["x"]), batch["y"]))

    @jax.jit
    def train_step(state, batch):  # a ksam_jax.linen.TrainState
        return state.apply_gradients(loss=loss, batch=batch)
"""

from . import _extra as _extra

# isort: split
from ._loss import Loss as Loss
from ._loss import loss as loss
from ._train_state import TrainState as TrainState
