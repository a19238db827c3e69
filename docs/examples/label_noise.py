"""Label noise: where the highest losses are the wrong labels, and what to do.

A fifth of the training labels are wrong. K-SAM, which lives on the highest losses, learns
them by heart. `skip` leaves the very highest out; SAM takes all examples.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import ksam_jax

EPOCHS, BATCH, WRONG = 40, 100, 0.2

images, labels = load_digits(return_X_y=True)
images = np.asarray(images / 16, np.float32)
train, test = np.arange(900), np.arange(900, len(labels))
rng = np.random.default_rng(0)
other = (labels + rng.integers(1, 10, len(labels))) % 10
noisy = np.where(rng.random(len(labels)) < WRONG, other, labels)


def apply(params, x):
    return jax.nn.relu(x @ params["hidden"]) @ params["out"]


def loss_fn(params, batch):
    logits = apply(params, batch["image"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])


def trained(method):
    """Test accuracy, with right labels."""
    keys = jax.random.split(jax.random.key(0))
    params = {
        "hidden": jax.random.normal(keys[0], (64, 256)) / 8,
        "out": jax.random.normal(keys[1], (256, 10)) / 16,
    }
    tx = optax.chain(method, optax.sgd(0.1, momentum=0.9))

    @jax.jit
    def train_epoch(params, opt_state, rows):
        def train_step(carry, rows):
            params, opt_state = carry
            batch = {"image": jnp.asarray(images)[rows], "label": jnp.asarray(noisy)[rows]}
            updates, opt_state = tx.update(
                (), opt_state, params, loss_fn=loss_fn, batch=batch
            )
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(train_step, (params, opt_state), rows)[0]

    opt_state, order = tx.init(params), np.random.default_rng(1)
    for _ in range(EPOCHS):
        rows = order.permutation(train).reshape(-1, BATCH)
        params, opt_state = train_epoch(params, opt_state, rows)
    return jnp.mean(jnp.argmax(apply(params, images[test]), axis=1) == labels[test])


for name, method in {
    "SAM": ksam_jax.sam(rho=0.5),
    "K-SAM, k = 1/4": ksam_jax.k_sam(rho=0.1, k=0.25, mean_over="chosen"),
    "K-SAM, k = 1/4, below the highest 1/4": ksam_jax.k_sam(
        rho=0.1, k=0.25, skip=0.25, mean_over="chosen"
    ),
}.items():
    print(f"{name}: test accuracy {trained(method):.3f}")
