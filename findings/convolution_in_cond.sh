#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, Python 3.11, CPU. Seen on 2026-11-28.
#
# One would guess: a function costs in a branch of jax.lax.cond what it costs outside.
#
# What happens: on CPU the forward pass of a convolution does, and its gradients don't: that
# of the weights takes some seventy times as long in a branch, that of the inputs ten. They
# come with other orders of axes (f01b_i01o->01bf), which XLA turns into the one that its
# fast kernel takes only where the convolution stands in the entry computation, in no branch
# and no loop (jax-ml/jax issue 12868 is about loops). With jnp.transpose written around the
# same convolution a branch is as fast as the rest.
#
# Seen (64 images of 32x32x16, 3x3 kernel to 16 channels, one core; time in a branch against
# outside, medians of 5; the ratios vary with the processor):
#   forward: 1.0
#   gradient of the weights: 75
#   the same, transposed by hand: 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import re
import statistics
import time

import jax
import jax.numpy as jnp
from jax import lax

print("jax", jax.__version__)
ORDER = ("NHWC", "HWIO", "NHWC")
image = jax.random.normal(jax.random.key(0), (64, 32, 32, 16))
kernel = jax.random.normal(jax.random.key(1), (3, 3, 16, 16))


def forward(kernel, image):
    return lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=ORDER)


def of_weights(kernel, image):
    _, pull_back = jax.vjp(lambda k: forward(k, image), kernel)
    return pull_back(image)[0]


def by_hand(kernel, image):
    left, right = jnp.transpose(image, (3, 1, 2, 0)), jnp.transpose(image, (1, 2, 0, 3))
    padding = [(1, 1), (1, 1)]
    found = lax.conv_general_dilated(left, right, (1, 1), padding, dimension_numbers=ORDER)
    return jnp.transpose(found, (1, 2, 0, 3))


def seconds(program, *args):
    jax.block_until_ready(program(*args))
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(program(*args))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def slower(function):
    outside = jax.jit(function)
    inside = jax.jit(
        lambda turn, *x: lax.cond(turn, lambda: function(*x), lambda: 2 * function(*x))
    )
    compiled = inside.lower(True, kernel, image).compile().as_text()
    orders = set(re.findall(r"dim_labels=(\S+?)[,\s]", compiled))
    ratio = seconds(inside, True, kernel, image) / seconds(outside, kernel, image)
    return ratio, orders


assert jnp.allclose(of_weights(kernel, image), by_hand(kernel, image), rtol=1e-3, atol=1e-2)
results = {f: slower(f) for f in (forward, of_weights, by_hand)}
for f, (ratio, orders) in results.items():
    print(f"{f.__name__}: {ratio:.1f} {orders}")
assert results[of_weights][0] > 10, "a gradient is no longer slower in a branch"
assert results[of_weights][1] == {"f01b_i01o->01bf"}
for f in (forward, by_hand):
    assert results[f][0] < 4
    assert results[f][1] == {"b01f_01io->b01f"}
PY
