"""Rows of JSON in .json and .jsonl files: against json.loads of the whole, damaged, and endless."""

import bz2
import gzip
import io
import json
import lzma
import random

import pytest

from athanor.data.reading import rows
from athanor.data.reading.decode import Unreadable

CHANCE = random.Random(7)
ODD = ['"', "\\", "]", "[", "{", "}", ",", "\n", "中", "\u2028", "a", " ", ":"]


def random_text() -> str:
    return "".join(CHANCE.choices(ODD, k=CHANCE.randrange(30)))


def random_rows(count: int) -> list[dict]:
    return [
        {"text": random_text(), random_text(): [random_text(), {"x": [[], {}, random_text()]}], "n": number}
        for number in range(count)
    ]


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1 << 20])
def test_values_are_those_of_the_whole_file(monkeypatch, block):
    """Wherever a block ends: inside a string, behind a backslash, between two brackets."""
    monkeypatch.setattr(rows, "AT_ONCE", block)
    for _ in range(20):
        given = random_rows(CHANCE.randrange(1, 6))
        for indent, as_ascii in ((None, True), (2, False)):
            array = json.dumps(given, ensure_ascii=as_ascii, indent=indent)
            one_by_one = "\n".join(json.dumps(row, ensure_ascii=as_ascii, indent=indent) for row in given)
            for text in (array, f" \n{array}\n ", one_by_one, one_by_one + "\n"):
                found = list(rows.json_values(io.BytesIO(text.strip().encode()), 1_000_000))
                assert [json.loads(value) for value in found if value] == given


@pytest.mark.parametrize("form", ["array", "pretty array", "lines", "pretty", "one"])
@pytest.mark.parametrize("ending", [".json", ".json.gz"])
def test_a_json_file_in_each_of_its_forms(folder, read_all, form, ending):
    texts = [f"今天天气很好，我们去公园看花，第 {number} 次。" for number in range(1 if form == "one" else 5)]
    indent = 2 if form.startswith("pretty") or form == "one" else None
    given = [{"text": text, "url": "https://example.org/"} for text in texts]
    written = [json.dumps(row, ensure_ascii=False, indent=indent) for row in given]
    data = (json.dumps(given, indent=indent) if "array" in form else "\n".join(written)).encode()
    (folder / f"a{ending}").write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    documents, aside = read_all(folder)
    assert {document.source: document.text for document in documents} == {
        f"a{ending}#{number}": text for number, text in enumerate(texts, 1)
    }
    assert not aside and documents[0].meta["url"] == "https://example.org/"


def test_what_is_wrong_in_an_array_costs_its_row(folder, read_all):
    (folder / "rows.json").write_text(
        '[{"text": "one"}, 5, {"text": 7}, {"text": "two", "x": nonsense}, ["text"], {"text": "' + "y" * 2_000 + '"},'
        ' {"messages": []}, {"title": "x"}, {"text": "three"},]'
    )
    (folder / "cut.json").write_text('[{"text": "whole"}, {"text": "cut')
    (folder / "behind.json").write_text('[{"text": "before"}] and more')
    (folder / "no.json").write_text("words")
    (folder / "blank.json").write_text(" \n ")
    documents, aside = read_all(folder, max_line_bytes=1_000, max_document_bytes=1_000)
    assert [document.text for document in documents] == ["before", "whole", "one", "three"]
    assert documents[-1].source == "rows.json#9"
    assert aside == {
        "cut.json": "JSON that ends too early", "behind.json": "something behind the end of the array",
        "no.json": "not JSON", "blank.json": "empty text", "rows.json#2": "not a JSON object",
        "rows.json#3": "field text is not text", "rows.json#4": "not JSON", "rows.json#5": "not a JSON object",
        "rows.json#6": "row too long", "rows.json#8": "no field text or content or body",
        "rows.json#7": "a conversation (field messages), not a document: it is for fine-tuning",
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "gb18030"])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_rows_in_another_encoding(folder, read_all, name, encoding):
    texts = [f"今天天气很好，我们去公园看花，孩子们在草地上跑来跑去，第{number}次。" for number in range(40)]
    given = [{"text": text} for text in texts]
    written = [json.dumps(row, ensure_ascii=False) for row in given]
    text = f"[{','.join(written)}]" if name.endswith("json") else "\r\n".join(written)
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (folder / name).write_text(mark + text, encoding=encoding, newline="")
    documents, aside = read_all(folder)
    assert [document.text for document in documents] == texts and not aside


