"""Flax Linen with a TrainState: SAM on the digits, the whole script.

`TrainState.apply_gradients` doesn't forward `loss_fn` and `batch` to the optimizer. A
subclass with a method of its own does.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits

import ksam_jax

EPOCHS, BATCH = 10, 128


class Net(nn.Module):
    """Two layers."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(128)(x)))


class SharpnessAwareTrainState(TrainState):
    """A TrainState whose step takes a loss and a batch instead of a gradient."""

    def minimize(self, loss_fn, batch):
        """One step."""
        tx = optax.with_extra_args_support(self.tx)  # which it has: this tells its type
        updates, opt_state = tx.update(
            (), self.opt_state, self.params, loss_fn=loss_fn, batch=batch
        )
        params = optax.apply_updates(self.params, updates)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state)


images, labels = load_digits(return_X_y=True)
images = np.asarray(images / 16, np.float32)
train, test = np.arange(1200), np.arange(1200, len(labels))

model = Net()
state = SharpnessAwareTrainState.create(
    apply_fn=model.apply,
    params=model.init(jax.random.key(0), images[:1])["params"],
    tx=optax.chain(ksam_jax.sam(rho=0.1), optax.sgd(0.1, momentum=0.9)),
)


@jax.jit
def train_step(state, batch):
    def loss_fn(params, batch):
        logits = state.apply_fn({"params": params}, batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])

    return state.minimize(loss_fn, batch)


rng = np.random.default_rng(0)
for _ in range(EPOCHS):
    for rows in rng.permutation(train)[: len(train) // BATCH * BATCH].reshape(-1, BATCH):
        state = train_step(state, {"image": images[rows], "label": labels[rows]})
info = ksam_jax.get_info(state.opt_state)
logits = state.apply_fn({"params": state.params}, images[test])
hits = jnp.argmax(logits, axis=1) == labels[test]
print(f"loss rises by {info.sharpness:.4f} at {info.perturbation_norm:.2f}")
print(f"test accuracy {jnp.mean(hits):.3f}")
