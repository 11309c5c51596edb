"""The report on compression and fertility: planted counts come out."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from athanor.base.errors import AthanorError
from athanor.tokens.fertility import count_words, report, report_table
from athanor.tokens.letters import BYTE_TO_LETTER, letters_of
from athanor.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def bytes_only() -> Tokenizer:
    """256 bytes and one merge, "th": every count can be done by hand."""
    vocabulary = {BYTE_TO_LETTER[byte]: byte for byte in range(256)} | {"th": 256}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return Tokenizer(core)


def test_counts_by_hand(bytes_only: Tokenizer) -> None:
    english, chinese, both = report(bytes_only, {"en": ["the cat, that's it", "this"], "zh": ["你好。"]})
    assert (english.texts, english.bytes, english.characters, english.words) == (2, 22, 22, 5)
    assert english.tokens == 22 - 3  # th three times
    assert english.partial == english.unknown == 0
    assert english.used == len(set("e ca,t'sithi")) + 1 - 1  # th instead of every h
    assert (chinese.bytes, chinese.characters, chinese.words, chinese.tokens) == (9, 3, 2, 9)
    assert chinese.partial_share == 1.0 and chinese.tokens_per_word == 4.5 and chinese.bytes_per_token == 1.0
    assert both.language == "all" and both.tokens == 28 and both.words == 7 and both.vocabulary == 257
    assert both.used == english.used + len(set("你好。".encode()))
    assert english.tokens_per_word == pytest.approx(19 / 5) and english.characters_per_token == pytest.approx(22 / 19)
    assert english.vocabulary_share == pytest.approx(english.used / 257)


def test_words_of_several_scripts() -> None:
    assert count_words("Hello, world! — 3.5 it's") == 4
    assert count_words("你好，world 2024年") == 5  # 你 好 world 2024 年
    assert count_words("हिन्दी में") == 2  # vowel signs do not cut a word
    assert count_words("  \n … ") == 0


def test_unknown_tokens_are_counted() -> None:
    vocabulary = {"[UNK]": 0, "cat": 1, "##s": 2}
    core = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.add_special_tokens(["[UNK]"])
    tokenizer = Tokenizer(core, {"unk_token": "[UNK]"})
    (row,) = report(tokenizer, {"en": ["cats and cat dog"]})
    assert (row.tokens, row.unknown, row.unknown_share) == (5, 2, 0.4)


def test_bytes_in_place_of_characters_are_counted() -> None:
    pieces = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁": 256, "a": 257}
    core = tokenizers.Tokenizer(models.BPE(vocab=pieces, merges=[], byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    (row,) = report(Tokenizer(core), {"x": ["aé"]})
    assert (row.tokens, row.partial) == (4, 2)


def test_the_table_and_the_rows(bytes_only: Tokenizer) -> None:
    rows = report(bytes_only, {"en": ["the cat"], "zh": ["你好"]})
    lines = report_table(rows).splitlines()
    assert len(lines) == 5 and "tokens/word" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["en", "zh", "all"]
    assert json.loads(json.dumps(rows[1].as_row()))["tokens_per_word"] == 3.0
    assert letters_of(b"th") == "th"


def test_no_text_is_refused(bytes_only: Tokenizer) -> None:
    with pytest.raises(AthanorError, match="no text"):
        report(bytes_only, {"en": []})
