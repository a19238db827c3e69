"""The transformer's encoder, which the vision and the text model share."""

from typing import Any

import jax
import jax.numpy as jnp
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
        dropout: float = 0.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          length: tokens of a sequence.
          width: numbers per token; a multiple of `heads`.
          depth: blocks.
          heads: of the attention.
          dropout: share of each block's two outputs, and of the embedded tokens, that is
            dropped in training.
          dtype: of the computation; the parameters are float32.
          rngs: random streams for the initial weights.
        """
        positions = nnx.initializers.normal(0.02)(rngs.params(), (length, width))
        self.positions = nnx.Param(positions)
        self.blocks = nnx.List(
            [
                Block(width, heads, dropout=dropout, dtype=dtype, rngs=rngs)
                for _ in range(depth)
            ]
        )
        self.dropout = nnx.Dropout(dropout)
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        tokens: jax.Array,
        present: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns (N, width).

        Args:
          tokens: embedded, (N, length, width).
          present: which of them there are, (N, length), at least one each; None: all.
          key: of dropout; None: nothing is dropped.
        """
        x = tokens + self.positions[...].astype(tokens.dtype)
        x = dropped(self.dropout, x, key, 0)
        mask = None if present is None else present[:, None, None, :]
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, mask, None if key is None else jax.random.fold_in(key, number))
        return _mean(self.norm(x), present)


class Block(nnx.Module):
    """Pre-norm self-attention and a perceptron of one hidden layer."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        dropout: float = 0.0,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        self.norm1 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        # JAX's attention has no float16 on CPU.
        own: dict[str, Any] = {"attention_fn": attention} if dtype == jnp.float16 else {}
        self.attention = nnx.MultiHeadAttention(
            heads, width, dtype=dtype, decode=False, rngs=rngs, **own
        )
        self.norm2 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns (N, length, width) for x of the same shape."""
        x = x + dropped(self.dropout, self.attention(self.norm1(x), mask=mask), key, 0)
        hidden = jax.nn.gelu(self.up(self.norm2(x)))
        return x + dropped(self.dropout, self.down(hidden), key, 1)


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    **others: Any,
) -> jax.Array:
    """Scaled dot products, with their softmax in float32, for `nnx.MultiHeadAttention`.

    Args:
      query, key, value: (N, length, heads, width of a head).
      mask: what may be looked at, (N, 1, 1, length); None: all.
      **others: what isn't used here: dropout of the weights, for one.
    """
    del others
    weights = attention_weights(query, key, mask).astype(value.dtype)
    return jnp.einsum("nhqk,nkhd->nqhd", weights, value)


def attention_weights(
    query: jax.Array, key: jax.Array, mask: jax.Array | None
) -> jax.Array:
    """How much of each value, (N, heads, length, length), in float32 or wider."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key, preferred_element_type=wide)
    scores = scores * query.shape[-1] ** -0.5
    if mask is not None:
        # Finite, since a row without any token would have a softmax of NaN.
        scores = jnp.where(mask, scores, jnp.finfo(wide).min)
    return jax.nn.softmax(scores)


def dropped(
    dropout: nnx.Dropout, x: jax.Array, key: jax.Array | None, place: int
) -> jax.Array:
    """What dropout leaves of x, another draw at every place; all of it without a key."""
    if key is None:
        return x
    return dropout(x, deterministic=False, rngs=jax.random.fold_in(key, place))


def _mean(x: jax.Array, present: jax.Array | None) -> jax.Array:
    """Over the tokens that there are."""
    if present is None:
        return x.mean(axis=1)
    weights = present[..., None].astype(x.dtype)
    return (x * weights).sum(axis=1) / weights.sum(axis=1)
