#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, Python 3.11, CPU; the same with jax 0.12.0.1 on Python 3.12. Seen on
# 2026-11-29.
#
# One would guess: a training step whose weights are donated writes the new ones where the
# old ones were, also when it returns a number that is measured at the old ones, such as the
# length of a difference from them: that can be measured first.
#
# What happens: nothing in the program says that it comes first. XLA for CPUs copies all
# donated weights at the beginning of the step, measures and updates with the copy, and
# writes the result where the weights were: a set of weights more of memory and two more
# moved, in every step, without a warning (the donation "works"). Where the update depends on
# the number, be it through a branch that is never taken, there is no copy. A step that
# isn't donated has none either.
#
# Seen (weights 1024 x 512; temporary memory and bytes moved in sets of weights):
#   donated: copies 1, temporary 2.00, moved 9.5
#   donated, update waits for the number: copies 0, temporary 1.06, moved 7.5
#   not donated: copies 0, temporary 1.00, moved 7.5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp

print("jax", jax.__version__)
W = jax.ShapeDtypeStruct((1024, 512), jnp.float32)
X = jax.ShapeDtypeStruct((64, 1024), jnp.float32)
SIZE = 4 * 1024 * 512


def step(w, x, waits):
    gradient = x.T @ jnp.tanh(x @ w)
    number = jnp.sum((w - gradient) ** 2)
    if waits:
        # Never so, but XLA doesn't know.
        gradient = jnp.where(number < 0, 0.0, gradient)
    return w - 0.1 * gradient, number


def measured(name, waits, donated):
    jitted = jax.jit(lambda w, x: step(w, x, waits), donate_argnums=donated)
    compiled = jitted.lower(W, X).compile()
    lines = compiled.as_text().splitlines()
    copies = sum(" copy(" in line and "f32[1024,512]" in line for line in lines)
    temporary = compiled.memory_analysis().temp_size_in_bytes / SIZE
    moved = compiled.cost_analysis()["bytes accessed"] / SIZE
    print(f"{name}: copies {copies}, temporary {temporary:.2f}, moved {moved:.1f}")
    return copies, temporary, moved


plain = measured("donated", False, 0)
waiting = measured("donated, update waits for the number", True, 0)
kept = measured("not donated", False, ())
assert plain[0] == 1 and waiting[0] == kept[0] == 0
assert plain[1] > waiting[1] + 0.9
assert plain[2] > waiting[2] + 1.9
PY
