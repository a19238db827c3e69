"""WordPiece: rows worked out by hand, and BERT's own way to shorten a pair."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from experiments.data import wordpiece
from experiments.shell.cli import UsageError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # 0 1 2 3 4
WORDS = ["the", "un", "##aff", "##able", "cafe", ",", "[", "]", "sep", "!"]  # 5 ... 14
# A line separator within a line is part of the token.
LETTERS = ["a", "##b", "\u2028", "b", "é"]  # 15 ... 19
UNK, CLS, SEP = 1, 2, 3


def _folder(path, lines, **config):
    (path / "vocab.txt").write_text("\n".join(lines) + "\n", "utf-8")
    if config:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def tokenizer(tmp_path):
    return wordpiece.read(_folder(tmp_path, SPECIAL + WORDS + LETTERS))


def _ids(tokenizer, *text):
    """Without [CLS], the last [SEP], and what is empty."""
    row = wordpiece.encode(tokenizer, [text], 128).ids[0].tolist()
    assert row[0] == CLS
    *tokens, last = row[1 : row.index(0)]
    assert last == SEP
    return tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the unaffable cafe", [5, 6, 7, 8, 9]),
        ("The\tUNAFF  Café,", [5, 6, 7, 9, 10]),  # no accent, the comma is no space's
        ("cafe\u0301!the", [9, 14, 5]),  # the accent as a character of its own
        ("thex affable unaffx", [UNK, UNK, UNK]),  # a word is known or it is not
        ("東京 a", [UNK, UNK, 15]),  # each of these is a word
        ("[SEP] [CLS]", [11, 13, 12, 11, UNK, 12]),  # text, not what ends one
        ("##b ab", [UNK, UNK, 18, 15, 16]),
        ("a" + "b" * 99, [15] + [16] * 99),
        ("a" + "b" * 100, [UNK]),  # longer than 100 characters
        ("", []),
        (" \x00\ufffd\n", []),
    ],
)
def test_a_text(tokenizer, text, expected):
    assert _ids(tokenizer, text) == expected


def test_a_cased_vocabulary(tmp_path):
    tokenizer = wordpiece.read(
        _folder(tmp_path, SPECIAL + WORDS + LETTERS, do_lower_case=False)
    )
    assert _ids(tokenizer, "the The cafe café é") == [5, UNK, 9, UNK, 19]


def test_case_is_ignored_where_the_config_does_not_say(tmp_path):
    tokenizer = wordpiece.read(_folder(tmp_path, SPECIAL + WORDS, model_max_length=512))
    assert _ids(tokenizer, "The CAFÉ") == [5, 9]


def test_rows(tokenizer):
    texts = [("the", "a b"), ("a",), ("", ""), ("b b b", "a a")]
    tokens = wordpiece.encode(tokenizer, texts, 7)
    assert tokens.ids.tolist() == [
        [2, 5, 3, 15, 18, 3, 0],
        [2, 15, 3, 0, 0, 0, 0],
        [2, 3, 3, 0, 0, 0, 0],
        [2, 18, 18, 3, 15, 15, 3],
    ]
    assert tokens.segments.tolist() == [
        [0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1],
    ]
    assert (tokens.ids.dtype, tokens.segments.dtype) == (np.uint16, np.uint8)


def test_no_texts(tokenizer):
    tokens = wordpiece.encode(tokenizer, [], 9)
    assert tokens.ids.shape == tokens.segments.shape == (0, 9)


def test_more_texts_than_are_encoded_at_once(tokenizer, monkeypatch):
    monkeypatch.setattr(wordpiece, "CHUNK", 2)
    texts = [("the",), ("a", "b"), ("b",), ("b", "a"), ("!",)]
    ids = wordpiece.encode(tokenizer, texts, 6).ids
    assert ids[:, 1].tolist() == [5, 15, 18, 18, 14]
    assert ids[:, 3].tolist() == [0, 18, 0, 15, 0]


def _berts(a, b, room):
    """`_truncate_seq_pair` of BERT's run_classifier.py, as it stands there."""
    while len(a) + len(b) > room:
        if len(a) > len(b):
            a.pop()
        else:
            b.pop()
    return a, b


@pytest.mark.parametrize("length", range(5, 12))
def test_pairs_are_shortened_as_berts_are(tokenizer, length):
    sizes = [(m, n) for m in range(8) for n in range(8)]
    texts = [("the " * m + "!", "a " * n + "b") for m, n in sizes]
    expected = []
    for m, n in sizes:
        a, b = _berts([5] * m + [14], [15] * n + [18], length - 3)
        row = [CLS, *a, SEP, *b, SEP]
        expected.append(row + [0] * (length - len(row)))
    assert wordpiece.encode(tokenizer, texts, length).ids.tolist() == expected


def test_a_text_is_cut_at_its_end(tokenizer):
    texts = [("the a b",), ("the a",), ("the",)]
    assert wordpiece.encode(tokenizer, texts, 4).ids.tolist() == [
        [2, 5, 15, 3],
        [2, 5, 15, 3],
        [2, 5, 3, 0],
    ]
    assert wordpiece.encode(tokenizer, texts, 3).ids.tolist() == [[2, 5, 3]] * 3


