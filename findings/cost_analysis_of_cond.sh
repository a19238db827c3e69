#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, Python 3.11, CPU; the same with jax 0.12.0.1 on Python 3.12.
# Seen on 2026-11-28.
#
# One would guess: compiled.cost_analysis()["flops"] is what a run costs; of jax.lax.cond,
# where that isn't known, the branches' sum or mean; of a scan of 5 steps 5 times one step.
#
# What happens: of a cond it is the dearest branch, whichever runs and however seldom, and of
# a loop it is one pass, however long. So a scan in which every fifth step does three
# products and the others one (7 in 5 steps) counts 3, as does a scan that does three in
# every step: what it saves to do the dear part seldom can't be read off it.
#
# Seen (products of two 128x128 matrices, counted and executed in a run from t = 1):
#   one: 1.0 1
#   scan of 5 of one: 1.0 5
#   three: 3.0 3
#   scan of 5 of three: 3.0 15
#   three_in_every_fifth: 3.0 1
#   scan of 5 of three_in_every_fifth: 3.0 7
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
from jax import lax

print("jax", jax.__version__)
N, STEPS = 128, 5
x = jnp.eye(N)
executed = []


def product(x):
    jax.debug.callback(lambda: executed.append(1))
    return x @ x


def one(t, x):
    return product(x)


def three(t, x):
    return product(product(product(x)))


def three_in_every_fifth(t, x):
    return lax.cond(t % STEPS == 0, three, one, t, x)


def scan(step):
    return lambda t, x: lax.scan(lambda x, t: (step(t, x), None), x, t + jnp.arange(STEPS))


def count(f):
    compiled = jax.jit(f).lower(1, x).compile()
    executed.clear()
    jax.block_until_ready(compiled(1, x))
    jax.effects_barrier()
    return round(compiled.cost_analysis()["flops"] / (2 * N**3), 2), len(executed)


expected = {one: (1.0, 1, 5), three: (3.0, 3, 15), three_in_every_fifth: (3.0, 1, 7)}
for f, (counted, executes, scan_executes) in expected.items():
    for name, g, runs in [("", f, executes), ("scan of 5 of ", scan(f), scan_executes)]:
        print(f"{name}{f.__name__}:", *(seen := count(g)))
        assert seen == (counted, runs), f"it was {counted} {runs}"
PY
