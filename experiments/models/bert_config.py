"""Sizes of BERT (Devlin et al., 2019), by the names in published checkpoints."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from experiments.data.tokens import PAD
from experiments.models.activations import ACTIVATIONS


@dataclass(frozen=True)
class BertConfig:
    """Sizes and rates, by the names that a checkpoint's config.json has; BERT-base's.

    Attributes:
      vocab_size: number of different tokens.
      hidden_size: numbers per token; a multiple of `num_attention_heads`.
      num_hidden_layers: blocks.
      num_attention_heads: of every block.
      intermediate_size: of the hidden layer of a block's perceptron.
      max_position_embeddings: longest sequence.
      type_vocab_size: number of different segments.
      layer_norm_eps: what LayerNorm adds to a variance.
      hidden_act: "gelu" (exact), "gelu_new" (by tanh) or "relu".
      hidden_dropout_prob: share of embeddings and of every block's outputs that is dropped.
      attention_probs_dropout_prob: share of the attention's weights that is dropped.
      initializer_range: standard deviation of new weights.
      pad_token_id: the number that stands where there is no token.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int = PAD

    def __post_init__(self):
        for field in dataclasses.fields(self):
            rule, holds = _RULES.get(field.name) or _RULES[field.type]
            value = getattr(self, field.name)
            if isinstance(value, bool) or not holds(value):
                raise ValueError(f"{field.name} must be {rule}; got {value!r}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads; got "
                f"{self.hidden_size} and {self.num_attention_heads}"
            )


# What each field must be: by its name or else by its type.
_RATE = ("at least 0 and below 1", lambda p: isinstance(p, int | float) and 0 <= p < 1)
_RULES: dict[object, tuple[str, Callable[..., bool]]] = {
    int: ("an integer of at least 1", lambda n: isinstance(n, int) and n >= 1),
    float: ("a positive number", lambda x: isinstance(x, int | float) and x > 0),
    "hidden_act": (f"one of {', '.join(ACTIVATIONS)}", lambda a: a in list(ACTIVATIONS)),
    "hidden_dropout_prob": _RATE,
    "attention_probs_dropout_prob": _RATE,
    "pad_token_id": ("an integer of at least 0", lambda n: isinstance(n, int) and n >= 0),
}

BASE = BertConfig()
