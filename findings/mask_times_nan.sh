#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, Python 3.11, CPU; the same with jax 0.12.0.1 on Python 3.12.
# Seen on 2026-11-28.
#
# One would guess: 0 * nan is nan, in jax.jit too, so a mask that is multiplied keeps no NaN
# out (jnp.where does), and a test of the jitted function shows it.
#
# What happens: where a factor was made of booleans in the same program, XLA turns the
# product into a selection, and 0 * nan, 0 * inf and 0 / 0 become 0, in the gradient too.
# Handed in as numbers the same mask gives NaN, and so does the function without jit. So a
# masked loss passes its test for NaN if the mask is made of booleans inside jit, and fails
# where it comes with the batch as numbers; and the weights mask / sum(mask) of a mask of
# which nothing is true are 0, and nobody is told.
#
# Seen (sum of mask * sqrt(x), mask = [1, 0], x = [4, -1], its gradient; weights of [0, 0]):
#   jit, mask of booleans: 2.0 [0.25, 0.0] [0.0, 0.0]
#   jit, mask of numbers:  nan [0.25, nan] [nan, nan]
#   no jit:                nan [0.25, nan] [nan, nan]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp

print("jax", jax.__version__)
x, mask, nothing = jnp.array([4.0, -1.0]), jnp.array([1, 0]), jnp.array([0, 0])


def total(mask, x):
    return jnp.sum(mask.astype(x.dtype) * jnp.sqrt(x))


def weights(mask, x):
    ones = mask.astype(x.dtype)
    return ones / jnp.sum(ones)


def found(transform, dtype):
    functions = total, jax.grad(total, argnums=1), weights
    masks = mask, mask, nothing
    pairs = zip(functions, masks, strict=True)
    return " ".join(str(transform(f)(m.astype(dtype), x).tolist()) for f, m in pairs)


ways = {
    "jit, mask of booleans:": (found(jax.jit, bool), "2.0 [0.25, 0.0] [0.0, 0.0]"),
    "jit, mask of numbers: ": (found(jax.jit, float), "nan [0.25, nan] [nan, nan]"),
    "no jit:               ": (found(lambda f: f, bool), "nan [0.25, nan] [nan, nan]"),
}
for way, (seen, expected) in ways.items():
    print(way, seen)
    assert seen == expected, f"it was {expected}"
PY
