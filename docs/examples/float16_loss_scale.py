"""float16 with a dynamic loss scale: what the model computes in, not what it is stored in.

The master weights are float32, the forward and backward passes float16. Both passes are
scaled and unscaled inside of the step, so the radius means what it says; a step in which a
gradient overflowed is skipped whole, and the scale halves.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import ksam_jax

EPOCHS, BATCH = 10, 128


def apply(params, x):
    half = jax.tree.map(lambda p: p.astype(jnp.float16), params)
    x = jax.nn.relu(x.astype(jnp.float16) @ half["hidden"])
    return (x @ half["out"]).astype(jnp.float32)


def loss_fn(params, batch):
    logits = apply(params, batch["image"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])


images, labels = load_digits(return_X_y=True)
images = np.asarray(images / 16, np.float32)
train, test = np.arange(1200), np.arange(1200, len(labels))

keys = jax.random.split(jax.random.key(0))
params = {
    "hidden": jax.random.normal(keys[0], (64, 128)) / 8,
    "out": jax.random.normal(keys[1], (128, 10)) / 11,
}
tx = ksam_jax.dynamic_loss_scale(
    optax.chain(ksam_jax.k_sam(rho=0.05, k=0.5), optax.sgd(0.1, momentum=0.9)),
    initial=2.0**24,  # too large, so that the first steps show what happens
)
opt_state = tx.init(params)


@jax.jit
def train_step(params, opt_state, batch):
    updates, opt_state = tx.update((), opt_state, params, loss_fn=loss_fn, batch=batch)
    return optax.apply_updates(params, updates), opt_state


rng = np.random.default_rng(0)
for _ in range(EPOCHS):
    for rows in rng.permutation(train)[: len(train) // BATCH * BATCH].reshape(-1, BATCH):
        batch = {"image": images[rows], "label": labels[rows]}
        params, opt_state = train_step(params, opt_state, batch)
assert isinstance(opt_state, ksam_jax.LossScaleState)
hits = jnp.argmax(apply(params, images[test]), axis=1) == labels[test]
print(f"scale {opt_state.scale:g}, test accuracy {jnp.mean(hits):.3f}")
