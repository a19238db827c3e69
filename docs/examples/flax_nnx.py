"""Flax NNX with BatchNorm and dropout: K-SAM on the digits, the whole script.

Weights, statistics and dropout's random numbers each go where they belong: the weights are
what is perturbed, BatchNorm's statistics come from the clean pass as aux, and every example
carries its own dropout key, so that it drops the same units in both passes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import ksam_jax

EPOCHS, BATCH = 10, 128


class Net(nnx.Module):
    """Two layers; the rate of dropout is applied by hand, with the examples' keys."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.norm = nnx.BatchNorm(128, rngs=rngs)
        self.out = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x, keys=None):
        x = nnx.relu(self.norm(self.hidden(x)))
        if keys is not None:
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.9, x.shape[1:]))(keys)
            x = jnp.where(kept, x / 0.9, 0.0)
        return self.out(x)


images, labels = load_digits(return_X_y=True)
images = np.asarray(images / 16, np.float32)
train, test = np.arange(1200), np.arange(1200, len(labels))

graphdef, weights, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
tx = optax.chain(
    ksam_jax.k_sam(rho=0.05, k=0.5),
    optax.add_decayed_weights(5e-4),
    optax.sgd(0.1, momentum=0.9),
)


@jax.jit
def train_step(weights, rest, opt_state, batch):
    def loss_fn(weights, batch):
        model = nnx.merge(graphdef, weights, rest, copy=True)  # a copy for each pass
        logits = model(batch["image"], batch["key"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses, nnx.state(model, nnx.BatchStat)

    updates, opt_state = tx.update(
        (), opt_state, weights, loss_fn=loss_fn, batch=batch, has_aux=True
    )
    statistics, opt_state = ksam_jax.take_aux(opt_state)  # in every step
    rest = nnx.merge_state(rest, statistics)
    return optax.apply_updates(weights, updates), rest, opt_state


@jax.jit
def accuracy(weights, rest, images, labels):
    model = nnx.merge(graphdef, weights, rest, copy=True)
    model.eval()
    return jnp.mean(jnp.argmax(model(images), axis=1) == labels)


opt_state, rng = tx.init(weights), np.random.default_rng(0)
for _ in range(EPOCHS):
    for rows in rng.permutation(train)[: len(train) // BATCH * BATCH].reshape(-1, BATCH):
        keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), BATCH)
        batch = {"image": images[rows], "label": labels[rows], "key": keys}
        weights, rest, opt_state = train_step(weights, rest, opt_state, batch)
print(f"test accuracy {accuracy(weights, rest, images[test], labels[test]):.3f}")
