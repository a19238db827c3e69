"""Losses that take statistics of the batch, and networks that may."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_kinds_layers import (
    BATCH,
    CLASSES,
    K_SAM,
    OTHERS,
    SUMS,
    W,
    _nothing_fails_in_silence,
    cross_entropy,
    embedded,
    plain,
    told,
)

import ksam_jax

__all__ = ["_nothing_fails_in_silence"]  # For pytest, around each test here.


def gates(w, batch):
    return jax.nn.softmax(batch["x"] @ w)


def mean_entropy(w, batch):
    shares = gates(w, batch).mean(0)
    return plain(w, batch) + jnp.sum(shares * jnp.log(shares))


def balance_of_experts(w, batch):
    sent = jax.nn.one_hot(jnp.argmax(gates(w, batch), axis=1), 4).mean(0)
    return plain(w, batch) + 4 * jnp.sum(sent * gates(w, batch).mean(0))


def balance_as_a_product(w, batch):
    sent = jax.nn.one_hot(jnp.argmax(gates(w, batch), axis=1), 4).mean(0)
    return plain(w, batch) + 4 * sent @ gates(w, batch).mean(0)


def mmd_of_halves(w, batch):
    a, _ = embedded(w, batch)
    half = len(a) // 2
    return plain(w, batch) + jnp.sum((a[:half].mean(0) - a[half:].mean(0)) ** 2)


def coral(w, batch):
    a, b = ((z - z.mean(0)).T @ (z - z.mean(0)) / len(z) for z in embedded(w, batch))
    return plain(w, batch) + jnp.sum((a - b) ** 2)


def spread_of_features(w, batch):
    """The variance's term of VICReg."""
    a, _ = embedded(w, batch)
    return plain(w, batch) + jnp.mean(jax.nn.relu(1 - jnp.sqrt(a.var(0) + 1e-4)))


def kl_robust(w, batch):
    losses = plain(w, batch)
    return jnp.full(len(losses), 0.5 * jax.nn.logsumexp(losses / 0.5))


def by_the_largest(w, batch):
    losses = plain(w, batch)
    return losses / losses.max()


def by_their_range(w, batch):
    losses = plain(w, batch)
    return (losses - losses.min()) / (losses.max() - losses.min() + 1e-6)


def the_worst(w, batch):
    losses = plain(w, batch)
    return jnp.full(len(losses), losses.max())


def swav(w, batch):
    """Sinkhorn's rounds without the division by the sum of all."""
    a, b = embedded(w, batch)
    shares = jnp.exp(a / 0.5)
    for _ in range(3):
        shares = shares / shares.sum(0, keepdims=True)
        shares = shares / shares.sum(1, keepdims=True)
    return -jnp.sum(jax.lax.stop_gradient(shares) * jax.nn.log_softmax(b), axis=1)


def softmax_over_rows(w, batch):
    a, b = embedded(w, batch)
    return -jnp.sum(jax.nn.softmax(a, axis=0) * jax.nn.log_softmax(b), axis=1)


def by_count_of_class(w, batch):
    counts = jax.nn.one_hot(batch["y"], CLASSES).sum(0)
    return plain(w, batch) / counts[batch["y"]]


def prototypes(w, batch):
    (a, _), mine = embedded(w, batch), jax.nn.one_hot(batch["y"], CLASSES)
    return cross_entropy(a @ (mine.T @ a / (mine.sum(0)[:, None] + 1)).T, batch["y"])


def first_as_anchor(w, batch):
    a, _ = embedded(w, batch)
    return jnp.sum((a - a[0]) ** 2, axis=1)


def like_the_first(w, batch):
    a, _ = embedded(w, batch)
    return -a @ a[0]


COUPLED = {
    **dict.fromkeys(
        (
            mean_entropy, balance_of_experts, balance_as_a_product, mmd_of_halves, coral,
            spread_of_features, kl_robust, by_the_largest, by_their_range, the_worst, swav,
            softmax_over_rows, by_count_of_class, prototypes,
        ),
        SUMS,
    ),
    first_as_anchor: OTHERS, like_the_first: OTHERS,
}  # fmt: skip
coupled = pytest.mark.parametrize("loss_fn", COUPLED, ids=lambda f: f.__name__)


@coupled
def test_statistics_of_the_batch_in_a_row_s_loss_are_told(loss_fn):
    (message,) = told(ksam_jax.k_sam(k=1), loss_fn)
    assert COUPLED[loss_fn] in message
    assert not told(ksam_jax.sam(), loss_fn)


