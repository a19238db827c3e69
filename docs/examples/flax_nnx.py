"""Flax NNX with BatchNorm and dropout: K-SAM on the digits, the whole script.

The step is one line: BatchNorm's statistics come from the clean pass, and every example has
a dropout key of its own, so that it drops the same units in both passes.
"""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import ksam_jax.nnx

EPOCHS, BATCH = 10, 128


class Net(nnx.Module):
    """Two layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.norm = nnx.BatchNorm(128, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


def losses_of(model, batch):
    logits = model(batch["image"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])


images, labels = load_digits(return_X_y=True)
images = np.asarray(images / 16, np.float32)
train, test = np.arange(1200), np.arange(1200, len(labels))

model = Net(nnx.Rngs(0))
tx = optax.chain(
    ksam_jax.k_sam(rho=0.05, k=0.5),
    optax.add_decayed_weights(5e-4),
    optax.sgd(0.1, momentum=0.9),
)
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
loss = ksam_jax.nnx.loss(losses_of)


@nnx.jit
def train_step(model, optimizer, batch):
    return loss.update(model, optimizer, batch)


rng = np.random.default_rng(0)
for _ in range(EPOCHS):
    for rows in rng.permutation(train)[: len(train) // BATCH * BATCH].reshape(-1, BATCH):
        info = train_step(model, optimizer, {"image": images[rows], "label": labels[rows]})
model.eval()
hits = jnp.argmax(model(images[test]), axis=1) == labels[test]
print(f"test accuracy {jnp.mean(hits):.3f}")
