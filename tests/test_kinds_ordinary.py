"""Ordinary losses, and networks with BatchNorm: nothing is told of them."""

import jax
import jax.numpy as jnp
import optax
import pytest
from test_kinds_layers import (
    K_SAM,
    cross_entropy,
    embedded,
    plain,
    told,
)
from test_kinds_layers import (
    _nothing_fails_in_silence as _nothing_fails_in_silence,
)


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


def scale_and_shift(w, batch):
    """BatchNorm as two numbers for each feature."""
    z = batch["x"] @ w
    scale = w[0] / jnp.sqrt(z.var(0) + 1e-5)
    return cross_entropy(z * scale + (w[1] - z.mean(0) * scale), batch["y"])


def standardized_but_padding(w, batch):
    z, is_there = batch["x"][..., None] * w, (batch["other"] > 0)[..., None]
    z = z - z.mean((0, 1), where=is_there)
    z = z * jax.lax.rsqrt(jnp.square(z).mean((0, 1), where=is_there) + 1e-5)
    return jnp.sum(jnp.where(is_there, z**2, 0.0), axis=(1, 2))


def slots(w, batch):
    """Softmax over slots, whose shares of each example's tokens sum up to one."""
    z = batch["x"][..., None] * w
    shares = jax.nn.softmax(jnp.einsum("sd,ntd->nst", w[:3], z), axis=1)
    shares = shares / shares.sum(-1, keepdims=True)
    return jnp.sum(jnp.einsum("nst,ntd->nsd", shares, z) ** 2, axis=(1, 2))


def linear_attention(w, batch):
    z = batch["x"][..., None] * w
    keys = jnp.einsum("ntd,nte->nde", jax.nn.softmax(z, axis=1), z)
    return jnp.sum(jnp.einsum("ntd,nde->nte", jax.nn.softmax(z), keys) ** 2, axis=(1, 2))


def adapted_to_itself(w, batch):
    """MAML with one example in each task."""

    def of_one(x, y):
        def inner(w):
            return cross_entropy(x @ w, y)

        return inner(w - 0.1 * jax.grad(inner)(w))

    return jax.vmap(of_one)(batch["x"], batch["y"])


QUIET = (
    nameless_batchnorm, batchnorm_of_one_feature, batchnorm_by_moduli, flow,
    rounded_to_eight_bits, gradient_penalty, in_a_loop_of_python, picked_one_by_one,
    on_the_grid_of_the_first, up_to_the_longest, by_weights_of_classes, smoothed,
    if_the_mean_is_finite, from_the_first_step, from_the_first_token, nearest_code,
    scale_and_shift, standardized_but_padding, slots, linear_attention, adapted_to_itself,
)  # fmt: skip


@pytest.mark.parametrize("loss_fn", QUIET, ids=lambda f: f.__name__)
def test_ordinary_losses_and_batchnorm_are_not_told_of(loss_fn):
    assert not told(K_SAM(), loss_fn)


def codes_and_their_averages(w, batch):
    a, _ = embedded(w, batch)
    chosen = jax.nn.one_hot(jnp.argmin(jnp.sum((a[:, None] - w) ** 2, -1), axis=1), 5)
    sizes = chosen.sum(0)
    shares = sizes / len(a)
    perplexity = jnp.exp(-jnp.sum(shares * jnp.log(shares + 1e-9)))
    averages = chosen.T @ a / (sizes[:, None] + 1)
    return jnp.sum((a - chosen @ w) ** 2, axis=1), (averages, perplexity)


def test_statistics_that_are_handed_out_as_aux_are_in_no_row_s_loss():
    assert not told(K_SAM(), codes_and_their_averages, has_aux=True)
