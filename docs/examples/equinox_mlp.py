"""Equinox: K-SAM on the digits, the whole script.

An Equinox model is called with one example, and its loss is of one. What is perturbed and
trained are the model's arrays.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import ksam_jax.equinox

EPOCHS, BATCH = 10, 128

images, labels = load_digits(return_X_y=True)
images = np.asarray(images / 16, np.float32)
train, test = np.arange(1200), np.arange(1200, len(labels))

model = eqx.nn.MLP(64, 10, width_size=128, depth=1, key=jax.random.key(0))


def example_loss(model, example):
    logits = model(example["image"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, example["label"])


loss = ksam_jax.equinox.loss(example_loss)
tx = optax.chain(ksam_jax.k_sam(rho=0.05, k=0.25), optax.sgd(0.1, momentum=0.9))
opt_state = loss.init(model, tx)


@eqx.filter_jit
def train_step(model, opt_state, batch):
    return loss.update(model, tx, opt_state, batch)


rng = np.random.default_rng(0)
for _ in range(EPOCHS):
    for rows in rng.permutation(train)[: len(train) // BATCH * BATCH].reshape(-1, BATCH):
        batch = {"image": images[rows], "label": labels[rows]}
        model, opt_state, info, *_ = train_step(model, opt_state, batch)
logits = jax.vmap(model)(jnp.asarray(images[test]))
hits = jnp.argmax(logits, axis=1) == labels[test]
print(f"test accuracy {jnp.mean(hits):.3f}")
