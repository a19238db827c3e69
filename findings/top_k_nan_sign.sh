#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2, Python 3.11, x86-64; the same with jax 0.12.0.1 on Python 3.12.
# Seen on 2026-11-28.
#
# One would guess: jax.lax.top_k has one place for NaN, as jnp.sort, jnp.argsort and
# np.sort have (the end, for either sign), and of equal numbers the lower index comes first.
#
# What happens: it goes by the sign bit, of NaN and of zero. A NaN that x86-64 computes
# (inf - inf, 0 / 0, log(-1)) has the bit set and ranks below -inf; jnp.nan and what is
# computed from it has it clear and ranks above inf, until a minus sign turns it round. Both
# print as nan. So among the k highest losses an example of NaN comes first or never,
# depending on how its NaN came about. And 0.0 ranks above -0.0, though the two are equal.
#
# Seen:
#   losses: nan 2.0 -inf nan inf sign bit of NaN: index 0 set, index 3 clear
#   top_k: [3, 4, 1, 2, 0]
#   argsort, descending: [0, 3, 4, 1, 2]
#   top_k of -0.0 0.0 -0.0 0.0: [1, 3, 0, 2]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp

print("jax", jax.__version__)


@jax.jit
def losses(x):
    """Of logits that overflowed, of ordinary ones, and of a NaN that was handed in."""
    return jnp.stack([x - x, jnp.float32(2), -x, jnp.float32(jnp.nan), x])


values = losses(jnp.float32(jnp.inf))
signs = jnp.signbit(values).tolist()
assert jnp.isnan(values[jnp.array([0, 3])]).all()
assert (signs[0], signs[3]) == (True, False), "NaN is computed with another sign here"
print("losses:", *values, "sign bit of NaN: index 0 set, index 3 clear")
top_k = jax.lax.top_k(values, 5)[1].tolist()
print("top_k:", top_k)
assert top_k == [3, 4, 1, 2, 0], "top_k no longer goes by the sign of NaN"
by_argsort = jnp.argsort(values, descending=True).tolist()
print("argsort, descending:", by_argsort)
assert by_argsort == [0, 3, 4, 1, 2], "argsort no longer has one place for NaN"

zeros = jnp.array([-0.0, 0.0, -0.0, 0.0])
ties = jax.lax.top_k(zeros, 4)[1].tolist()
print("top_k of -0.0 0.0 -0.0 0.0:", ties)
assert ties == [1, 3, 0, 2], "top_k takes 0.0 and -0.0 as equal"
PY
