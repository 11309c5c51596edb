"""JSON lines are read alike by the C library and by orjson, and no line that orjson refuses is accepted."""

import gzip
import json
import random

import numpy as np
import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base import native
from athanor.base.errors import AthanorError
from athanor.data import lines as module
from athanor.data.lines import UNCERTAIN, as_list, read_line_blocks, read_lines, read_rows
from tests.native_library import either, needs_library

__all__ = ["either"]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
rows = st.dictionaries(st.sampled_from(["id", "text", "meta", "te\\xt", 'a"b', ""]), values, max_size=4)


def expected(line):
    """The text that orjson finds in a line; None where it refuses the line or there is no text."""
    try:
        row = orjson.loads(line)
    except ValueError:
        return None
    text = row.get("text") if isinstance(row, dict) else None
    return text if isinstance(text, str) else None


def states(data):
    """What the C library says about each line of a block, and the texts."""
    count, source = data.count(b"\n"), np.frombuffer(data, np.uint8)
    texts_B, ends_L, text_ends_L = np.empty(len(data), np.uint8), np.empty(count, np.int64), np.empty(count, np.int64)
    states_L, spans = np.empty(count, np.uint8), np.empty(0, np.int64)
    found = native.function("athanor_json_texts")(
        native.pointer(source, np.uint8), len(data), b"", 0, native.pointer(texts_B, np.uint8),
        native.pointer(ends_L, np.int64), native.pointer(text_ends_L, np.int64), native.pointer(states_L, np.uint8),
        native.pointer(spans, np.int64), count,
    )  # fmt: skip
    assert found == count
    starts = [0, *text_ends_L.tolist()]
    return states_L.tolist(), [texts_B[a:b].tobytes() for a, b in zip(starts, text_ends_L, strict=False)]


def check(lines):
    """No accepted line differs from orjson's reading."""
    found, texts = states(b"".join(line + b"\n" for line in lines))
    for line, state, text in zip(lines, found, texts, strict=True):
        if state == 0:
            assert expected(line) is not None and expected(line).encode() == text, line
        else:
            assert not text and (state == UNCERTAIN) == bool(line)
    return found


@needs_library
@settings(max_examples=100, deadline=None)
@given(st.lists(rows, max_size=5), st.booleans())
def test_rows_of_any_shape(found, as_ascii):
    check([json.dumps(row, ensure_ascii=as_ascii).encode("utf-8", "surrogatepass") for row in found])


@needs_library
def test_damaged_lines():
    chance = random.Random(3)
    good = [
        '{"id": "a", "text": "x \\"q\\" \\n \\u6c49\\ud83d\\ude00 汉字é😀", "n": [1, -2.5, {"text": 0}, null, true]}',
        '{"text":"","text":"second"}', ' { "text" : "a" , "b" : {} } ', '{"meta":{"text":"no"},"text":"yes"}',
    ]  # fmt: skip
    odd = (*b'"\\{}[],:0-.eE \t\r', 0, 0x1F, 0x7F, 0x80, 0xC0, 0xED, 0xF4, 0xFF)
    lines = []
    for _ in range(8_000):
        line = bytearray(chance.choice(good).encode())
        for _ in range(chance.choice((0, 1, 1, 2))):
            place = chance.randrange(len(line))
            byte = chance.choice((*odd, chance.randrange(256)))
            change = chance.randrange(3)
            line[place : place + (change != 1)] = b"" if change == 0 else bytes([byte])
        lines.append(bytes(line).replace(b"\n", b" "))
    found = check(lines)
    assert found.count(0) > 1_500 and found.count(UNCERTAIN) > 1_500


@needs_library
@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "\xed\xa0\x80"}', b'{"text": "\xc0\xaf"}', b'{"text": "\xe0\x80\xaf"}',
        b'{"text": "\xf4\x90\x80\x80"}', b'{"text": "\xf0\x80\x80\xaf"}', b'{"text": "\xe6\xb1"}',
        b'{"text": "\xe6\xb1', b'{"text": "\\ud800"}', b'{"text": "\\ud800\\u0041"}', b'{"text": "\\udc00"}',
        b'{"text": "\\u12"}',
        b'{"text": "\\x"}', b'{"text": "a\tb"}', b'{"text": "a", "n": 01}', b'{"text": "a", "n": 1.}',
        b'{"text": "a", "n": .5}', b'{"text": "a", "n": -}', b'{"text": "a", "n": NaN}', b'{"text": "a",}',
        b'{"text": "a"}}', b'{"text": "a"} x', b'["text"]', b'{"text"}', b'\xef\xbb\xbf{"text": "a"}',
        b'{"text": "a" "b": 1}', b'{"text": 1}', b'{"text": "a", "text": 1}', b'{"te\\u0078t": "a"}',
        b'{"text": "a", "n": 1e999}', b'{"text": "a", "n": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",
    ],
)  # fmt: skip
def test_what_is_wrong_or_unusual_goes_to_the_full_parser(line):
    assert states(line + b"\n")[0] == [UNCERTAIN]


def test_blocks_are_read_alike(tmp_path, monkeypatch, either):
    monkeypatch.setattr(module, "BLOCK", 1_000)
    chance = random.Random(1)
    texts = ["".join(chance.choices('ab 汉é"\\\n😀', k=chance.choice((0, 3, 40, 5_000)))) for _ in range(60)]
    rows = [{"n": [1e300, 2**70] if number % 7 == 0 else 1, "text": text} for number, text in enumerate(texts)]
    lines = [json.dumps(row, ensure_ascii=number % 2 == 0) for number, row in enumerate(rows)]
    lines[5:5] = ["", ""]
    path = tmp_path / "in.jsonl"
    for end in ("", "\n"):
        path.write_text("\n".join(lines) + end, encoding="utf-8")
        blocks = list(read_line_blocks(path))
        assert [text for block in blocks for text in as_list(block.texts)] == texts
        assert [row["text"] for block in blocks for row in block.rows()] == texts
        assert [row for some in read_rows(path) for row in some] == rows
        assert sum(len(block.data) for block in blocks) == len(path.read_bytes()) + (end == "")
    assert len(blocks) > 10


def test_a_wrong_line_is_named_wherever_it_stands(tmp_path, monkeypatch, either):
    monkeypatch.setattr(module, "BLOCK", 100)
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\n\n' * 50 + '{"text": 3}\n', encoding="utf-8")
    with pytest.raises(AthanorError, match="line 101"):
        list(read_line_blocks(path))


def test_texts_that_only_the_full_parser_reads_are_not_lost(either):
    block = read_lines(b'{"text":"a"}\n{"te\\u0078t":"b"}\n\n{"text":"","n":1e2}\n{"text":"d"}\n')
    assert as_list(block.texts) == ["a", "b", "", "d"]


@pytest.mark.parametrize("suffix, pack", [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_a_file_that_was_cut_short_is_refused(tmp_path, suffix, pack):
    path = tmp_path / f"rows.jsonl{suffix}"
    packed = pack(b"".join(b'{"text": "row %d"}\n' % number for number in range(1_000)))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(AthanorError, match="cut short"):
        list(read_rows(path))
