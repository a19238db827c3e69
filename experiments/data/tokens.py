"""Texts as models read them: numbers of tokens, all rows of one length."""

from typing import Any, NamedTuple

PAD = 0  # where there is no token; a vocabulary's first entry


class Tokens(NamedTuple):
    """Texts, or pairs of texts, in tokens.

    Attributes:
      ids: (N, length) uint16, `PAD` where there is no token.
      segments: (N, length) uint8, 1 for the second text of a pair, 0 elsewhere.
    """

    ids: Any
    segments: Any
