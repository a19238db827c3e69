#!/usr/bin/env bash
# flax 0.12.8, jax 0.10.2, jaxlib 0.10.2, Python 3.11. Seen on 2026-11-29.
#
# One would guess: with axis_name, nnx.BatchNorm has the statistics of the whole batch, however
# it is spread, since that is what the axis is for; with mask= those of the examples that count.
#
# What happens: each device takes the mean over its own examples that count, and these means
# are averaged alike, whether a device has one such example or many. So padding that is not the
# same on each device, as in the last batch of an epoch, changes the statistics, and they depend
# on how the batch was laid out.
#
# Seen, of 1, 2, 3 and a padded 100, on one device and on two of two examples each:
#   together: mean 2.0000, variance 0.6667
#   on two devices: mean 2.2500, variance 0.6875
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import flax
import jax
import jax.numpy as jnp
from flax import nnx

print("flax", flax.__version__, "jax", jax.__version__)


def statistics(x, mask, axis_name=None):
    # Momentum 0: the running statistics are those of this batch.
    norm = nnx.BatchNorm(1, momentum=0.0, axis_name=axis_name, rngs=nnx.Rngs(0))
    norm(x, mask=mask)
    return norm.mean[...][0], norm.var[...][0]


x = jnp.array([[1.0], [2.0], [3.0], [100.0]])
mask = jnp.array([[True], [True], [True], [False]])
together = [float(value) for value in statistics(x, mask)]


def of_device(x, mask):
    return statistics(x, mask, "data")


spread = jax.vmap(of_device, axis_name="data")(x.reshape(2, 2, 1), mask.reshape(2, 2, 1))
apart = [float(value[0]) for value in spread]
print("together: mean {:.4f}, variance {:.4f}".format(*together))
print("on two devices: mean {:.4f}, variance {:.4f}".format(*apart))
assert abs(together[0] - 2.0) < 1e-5 and abs(together[1] - 2 / 3) < 1e-5
# The mean of 1.5 and 3, and that of the squares less its square.
assert abs(apart[0] - 2.25) < 1e-5 and abs(apart[1] - 0.6875) < 1e-5, "devices are weighted now"
PY