PACKERS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": lambda data: bz2.compress(data, 1)}


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.jsonl.xz", "a.json.bz2"])
def test_what_stands_before_a_cut_is_kept(folder, read_all, name):
    given = [{"text": f"{number} {random_text()}"} for number in range(16_000)]
    data = "\n".join(map(json.dumps, given)) if ".jsonl" in name else json.dumps(given)
    (folder / name).write_bytes(PACKERS[f".{name.rpartition('.')[2]}"](data.encode())[:-2_000])
    documents, aside = read_all(folder)
    assert 5_000 < len(documents) < 16_000 and [one.text for one in documents] == [
        row["text"] for row in given[: len(documents)]
    ]
    assert aside == {name: "broken or truncated compression"}


@pytest.mark.parametrize("name, content", [("a.csv", "ID,Text\n1,words\n"), ("a.jsonl", '{"ID": 1, "TEXT": "words"}')])
def test_the_field_with_the_text_may_have_capital_letters(folder, read_all, name, content):
    (folder / name).write_text(content)
    documents, aside = read_all(folder)
    assert [document.text for document in documents] == ["words"] and not aside


def test_a_compressed_file_that_asks_for_gigabytes_is_set_aside(folder, read_all):
    """And streams one behind another, padded, as `xz` and `bzip2` themselves read them."""
    line = b'{"text": "words"}\n'
    large = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    (folder / "large.jsonl.xz").write_bytes(lzma.compress(line, filters=large))
    (folder / "many.jsonl.xz").write_bytes((lzma.compress(line) + bytes(4)) * 3)
    (folder / "none.jsonl.xz").write_bytes(line)
    (folder / "none.jsonl.bz2").write_bytes(line)
    documents, aside = read_all(folder)
    assert [document.source for document in documents] == [f"many.jsonl.xz#{number}" for number in (1, 2, 3)]
    broken = "broken or truncated compression"
    assert aside == {"large.jsonl.xz": broken, "none.jsonl.xz": broken, "none.jsonl.bz2": broken}


def test_broken_utf8_costs_its_rows_only(folder, read_all):
    good = '{"text": "今天天气很好，我们去公园看花。"}\n'.encode()
    (folder / "a.jsonl").write_bytes(good + good.replace("天".encode(), b"\xff") + good)
    documents, aside = read_all(folder)
    assert [document.source for document in documents] == ["a.jsonl#1", "a.jsonl#3"]
    assert aside == {"a.jsonl#2": "broken UTF-8"}


class Endless(io.RawIOBase):
    """An array whose second element is a string of 50 MB, and the third a plain one."""

    def __init__(self) -> None:
        self.blocks = iter([b'[{"text": "a"}, {"text": "', *[b"x\\u4e00" * 140_000] * 60, b'"}, {"text": "b"}]'])
        self.held = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        self.held = self.held or next(self.blocks, b"")
        size = min(len(buffer), len(self.held))
        buffer[:size], self.held = self.held[:size], self.held[size:]
        return size


def test_a_row_without_end_is_never_held(monkeypatch):
    most_held = 0
    more = rows._Scan._more

    def watched(scan):
        nonlocal most_held
        most_held = max(most_held, len(scan.held))
        return more(scan)

    monkeypatch.setattr(rows._Scan, "_more", watched)
    found = list(rows.json_values(io.BufferedReader(Endless()), 3_000_000))
    assert found == [b'{"text": "a"}', None, b'{"text": "b"}']
    assert most_held <= 3_000_000 + 2 * rows.AT_ONCE


def test_a_file_that_ends_early_says_where():
    with pytest.raises(Unreadable) as told:
        list(rows.json_values(io.BytesIO(b'[{"text": "a"}, {"text": "b"}'), 100))
    assert told.value.detail == "in row 2"
