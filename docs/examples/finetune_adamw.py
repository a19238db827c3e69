"""Fine-tuning with AdamW and layer masks: only the last layer's weights are perturbed.

A network that knows the digits 0 to 4 learns all ten. The first layer is frozen: Optax's
`partition` gives it no updates. Of the others the climb perturbs the weights and not the
biases, which `mask` says; weight decay has a mask of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import ksam_jax

BATCH = 64

images, labels = load_digits(return_X_y=True)
images = np.asarray(images / 16, np.float32)
train, test = np.arange(1200), np.arange(1200, len(labels))


def loss_fn(params, batch):
    logits = apply(params, batch["image"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])


def apply(params, x):
    x = jax.nn.relu(x @ params["trunk"]["w"] + params["trunk"]["b"])
    return x @ params["head"]["w"] + params["head"]["b"]


def fit(tx, params, rows, epochs):
    """Trains on these examples and returns the parameters."""

    @jax.jit
    def train_step(params, opt_state, batch):
        updates, opt_state = tx.update((), opt_state, params, loss_fn=loss_fn, batch=batch)
        return optax.apply_updates(params, updates), opt_state

    opt_state, rng = tx.init(params), np.random.default_rng(0)
    for _ in range(epochs):
        for chosen in rng.permutation(rows)[: len(rows) // BATCH * BATCH].reshape(
            -1, BATCH
        ):
            batch = {"image": images[chosen], "label": labels[chosen]}
            params, opt_state = train_step(params, opt_state, batch)
    return params


def is_weight(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


key = jax.random.key(0)
trunk = {"w": jax.random.normal(key, (64, 128)) / 8, "b": jnp.zeros(128)}
params = {"trunk": trunk, "head": {"w": jnp.zeros((128, 10)), "b": jnp.zeros(10)}}
pretraining = optax.chain(ksam_jax.sam(rho=0.05), optax.adamw(1e-3))
params = fit(pretraining, params, train[labels[train] < 5], epochs=10)

perturbed = {"trunk": False, "head": {"w": True, "b": False}}
adamw = optax.adamw(3e-3, weight_decay=0.01, mask=is_weight)
descent = optax.partition(
    {"train": adamw, "freeze": optax.set_to_zero()}, {"trunk": "freeze", "head": "train"}
)
finetuning = optax.chain(ksam_jax.k_sam(rho=0.05, k=0.5, mask=perturbed), descent)
tuned = fit(finetuning, params, train, epochs=20)

assert all(map(np.array_equal, params["trunk"].values(), tuned["trunk"].values()))
hits = jnp.argmax(apply(tuned, images[test]), axis=1) == labels[test]
print(f"test accuracy {jnp.mean(hits):.3f}, with a trunk that knew five digits")
