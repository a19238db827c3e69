"""WordPiece (Wu et al., 2016), the words and parts of words that BERT reads."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from experiments.data.tokens import PAD, Tokens
from experiments.shell.cli import UsageError, at_least

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LARGEST = 2**16  # what uint16 can number
CHARACTERS = 1000  # a vocabulary's at most, as in BERT's; rarer ones are [UNK]
CHUNK = 4096  # texts whose tokens are held as objects at once

# Its threads don't survive a fork, such as a data loader's, and it warns of that unless
# told what to do. Texts are encoded once, and one thread is fast enough for that.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def trained(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learns a lower-case vocabulary; the same texts give the same one everywhere.

    Args:
      texts: what to learn from.
      vocabulary: how many tokens it may have; few texts may give fewer.

    Raises:
      UsageError: if there can't be a vocabulary of that size.
    """
    check_size(vocabulary)
    texts = list(texts)
    characters = _characters(texts, (vocabulary - len(SPECIAL)) // 2)
    tokenizer = _tokenizer(SPECIAL, lower=True)
    # The trainer numbers parts like "##a" in the order of a hash map with a random seed,
    # and the numbers settle which of two equally common pairs becomes a token. Given as
    # special tokens they have theirs beforehand.
    parts = [f"##{one}" for one in characters if _continues(one)]
    trainer = WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL, *parts],
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Afresh, because in that one the text "[SEP]", or "##a", would be that token.
    return _tokenizer(_vocabulary(tokenizer), lower=True)


def check_size(vocabulary: int) -> None:
    """Raises a UsageError if there can't be a learnt vocabulary of that size."""
    at_least("vocabulary", vocabulary, len(SPECIAL) + 2)
    _numbered(vocabulary)


def _characters(texts: list[str], most: int) -> list[str]:
    normalizer, counts = BertNormalizer(), Counter[str]()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    del counts[" "]
    by_count = sorted(counts, key=lambda one: (-counts[one], one))
    return sorted(by_count[: min(most, CHARACTERS)])


def _continues(character: str) -> bool:
    """Whether it may follow another in a word, as punctuation may not."""
    return len(BertPreTokenizer().pre_tokenize_str(f"a{character}")) == 1


def read(folder: Path) -> Tokenizer:
    """Reads a pretrained model's vocabulary, as published: vocab.txt, one token a line.

    A tokenizer_config.json beside it says in "do_lower_case" whether texts are put in
    lower case, and lose their accents; without it they are.

    Raises:
      UsageError: if a file can't be read, or isn't a vocabulary that fits here.
    """
    path = folder / "vocab.txt"
    lower = _lower(folder / "tokenizer_config.json")
    tokens = _text(path).removesuffix("\n").split("\n")
    if missing := [one for one in SPECIAL if one not in tokens]:
        raise UsageError(f"{path} lacks {', '.join(missing)}; is it BERT's vocabulary?")
    if tokens[PAD] != "[PAD]":
        raise UsageError(
            f"[PAD] must be on the first line of {path}, as in BERT's vocabularies; "
            f"it is on line {tokens.index('[PAD]') + 1}"
        )
    if twice := [one for one, count in Counter(tokens).items() if count > 1]:
        raise UsageError(f"each line of {path} must be another; {twice[0]!r} is not")
    _numbered(len(tokens))
    return _tokenizer(tokens, lower)


def _lower(path: Path) -> bool:
    if not path.exists():
        return True
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    lower = content.get("do_lower_case", True) if isinstance(content, dict) else None
    if not isinstance(lower, bool):
        raise UsageError(
            f"do_lower_case in {path} must be true or false; got {json.dumps(lower)}"
        )
    return lower


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"can't read {path}: {reason}; say which folder holds the pretrained model's "
            f"files"
        ) from error


def _tokenizer(vocabulary: Sequence[str], lower: bool) -> Tokenizer:
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _vocabulary(tokenizer: Tokenizer) -> list[str]:
    numbers = tokenizer.get_vocab()
    return sorted(numbers, key=numbers.__getitem__)


def _numbered(vocabulary: int) -> None:
    if vocabulary > LARGEST:
        raise UsageError(
            f"a vocabulary may have at most {LARGEST:,} tokens; got {vocabulary:,}"
        )


def encode(tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]], length: int) -> Tokens:
    """Texts as [CLS] a [SEP], pairs as [CLS] a [SEP] b [SEP].

    What is too long loses its end, of a pair the longer text's, as in BERT's own code.

    Args:
      tokenizer: from `trained` or `read`.
      texts: one or two strings each.
      length: tokens of a row, with the special ones.

    Raises:
      UsageError: if nothing of a text, or of one of a pair, would be left.
    """
    at_least("length", length, 1 + 2 * max(map(len, texts), default=1))
    numbers = tokenizer.get_vocab()
    _numbered(len(numbers))
    ids = np.full((len(texts), length), PAD, np.uint16)
    segments = np.zeros((len(texts), length), np.uint8)
    ends = numbers["[CLS]"], numbers["[SEP]"]
    for row, parts in enumerate(_tokens(tokenizer, texts)):
        start, stop, tokens = _row(parts, length, *ends)
        ids[row, : len(tokens)] = tokens
        segments[row, start:stop] = 1
    return Tokens(ids, segments)


def _tokens(
    tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]]
) -> Iterator[list[list[int]]]:
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        flat = tokenizer.encode_batch_fast([one for text in chunk for one in text])
        found = iter(flat)
        yield from ([next(found).ids for _ in text] for text in chunk)


def _row(
    parts: list[list[int]], length: int, first: int, separator: int
) -> tuple[int, int, list[int]]:
    """Where the second text starts and stops, and all tokens."""
    a, *rest = parts
    room = length - 2 - len(rest)
    second = sum(map(len, rest))
    # What is left when the longer one, of equally long ones the second, loses a token
    # until both fit.
    kept = max(room - room // 2, room - second)
    a = a[:kept]
    tokens = [first, *a, separator]
    start = len(tokens)
    for b in rest:
        tokens += [*b[: room - len(a)], separator]
    return start, len(tokens), tokens


def digest(tokenizer: Tokenizer) -> str:
    """Eight hexadecimal digits that tell vocabularies, and their case, apart."""
    lower = tokenizer.normalizer.lowercase  # pyright: ignore[reportOptionalMemberAccess]
    content = json.dumps([_vocabulary(tokenizer), lower])
    return hashlib.sha256(content.encode()).hexdigest()[:8]