@coupled
def test_and_it_is_true_that_rows_alone_have_other_losses(loss_fn):
    whole = loss_fn(W, BATCH)
    alone = [
        loss_fn(W, {name: leaf[i:][:2] for name, leaf in BATCH.items()}) for i in (0, 2)
    ]
    pairs = zip(alone, (whole[:2], whole[2:4]), strict=True)
    assert not all(np.allclose(a, b, rtol=1e-3) for a, b in pairs)


# What must not be told.


def standardized(z):
    return (z - z.mean(0)) * jax.lax.rsqrt(z.var(0) + 1e-5)


def nameless_batchnorm(w, batch):
    return cross_entropy(jnp.tanh(standardized(batch["x"] @ w)) @ w[:4], batch["y"])


def batchnorm_of_one_feature(w, batch):
    return jnp.squeeze(2.0 * standardized(batch["x"] @ w[:, :1]) + 1.0, axis=1) ** 2


def batchnorm_by_moduli(w, batch):
    z = batch["x"] @ w
    z = z - z.mean(0)
    return cross_entropy(z / (jnp.abs(z).mean(0) + 1e-5), batch["y"])


def batch_norm(z):
    return standardized(z), -0.5 * jnp.sum(jnp.log(z.var(0) + 1e-5))


def flow(w, batch):
    z, log_determinant = batch_norm(batch["x"] @ w)
    return 0.5 * jnp.sum(z**2, axis=1) - log_determinant


def rounded_to_eight_bits(w, batch):
    scale = jnp.max(jnp.abs(batch["x"])) / 127
    return cross_entropy((jnp.round(batch["x"] / scale) * scale) @ w, batch["y"])


def gradient_penalty(w, batch):
    def critic(x):
        return jnp.sum(jnp.tanh(x @ w), axis=1)

    slope = jax.grad(lambda x: jnp.mean(critic(x)))(batch["x"])
    return critic(batch["x"]) + (jnp.linalg.norm(slope, axis=1) - 1) ** 2


def in_a_loop_of_python(w, batch):
    a, _ = embedded(w, batch)
    return jnp.stack([jnp.sum(z**2) for z in a]) * batch["other"][:, 0]


def picked_one_by_one(w, batch):
    losses = plain(w, batch)
    return jnp.stack([losses[i] for i in range(len(losses))]) * batch["other"][:, 0]


def on_the_grid_of_the_first(w, batch):
    return jnp.sum((batch["x"] * batch["other"][0]) @ w, axis=1)


def up_to_the_longest(w, batch):
    is_there = jnp.arange(5) < jnp.max(batch["y"]) + 3
    return cross_entropy(jnp.where(is_there, batch["x"], 0.0) @ w, batch["y"])


def by_weights_of_classes(w, batch):
    return jnp.array([1.0, 2.0, 3.0])[batch["y"]] * plain(w, batch)


def smoothed(w, batch):
    labels = optax.smooth_labels(jax.nn.one_hot(batch["y"], 4), 0.1)
    return optax.softmax_cross_entropy(batch["x"] @ w, labels)


def if_the_mean_is_finite(w, batch):
    losses = plain(w, batch)
    return jnp.where(jnp.isfinite(jnp.mean(losses)), losses, 0.0)


def from_the_first_step(w, batch):
    """A recurrence, whose first axis is time's."""

    def cell(state, x):
        state = jnp.tanh(state + x[:, None] * w[0])
        return state, state

    start = jnp.zeros((len(batch["x"]), 4))
    _, states = jax.lax.scan(cell, start, batch["x"].T)
    return jnp.sum((states - states[0]) ** 2, axis=(0, 2))


def from_the_first_token(w, batch):
    z = batch["x"][..., None] * w
    table = jax.nn.softmax(jnp.einsum("ntd,nsd->nts", z, z))
    return jnp.mean(jnp.einsum("nts,nsd->ntd", table, z) - z[:, :1], axis=(1, 2))


def nearest_code(w, batch):
    a, _ = embedded(w, batch)
    nearest = jnp.argmin(jnp.sum((a[:, None] - w) ** 2, axis=-1), axis=1)
    return jnp.sum((a - w[nearest]) ** 2, axis=1)


QUIET = (
    nameless_batchnorm, batchnorm_of_one_feature, batchnorm_by_moduli, flow,
    rounded_to_eight_bits, gradient_penalty, in_a_loop_of_python, picked_one_by_one,
    on_the_grid_of_the_first, up_to_the_longest, by_weights_of_classes, smoothed,
    if_the_mean_is_finite, from_the_first_step, from_the_first_token, nearest_code,
)  # fmt: skip


@pytest.mark.parametrize("loss_fn", QUIET, ids=lambda f: f.__name__)
def test_ordinary_losses_and_batchnorm_are_not_told_of(loss_fn):
    assert not told(K_SAM(), loss_fn)
