#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, Python 3.11, CPU; the same with jax 0.12.0.1 on Python 3.12.
# Seen on 2026-11-28.
#
# One would guess: jax.shard_map(..., check_vma=True), which is the default, checks that
# out_specs are right, and a step that is moved from jax.pmap into it gives what it gave.
#
# What happens: it also changes gradients. With respect to what is the same on all devices
# jax.grad is summed over the devices, so that the familiar pmean of each device's gradient
# is n times too large on n devices, and no check objects (pmean of what doesn't vary is
# allowed). The other idiom, the gradient of a loss that went through pmean, is right then,
# and without check_vma each device's own gradient, as in pmap. Right under both is the
# first, with respect to weights that were cast: lax.pcast(w, "d", to="varying").
#
# Seen (4 devices, the gradient over the whole batch is 3.5; by shard_map, by shard_map with
# check_vma=False, by pmap; where devices differ, the first):
#   mean_of_gradients: 14.0 3.5 3.5
#   gradient_of_mean: 3.5 0.5 0.5
#   mean_of_gradients_cast: 3.5 3.5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4 "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

print("jax", jax.__version__)
mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
w, x = jnp.float32(2), jnp.arange(8.0)


def mean_of_gradients(w, x):
    return lax.pmean(jax.grad(lambda w: jnp.mean(w * x))(w), "d")


def gradient_of_mean(w, x):
    return jax.grad(lambda w: lax.pmean(jnp.mean(w * x), "d"))(w)


def mean_of_gradients_cast(w, x):
    return mean_of_gradients(lax.pcast(w, "d", to="varying"), x)


def on_mesh(f, **options):
    specs = {"mesh": mesh, "in_specs": (P(), P("d")), "out_specs": P()}
    return float(jax.jit(jax.shard_map(f, **specs, **options))(w, x))


def mapped(f):
    return float(jax.pmap(f, axis_name="d", in_axes=(None, 0))(w, x.reshape(4, 2))[0])


expected = {
    mean_of_gradients: [14.0, 3.5, 3.5],
    gradient_of_mean: [3.5, 0.5, 0.5],
    mean_of_gradients_cast: [3.5, 3.5],
}
for f, values in expected.items():
    seen = [on_mesh(f), on_mesh(f, check_vma=False)]
    seen += [mapped(f)] if len(values) == 3 else []
    print(f"{f.__name__}:", *seen)
    assert seen == values, f"it was {values}"
PY
