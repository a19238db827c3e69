#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, Python 3.11, CPU; the same with jax 0.12.0.1 on Python 3.12. Seen on
# 2026-11-29.
#
# One would guess: cost_analysis() of a compiled function counts the operations that it
# carries out, so that splitting its result into parts for different uses adds nothing but
# the uses.
#
# What happens: XLA puts the arithmetic into the program of each part, behind which it takes
# the part's slice, and runs it for that slice alone. The analysis counts it for the whole
# array in each: both "flops" and "bytes accessed" grow with the number of parts, where the
# time stays. So a count against another count is wrong as soon as one of the two
# functions splits a long chain of elementwise arithmetic: flat parameters cut into leaves,
# random bits for many arrays, heads of attention.
#
# Seen (a million numbers, ten multiplications and additions each, then one operation each):
#   parts   flops per number   bytes per number   time, one part = 1
#       1                 21                  8                    1
#       4                 81                 20       .5 to 1.3 (three runs)
#      64               1281                260       .6 to 1.6
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import statistics
import time

import jax
import jax.numpy as jnp

print("jax", jax.__version__)
N = 2**20
x = jnp.ones(N)


def split(x, parts):
    y = x
    for _ in range(10):
        y = y * 1.5 + x
    # Not all alike, or XLA would make one program of them again.
    return [p + 1.0 if i % 2 else p * 2.0 for i, p in enumerate(jnp.split(y, parts))]


def measured(parts):
    compiled = jax.jit(lambda x: split(x, parts)).lower(x).compile()
    jax.block_until_ready(compiled(x))
    taken = []
    for _ in range(15):
        began = time.perf_counter()
        jax.block_until_ready(compiled(x))
        taken.append(time.perf_counter() - began)
    cost = compiled.cost_analysis()
    return cost["flops"] / N, cost["bytes accessed"] / N, statistics.median(taken)


found = {parts: measured(parts) for parts in (1, 4, 64)}
for parts, (flops, moved, seconds) in found.items():
    print(f"{parts}: {flops:.0f} flops, {moved:.0f} bytes, {seconds / found[1][2]:.1f}")
assert found[1][:2] == (21.0, 8.0)
assert found[4][0] > 3 * found[1][0] and found[64][0] > 50 * found[1][0]
assert found[64][1] > 30 * found[1][1]
assert found[64][2] < 5 * found[1][2], "the work itself grows, too"
PY
