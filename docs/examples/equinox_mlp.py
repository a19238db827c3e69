"""Equinox: K-SAM on the digits, the whole script.

An Equinox model is a pytree with functions among its leaves. What is perturbed and trained
are its arrays; `per_example` makes a batch's losses from the loss of one example, which is
what an Equinox model is called with anyway.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import ksam_jax

EPOCHS, BATCH = 10, 128

images, labels = load_digits(return_X_y=True)
images = np.asarray(images / 16, np.float32)
train, test = np.arange(1200), np.arange(1200, len(labels))

model = eqx.nn.MLP(64, 10, width_size=128, depth=1, key=jax.random.key(0))
params, static = eqx.partition(model, eqx.is_inexact_array)


def example_loss(params, example):
    logits = eqx.combine(params, static)(example["image"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, example["label"])


loss_fn = ksam_jax.per_example(example_loss)
tx = optax.chain(ksam_jax.k_sam(rho=0.05, k=0.25), optax.sgd(0.1, momentum=0.9))
opt_state = tx.init(params)


@jax.jit
def train_step(params, opt_state, batch):
    # (): no gradient yet. (None is the same; Optax's types have no None.)
    updates, opt_state = tx.update((), opt_state, params, loss_fn=loss_fn, batch=batch)
    return eqx.apply_updates(params, updates), opt_state


rng = np.random.default_rng(0)
for _ in range(EPOCHS):
    for rows in rng.permutation(train)[: len(train) // BATCH * BATCH].reshape(-1, BATCH):
        batch = {"image": images[rows], "label": labels[rows]}
        params, opt_state = train_step(params, opt_state, batch)
logits = jax.vmap(eqx.combine(params, static))(images[test])
hits = jnp.argmax(logits, axis=1) == labels[test]
print(f"test accuracy {jnp.mean(hits):.3f}")
