#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, Python 3.11, CPU. Seen on 2026-11-28.
#
# One would guess: scaling numbers before they are squared keeps the squares within range, and
# the norm of zeros is zero, in jit as outside.
#
# What happens: in jit XLA turns (c * s)**2, where c is an array that is known when it compiles,
# such as jnp.zeros, and s a number that isn't, into c**2 * s**2. The square of the scale alone
# is infinite in float32 (or zero), and so the sum is NaN: of zeros, of 1e-25 and of 1e25.
# Optimizer states made inside the jitted function, and gradients of what a mask leaves out, are
# such zeros. With jax 0.12.0.1 it doesn't happen.
#
# Seen (float32, scale 2**70 for the first two, 2**-80 for the third):
#   zeros: 0.0 outside of jit, nan inside; 1e-25: 5.6e-08, nan; 1e+25: 273.7, nan
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import math

import jax
import jax.numpy as jnp

print("jax", jax.__version__)
for constant, exponent in ((0.0, 70), (1e-25, 70), (1e25, -80)):

    def sum_of_squares(scale, constant=constant):
        return jnp.sum(jnp.square(jnp.full(4, constant) * scale))

    scale = jnp.float32(2.0**exponent)
    outside, inside = float(sum_of_squares(scale)), float(jax.jit(sum_of_squares)(scale))
    print(f"{constant:g} times 2**{exponent}: {outside:g} outside of jit, {inside:g} inside")
    expected = 4 * (constant * 2.0**exponent) ** 2
    assert math.isclose(outside, expected, rel_tol=1e-5)
    assert math.isnan(inside), "the scale isn't squared by itself any more"
PY
