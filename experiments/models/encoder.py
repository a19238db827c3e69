"""The transformer's encoder, which the vision and the text model share."""

import jax
from flax import nnx
from jax.typing import DTypeLike


class Encoder(nnx.Module):
    """Learnt positions, pre-norm blocks, a last LayerNorm, and the mean over the tokens.

    Each block is x + attention(norm(x)), then x + mlp(norm(x)) with GELU and a hidden
    layer of four times the width (Vaswani et al., 2017; pre-norm as in Dosovitskiy et
    al., 2021).
    """

    def __init__(
        self,
        length: int,
        width: int,
        depth: int,
        heads: int,
        *,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          length: tokens of a sequence.
          width: numbers per token; a multiple of `heads`.
          depth: blocks.
          heads: of the attention.
          dtype: of the computation; the parameters are float32.
          rngs: random streams for the initial weights.
        """
        positions = nnx.initializers.normal(0.02)(rngs.params(), (length, width))
        self.positions = nnx.Param(positions)
        self.blocks = nnx.List(
            [Block(width, heads, dtype=dtype, rngs=rngs) for _ in range(depth)]
        )
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns (N, width) for embedded tokens (N, length, width)."""
        x = tokens + self.positions[...].astype(tokens.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).mean(axis=1)


class Block(nnx.Module):
    """Pre-norm self-attention and a perceptron of one hidden layer."""

    def __init__(self, width: int, heads: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, width, dtype=dtype, decode=False, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (N, length, width) for x of the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x))))
