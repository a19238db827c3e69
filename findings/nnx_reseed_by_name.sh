#!/usr/bin/env bash
# flax 0.12.8, jax 0.10.2, jaxlib 0.10.2, Python 3.11. Seen on 2026-11-29.
#
# One would guess: nnx.reseed(model, dropout=key) gives the model's layers of dropout another
# key, as model.apply(..., rngs={"dropout": key}) does in Linen; or it says that there is no
# such stream.
#
# What happens: it goes by the tag of the stream, and a layer of nnx.Dropout whose model was
# built with nnx.Rngs(0), as most are, has one that is tagged "default". Then nothing is
# changed and nothing is said, and a run that means to draw anew draws the same masks. Only
# nnx.reseed(model, default=key) reaches it, and that in turn does nothing, as silently, where
# the model was built with a stream named dropout.
#
# Seen:
#   nnx.Rngs(0): tag default, changed by dropout=: False, by default=: True
#   nnx.Rngs(0, dropout=1): tag dropout, changed by dropout=: True, by default=: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    flax==0.12.8 jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import flax
import jax
from flax import nnx

print("flax", flax.__version__, "jax", jax.__version__)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def key_of(model):
    return jax.random.key_data(model.dropout.rngs.key[...]).tolist()


def is_changed(rngs, **streams):
    model = Net(rngs)
    before = key_of(model)
    nnx.reseed(model, **streams)
    return key_of(model) != before


key = jax.random.key(7)
cases = {"nnx.Rngs(0)": lambda: nnx.Rngs(0), "nnx.Rngs(0, dropout=1)": lambda: nnx.Rngs(0, dropout=1)}
seen = {}
for name, make in cases.items():
    tag = Net(make()).dropout.rngs.tag
    seen[name] = tag, is_changed(make(), dropout=key), is_changed(make(), default=key)
    print(f"{name}: tag {tag}, changed by dropout=: {seen[name][1]}, by default=: {seen[name][2]}")
assert seen["nnx.Rngs(0)"] == ("default", False, True), "reseed finds dropout by its name now"
assert seen["nnx.Rngs(0, dropout=1)"] == ("dropout", True, False), "default reaches all now"
PY
