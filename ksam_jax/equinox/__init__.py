"""From an Equinox model to a whole step: nothing to partition or to combine.

An optional part, `pip install "ksam_jax[equinox]"`:

    import ksam_jax.equinox

    loss = ksam_jax.equinox.loss(lambda model, x: cross_entropy(model(x["x"]), x["y"]))

    @eqx.filter_jit
    def train_step(model, opt_state, batch):
        return loss.update(model, tx, opt_state, batch)
"""

from . import _extra as _extra

# isort: split
from ._loss import Loss as Loss
from ._loss import Step as Step
from ._loss import loss as loss
