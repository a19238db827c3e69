"""Flax Linen with a TrainState, BatchNorm and dropout: SAM on the digits, the whole script.

`TrainState.apply_gradients` of Flax doesn't forward `loss_fn` and `batch` to the optimizer.
That of `ksam_jax.linen` does, and puts the statistics back.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import ksam_jax.linen

EPOCHS, BATCH = 10, 128


class Net(nn.Module):
    """Two layers."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(128)(x))
        x = nn.Dropout(0.1, deterministic=not train)(nn.relu(x))
        return nn.Dense(10)(x)


def losses_of(apply, batch):
    logits = apply(batch["image"], train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])


images, labels = load_digits(return_X_y=True)
images = np.asarray(images / 16, np.float32)
train, test = np.arange(1200), np.arange(1200, len(labels))

model = Net()
variables = model.init(jax.random.key(0), images[:1], train=False)
state = ksam_jax.linen.TrainState.create(
    apply_fn=model.apply,
    params=variables["params"],
    variables={"batch_stats": variables["batch_stats"]},
    key=jax.random.key(1),
    tx=optax.chain(ksam_jax.sam(rho=0.1), optax.sgd(0.1, momentum=0.9)),
)
loss = ksam_jax.linen.loss(losses_of)


@jax.jit
def train_step(state, batch):
    return state.apply_gradients(loss=loss, batch=batch)


rng = np.random.default_rng(0)
for _ in range(EPOCHS):
    for rows in rng.permutation(train)[: len(train) // BATCH * BATCH].reshape(-1, BATCH):
        state = train_step(state, {"image": images[rows], "label": labels[rows]})
info = ksam_jax.get_info(state.opt_state)
logits = model.apply({"params": state.params, **state.variables}, images[test], train=False)
hits = jnp.argmax(jnp.asarray(logits), axis=1) == labels[test]
print(f"loss rises by {info.sharpness:.4f} at {info.perturbation_norm:.2f}")
print(f"test accuracy {jnp.mean(hits):.3f}")
