"""BERT (Devlin et al., 2019), with the sizes and the names of published checkpoints."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.data.tokens import Tokens
from experiments.models.activations import ACTIVATIONS
from experiments.models.bert_config import BertConfig
from experiments.models.encoder import attention_weights, dropped


class Bert(nnx.Module):
    """Embedded tokens, then blocks with LayerNorm after every sum ("post-norm").

    The pooled output is tanh of a linear layer of the first token, [CLS].
    """

    def __init__(
        self, config: BertConfig, *, dtype: DTypeLike | None = None, rngs: nnx.Rngs
    ):
        """Makes the layers.

        Args:
          config: sizes and rates.
          dtype: of the computation; the parameters are float32. Softmax and the statistics
            of LayerNorm are computed in float32 at least.
          rngs: random streams for the initial weights.
        """
        make = _Layers(config, dtype, rngs)
        self.config = config
        self.embeddings = Embeddings(make)
        self.blocks = nnx.List([Block(make) for _ in range(config.num_hidden_layers)])
        self.pooler = make.linear(config.hidden_size, config.hidden_size)

    def __call__(
        self, tokens: Tokens, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the last block's output (N, length, width) and the pooled one (N, width).

        Args:
          tokens: ids and segments (N, length).
          key: of dropout; None: as in use, nothing is dropped.

        Raises:
          ValueError: if the sequences are longer than there are positions.
        """
        hidden = self.layers(tokens, key)[-1]
        return hidden, jnp.tanh(self.pooler(hidden[:, 0]))

    def layers(self, tokens: Tokens, key: jax.Array | None = None) -> tuple[jax.Array, ...]:
        """The embeddings and every block's output, (N, length, width) each."""
        x = self.embeddings(tokens, key)
        found = [x]
        present = jnp.asarray(tokens.ids) != self.config.pad_token_id
        for number, block in enumerate(self.blocks, start=1):
            own = None if key is None else jax.random.fold_in(key, number)
            found.append(x := block(x, present, own))
        return tuple(found)


class BertClassifier(nnx.Module):
    """The pooled output of a `Bert`, dropout, a linear head in float32."""

    def __init__(
        self,
        config: BertConfig,
        outputs: int,
        *,
        dtype: DTypeLike | None = None,
        dropout: float | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layers.

        Args:
          config: sizes and rates.
          outputs: number of classes; 1: regression.
          dtype: of the computation; the parameters are float32, and so is the head.
          dropout: before the head; None: the config's `hidden_dropout_prob`.
          rngs: random streams for the initial weights.
        """
        self.bert = Bert(config, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(
            config.hidden_dropout_prob if dropout is None else dropout
        )
        make = _Layers(config, jnp.float32, rngs)
        self.classifier = make.linear(config.hidden_size, outputs)

    def __call__(self, tokens: Tokens, key: jax.Array | None = None) -> jax.Array:
        """Returns outputs (N, outputs).

        Args:
          tokens: ids and segments (N, length).
          key: of dropout; None: as in use, nothing is dropped.

        Raises:
          ValueError: if the sequences are longer than there are positions.
        """
        _, pooled = self.bert(tokens, key)
        # The encoder's places are 0 for the embeddings, then one for each block.
        place = 1 + self.bert.config.num_hidden_layers
        x = dropped(self.dropout, pooled.astype(jnp.float32), key, place)
        return self.classifier(x)


@dataclass(frozen=True)
class _Layers:
    """Makes a model's layers."""

    config: BertConfig
    dtype: DTypeLike | None
    rngs: nnx.Rngs

    def linear(self, before: int, after: int) -> nnx.Linear:
        normal = nnx.initializers.normal(self.config.initializer_range)
        return nnx.Linear(
            before, after, kernel_init=normal, dtype=self.dtype, rngs=self.rngs
        )

    def embed(self, different: int) -> nnx.Embed:
        normal = nnx.initializers.normal(self.config.initializer_range)
        width = self.config.hidden_size
        return nnx.Embed(
            different, width, embedding_init=normal, dtype=self.dtype, rngs=self.rngs
        )

    def norm(self) -> nnx.LayerNorm:
        # Not the fast variance, a difference of squares: BERT has coordinates that are
        # far larger than the others.
        return nnx.LayerNorm(
            self.config.hidden_size,
            epsilon=self.config.layer_norm_eps,
            use_fast_variance=False,
            dtype=self.dtype,
            rngs=self.rngs,
        )

    def dropout(self) -> nnx.Dropout:
        return nnx.Dropout(self.config.hidden_dropout_prob)


class Embeddings(nnx.Module):
    """The sum of what a token, its position and its segment stand for."""

    def __init__(self, make: _Layers):
        config = make.config
        self.words = make.embed(config.vocab_size)
        self.positions = make.embed(config.max_position_embeddings)
        self.segments = make.embed(config.type_vocab_size)
        self.norm = make.norm()
        self.dropout = make.dropout()

    def __call__(self, tokens: Tokens, key: jax.Array | None) -> jax.Array:
        """Returns (N, length, width) for ids and segments (N, length)."""
        ids, segments = (jnp.asarray(part).astype(jnp.int32) for part in tokens)
        length, longest = ids.shape[1], self.positions.num_embeddings
        if length > longest:
            raise ValueError(
                f"Bert(tokens): a sequence may have at most max_position_embeddings = "
                f"{longest} tokens; got {length}"
            )
        x = self.words(ids) + self.segments(segments) + self.positions(jnp.arange(length))
        return dropped(self.dropout, self.norm(x), key, 0)


class Block(nnx.Module):
    """Self-attention and a perceptron of one hidden layer, LayerNorm after each sum."""

    def __init__(self, make: _Layers):
        config = make.config
        self.attention = Attention(make)
        self.attention_norm = make.norm()
        self.up = make.linear(config.hidden_size, config.intermediate_size)
        self.down = make.linear(config.intermediate_size, config.hidden_size)
        self.norm = make.norm()
        self.dropout = make.dropout()
        self.activation = config.hidden_act

    def __call__(
        self, x: jax.Array, present: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        """Returns (N, length, width) for x of the same shape and present (N, length)."""
        attended = self.attention(x, present, key)
        x = self.attention_norm(x + dropped(self.dropout, attended, key, 1))
        hidden = ACTIVATIONS[self.activation](self.up(x))
        return self.norm(x + dropped(self.dropout, self.down(hidden), key, 2))


class Attention(nnx.Module):
    """Self-attention of several heads, to the tokens that are present."""

    def __init__(self, make: _Layers):
        width = make.config.hidden_size
        self.heads = make.config.num_attention_heads
        self.query = make.linear(width, width)
        self.key = make.linear(width, width)
        self.value = make.linear(width, width)
        self.out = make.linear(width, width)
        self.dropout = nnx.Dropout(make.config.attention_probs_dropout_prob)

    def __call__(
        self, x: jax.Array, present: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        """Returns (N, length, width) for x of the same shape and present (N, length)."""
        parts = (*x.shape[:-1], self.heads, -1)
        q, k, v = (part(x).reshape(parts) for part in (self.query, self.key, self.value))
        # Not `jax.nn.dot_product_attention`, which has no dropout of the weights.
        weights = attention_weights(q, k, present[:, None, None]).astype(v.dtype)
        weights = dropped(self.dropout, weights, key, 0)
        return self.out(jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(x.shape))
