"""Plain functions in Haiku's style: `init` and `apply`, F-SAM on the digits.

Nothing but a dictionary of arrays and two pure functions, as `hk.transform` gives them:
what is said here holds for Haiku as it is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import ksam_jax

EPOCHS, BATCH = 10, 128


def init(key):
    """Parameters, by layer."""
    hidden, out = jax.random.split(key)
    return {
        "hidden": {"w": jax.random.normal(hidden, (64, 128)) / 8, "b": jnp.zeros(128)},
        "out": {"w": jax.random.normal(out, (128, 10)) / 11, "b": jnp.zeros(10)},
    }


def apply(params, x):
    """Logits; of one image or of a batch."""
    x = jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return x @ params["out"]["w"] + params["out"]["b"]


def loss_fn(params, batch):
    """One loss per example: no mean."""
    logits = apply(params, batch["image"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])


images, labels = load_digits(return_X_y=True)
images = np.asarray(images / 16, np.float32)
train, test = np.arange(1200), np.arange(1200, len(labels))

tx = optax.chain(
    ksam_jax.f_sam(rho=0.1),
    optax.clip_by_global_norm(1.0),  # behind it: clips the descent gradient
    optax.sgd(optax.cosine_decay_schedule(0.2, 90), momentum=0.9),
)
params = init(jax.random.key(0))
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
hits = jnp.argmax(apply(params, images[test]), axis=1) == labels[test]
print(f"test accuracy {jnp.mean(hits):.3f}")
