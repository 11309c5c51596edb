"""Tables: what the csv module of Python writes is read back; a broken quote costs one row."""

import csv
import io
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.reading.tables import _read_rows, text_lines

ROWS = [
    ["id", "text", "url"],
    ["1", 'He said: "yes, of course".', "http://a.example/"],
    ["2", "two lines,\nand a comma", ""],
    ["3", "今天天气很好，我们去公园看花，大家都很高兴。", "http://b.example/"],
]


def texts_of(documents):
    return {document.source: document.text for document in documents}


@pytest.mark.parametrize("suffix, delimiter", [(".csv", ","), (".csv", ";"), (".tsv", "\t"), (".csv", "|")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_a_table_is_read_by_its_header(folder, read_all, suffix, delimiter, encoding):
    path = folder / f"t{suffix}"
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(ROWS if encoding != "gb18030" else [ROWS[0], *[ROWS[3]] * 40])
    documents, aside = read_all(path)
    assert aside == {}
    if encoding == "gb18030":
        assert {document.text for document in documents} == {ROWS[3][1]}
        return
    name = path.name
    assert texts_of(documents) == {f"{name}#2": ROWS[1][1], f"{name}#3": ROWS[2][1], f"{name}#5": ROWS[3][1]}
    assert [document.meta.get("url") for document in documents] == ["http://a.example/", "", "http://b.example/"]


def test_broken_quotes_cost_their_own_row_only(folder, read_all):
    lines = [
        "id,text", '1,"good, quoted"', '2,"never closed, with a comma', "3,plain", '4,"closed\nlater"',
        '5,"a quote "inside", badly"', "6,too,many", '7,"a word" outside', "8",
        '9,"""doubled"""', '10,"open at the end',
    ]  # fmt: skip
    (folder / "t.csv").write_text("\n".join(lines))
    documents, aside = read_all(folder / "t.csv")
    assert texts_of(documents) == {
        "t.csv#2": "good, quoted", "t.csv#4": "plain", "t.csv#5": "closed\nlater", "t.csv#9": '"a word" outside',
        "t.csv#11": '"doubled"', "t.csv#12": '"open at the end',
    }  # fmt: skip
    assert aside == {
        "t.csv#3": "broken quotes", "t.csv#7": "broken quotes", "t.csv#8": "more fields than the header",
        "t.csv#10": "field text is not text",
    }  # fmt: skip


def test_many_broken_quotes_are_read_once_and_not_again_for_each():
    lines = [f'{number},"open, and not closed\n' for number in range(20_000)]
    pulled = 0

    def count(lines):
        nonlocal pulled
        for number, line in enumerate(lines, 1):
            pulled += 1
            yield number, line

    rows = list(_read_rows(count(["id,text\n", *lines]), 16_000_000))
    assert len(rows) == len(lines) + 1 == pulled
    assert {fields for _, fields in rows[1:]} == {"broken quotes"}


def test_a_line_too_long_is_passed_over(folder, read_all):
    (folder / "t.csv").write_text(
        'id,text\n1,one\n2,"' + "x" * 5_000 + '"\n3,three\n4,"open\n' + "y" * 5_000 + "\n6,six"
    )
    documents, aside = read_all(folder / "t.csv", max_line_bytes=1_000)
    assert texts_of(documents) == {"t.csv#2": "one", "t.csv#4": "three", "t.csv#5": '"open', "t.csv#7": "six"}
    assert aside == {"t.csv#3": "line too long", "t.csv#6": "line too long"}


def test_a_table_without_a_text_column_says_what_it_has(folder, read_all):
    (folder / "t.csv").write_text("name,age\nAda,36\n")
    (folder / "good.csv").write_text("text\nhello\n")
    documents, aside = read_all(folder)
    assert [document.text for document in documents] == ["hello"]
    assert aside == {"t.csv": "no field text or content or body"}
    assert [document.text for document in read_all(folder / "t.csv", text_field="name")[0]] == ["Ada"]


@given(st.lists(st.tuples(st.text(st.characters(blacklist_characters="\r\0", codec="utf-8")), st.text("ab,\n\"' "))))
@settings(max_examples=50, deadline=None)
def test_what_python_writes_is_read_back(rows):
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([("a", "text"), *rows])
    pieces = [written.getvalue()[start : start + 7] for start in range(0, len(written.getvalue()), 7)]
    assert [fields for _, fields in _read_rows(text_lines(pieces, 10_000), 10_000)][1:] == [list(row) for row in rows]


def test_a_line_of_300_megabytes_is_never_held():
    piece = "x" * 1_000_000
    tracemalloc.start()
    lines = [
        (number, line if line is None else len(line))
        for number, line in text_lines([*[piece] * 300, "\nend"], 16_000_000)
    ]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lines == [(1, None), (2, 3)] and peak < 40_000_000
