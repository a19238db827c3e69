"""From a Flax NNX model to a whole step: nothing to split, to merge or to put back.

An optional part, `pip install "ksam_jax[nnx]"`:

    import ksam_jax.nnx

    loss = ksam_jax.nnx.loss(lambda model, batch: losses_of(model(batch["x"]), batch["y"]))

    @nnx.jit
    def train_step(model, optimizer, batch):
        return loss.update(model, optimizer, batch)
"""

from . import _extra as _extra

# isort: split
from ._loss import Loss as Loss
from ._loss import loss as loss
