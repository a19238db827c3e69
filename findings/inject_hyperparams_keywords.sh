#!/usr/bin/env bash
# optax 0.2.8, jax 0.10.2, Python 3.11 to 3.13, and jax 0.12.0.1 on Python 3.12; seen on
# 2026-11-28.
#
# One would guess: optax.inject_hyperparams(factory)(rate=0.1, size=4) calls a factory
# `factory(rate, **options)` with size=4, as it was written.
#
# What happens: what a factory takes as **options is bound by inspect.signature under the
# name of that parameter, so the factory is called with options={"size": 4}: a keyword of
# the name "options", with the dictionary as its value. A factory that looks up
# options["size"] fails, and one that uses options.get("size", default) goes on with the
# default, without a word. (A named parameter `size` gets an array in place of the 4.)
#
# Seen:
#   optax 0.2.8 jax 0.10.2
#   rate=0.1 options={'options': {'size': 4}}
#   a named size arrives as an array
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2
"$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import optax

print("optax", optax.__version__, "jax", jax.__version__)
seen = []


def by_keywords(rate, **options):
    seen.append((float(rate), options))
    return optax.scale(rate)


def by_name(rate, size=1):
    seen.append(size)
    return optax.scale(rate)


optax.inject_hyperparams(by_keywords)(rate=0.1, size=4).init(jnp.zeros(2))
rate, options = seen.pop()
print(f"rate={rate:.1f} options={options}")
assert options == {"options": {"size": 4}}, "it passes keywords on as they were given"

optax.inject_hyperparams(by_name)(rate=0.1, size=4).init(jnp.zeros(2))
assert isinstance(seen.pop(), jax.Array), "it passes an integer on as it was given"
print("a named size arrives as an array")
PY
