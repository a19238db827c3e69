"""Losses that take statistics of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_kinds_layers import (
    BATCH,
    CLASSES,
    OTHERS,
    SUMS,
    W,
    cross_entropy,
    embedded,
    plain,
    told,
)
from test_kinds_layers import (
    _nothing_fails_in_silence as _nothing_fails_in_silence,
)

import ksam_jax


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
