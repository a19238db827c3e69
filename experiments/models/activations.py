"""What is between a block's two linear layers, as checkpoints name it."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution's share below it (Hendrycks & Gimpel, 2016).

    As `jax.nn.gelu`, but for the derivative, which JAX 0.12 can't trace inside
    `jax.shard_map`: that of `erf`.
    """
    return jax.nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    below = 0.5 * jax.lax.erfc(-x * math.sqrt(0.5))
    density = jnp.exp(-0.5 * jnp.square(x)) * math.sqrt(0.5 / math.pi)
    return gelu(x), dx * (below + x * density)


# By the names that checkpoints give them.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