@pytest.mark.parametrize(("text", "length"), [(("a",), 2), (("a", "b"), 4)])
def test_no_room_for_a_text(tokenizer, text, length):
    with pytest.raises(UsageError, match=f"at least {length + 1}; got {length}"):
        wordpiece.encode(tokenizer, [text], length)


def test_more_tokens_than_uint16_numbers(tmp_path):
    most = SPECIAL + [f"t{i}" for i in range(65536 - 5)]
    tokenizer = wordpiece.read(_folder(tmp_path, most))
    assert _ids(tokenizer, "t65530") == [65535]
    with pytest.raises(UsageError, match="at most 65,536 tokens; got 65,537"):
        wordpiece.read(_folder(tmp_path, [*most, "one more"]))
    tokenizer.add_tokens(["one more"])
    with pytest.raises(UsageError, match="at most 65,536 tokens; got 65,537"):
        wordpiece.encode(tokenizer, [("a",)], 8)


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([*SPECIAL[1:], "[PAD]"], r"first line of .*vocab.txt.*on line 5"),
        (["[PAD]", "[UNK]", "[SEP]", "a"], r"lacks \[CLS\], \[MASK\]"),
        ([*SPECIAL, "a", "b", "a"], "must be another; 'a' is not"),
    ],
)
def test_a_vocabulary_that_does_not_fit(tmp_path, lines, error):
    with pytest.raises(UsageError, match=error):
        wordpiece.read(_folder(tmp_path, lines))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"can't read .*vocab.txt: No such file"):
        wordpiece.read(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(UsageError, match=r"can't read .*vocab.txt: 'utf-8' codec"):
        wordpiece.read(tmp_path)
    _folder(tmp_path, SPECIAL)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UsageError, match=r"tokenizer_config.json is not JSON"):
        wordpiece.read(tmp_path)


def _tokens(tokenizer):
    return [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]


def test_the_most_common_pairs_become_tokens():
    counts = {"hug": 10, "Pug": 5, "pun": 12, "bùn": 4, "hugs!": 5}
    texts = [" ".join([word] * count) for word, count in counts.items()]
    tokenizer = wordpiece.trained(texts, 5 + 7 + 8 + 4)
    # (u, g) stands in 20 words; then (u, n) in 16, (h, ug) in 15, (p, un) in 12.
    assert _tokens(tokenizer) == [
        *SPECIAL,
        *(f"##{letter}" for letter in "bghnpsu"),  # "!" is always a word of its own
        *"!bghnpsu",
        *("##ug", "##un", "hug", "pun"),
    ]
    assert _ids(tokenizer, "Hugs") == [22, 10]
    assert _ids(tokenizer, "##u [SEP]") == [UNK, UNK, 19, UNK, UNK, UNK]


def test_few_texts_give_a_smaller_vocabulary():
    assert _tokens(wordpiece.trained(["ab ab"], 50)) == [
        *SPECIAL,
        "##a",
        "##b",
        "a",
        "b",
        "ab",
    ]


def test_rare_characters_make_room():
    # Two of the vocabulary's nine are left for characters, each twice; "b" before "c".
    tokenizer = wordpiece.trained(["aaaa cc bb"], 9)
    assert _tokens(tokenizer) == [*SPECIAL, "##a", "##b", "a", "b"]
    assert _ids(tokenizer, "ab c") == [7, 6, UNK]


def test_no_more_characters_than_berts(monkeypatch):
    monkeypatch.setattr(wordpiece, "CHARACTERS", 1)
    assert _tokens(wordpiece.trained(["cb c"], 99)) == [*SPECIAL, "##c", "c"]


@pytest.mark.parametrize(
    ("vocabulary", "error"),
    [(6, "must be at least 7; got 6"), (65537, "at most 65,536 tokens; got 65,537")],
)
def test_no_vocabulary_of_that_size(vocabulary, error):
    with pytest.raises(UsageError, match=error):
        wordpiece.trained(["a"], vocabulary)


# Every pair of letters once: hundreds of ties.
TRAIN = """
import string, sys
from experiments.data import wordpiece
letters = string.ascii_lowercase
texts = [a + b + c for a, b, c in zip(letters * 26, sorted(letters * 26), letters[5:] * 40)]
tokenizer = wordpiece.trained(texts, 200)
print(wordpiece.digest(tokenizer), *sorted(tokenizer.get_vocab().items()))
"""


def test_another_process_finds_the_same_vocabulary():
    found = [
        subprocess.run(
            [sys.executable, "-c", TRAIN],
            env=os.environ
            | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert found[0] == found[1] == found[2]
    assert found[0].count("##") > 26  # of more than one letter, too


def test_the_digest_tells_vocabularies_apart(tmp_path):
    def digest(lines, **config):
        return wordpiece.digest(wordpiece.read(_folder(tmp_path, lines, **config)))

    lines = SPECIAL + WORDS
    found = [
        digest(lines, do_lower_case=True),
        digest(lines, do_lower_case=False),
        digest([*lines, "a"], do_lower_case=True),
        digest([*SPECIAL, *reversed(WORDS)], do_lower_case=True),
    ]
    assert len(set(found)) == 4
    assert all(len(one) == 8 and int(one, 16) >= 0 for one in found)
    assert digest(lines, do_lower_case=True) == found[0]
