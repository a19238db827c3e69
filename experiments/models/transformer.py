"""A transformer that classifies sequences of tokens."""

import jax
from flax import nnx
from jax.typing import DTypeLike

from experiments.models.encoder import Encoder


class Transformer(nnx.Module):
    """Embedded tokens, an encoder, the mean over the tokens, a linear head."""

    def __init__(
        self,
        length: int,
        classes: int,
        *,
        vocabulary: int = 8192,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          length: tokens of a sequence.
          classes: number of logits.
          vocabulary: number of different tokens.
          width: numbers per token.
          depth: blocks.
          heads: of the attention.
          dtype: of the computation; the parameters are float32, and so is the head.
          rngs: random streams for the initial weights.
        """
        self.embedding = nnx.Embed(vocabulary, width, dtype=dtype, rngs=rngs)
        self.encoder = Encoder(length, width, depth, heads, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns logits of shape (N, classes) for integer tokens (N, length)."""
        return self.head(self.encoder(self.embedding(tokens)))
