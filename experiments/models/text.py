"""A small transformer that classifies texts, to be trained from scratch."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.data.tokens import PAD, Tokens
from experiments.models.encoder import Encoder, dropped


class TextTransformer(nnx.Module):
    """Embedded tokens, an encoder, the mean over the tokens that there are, a linear head.

    Of two texts the second one's tokens have another number added, the same for all.
    """

    def __init__(
        self,
        length: int,
        vocabulary: int,
        classes: int,
        *,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          length: tokens of a text, filled up to that.
          vocabulary: number of different tokens.
          classes: number of outputs.
          width: numbers per token.
          depth: blocks.
          heads: of the attention.
          dropout: as of `Encoder`, and before the head.
          dtype: of the computation; the parameters are float32, and so is the head.
          rngs: random streams for the initial weights.
        """
        self.embedding = nnx.Embed(vocabulary, width, dtype=dtype, rngs=rngs)
        self.segments = nnx.Embed(2, width, dtype=dtype, rngs=rngs)
        self.encoder = Encoder(
            length, width, depth, heads, dropout=dropout, dtype=dtype, rngs=rngs
        )
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, tokens: Tokens, key: jax.Array | None = None) -> jax.Array:
        """Returns outputs (N, classes).

        Args:
          tokens: ids and segments (N, length).
          key: of dropout; None: as in use, nothing is dropped.
        """
        ids, segments = (part.astype(jnp.int32) for part in tokens)
        x = self.embedding(ids) + self.segments(segments)
        own, heads = (None, None) if key is None else jax.random.split(key)
        x = self.encoder(x, ids != PAD, own)
        return self.head(dropped(self.dropout, x, heads, 0).astype(jnp.float32))
