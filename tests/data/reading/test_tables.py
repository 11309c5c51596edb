"""Tables: what the csv module of Python writes is read back; a broken quote costs one row."""

import csv
import io
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.reading.tables import Rows, Text

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
    lines = "".join(f'{number},"open, and not closed\n' for number in range(20_000))
    pulled = []
    rows = Rows(map(lambda piece: pulled.append(piece) or piece, ["id,text\n", lines]), 16_000_000)
    asked = 0
    line = rows.text.line

    def count():
        nonlocal asked
        asked += 1
        return line()

    rows.text.line = count
    found = list(rows)
    assert len(found) == 20_001 and len(pulled) == 2 and asked < 20_100
    assert {fields for _, fields in found[1:]} == {"broken quotes"}


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


@given(
    st.lists(st.tuples(st.text(st.characters(blacklist_characters="\r\0", codec="utf-8")), st.text("ab,\n\"' "))),
    st.integers(1, 60),
)
@settings(max_examples=80, deadline=None)
def test_what_python_writes_is_read_back(rows, block):
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([("a", "text"), *rows])
    pieces = [written.getvalue()[start : start + 7] for start in range(0, len(written.getvalue()), 7)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("athanor.data.reading.tables.BLOCK", block)
        found = list(Rows(pieces, 10_000))
    expected, number = [], 1
    for row in [("a", "text"), *rows]:
        expected.append((number, list(row)))
        number += 1 + sum(field.count("\n") for field in row)
    assert found == expected


@given(st.text('ab,"\n', max_size=300), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_blocks_of_any_size_give_the_same_rows(table, block):
    """Broken tables too: what is read at once is what is read with care."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("athanor.data.reading.tables.BLOCK", block)
        by_blocks = list(Rows(["a,b\n", table], 10_000))
        patch.setattr(Rows, "_at_once", lambda *_: None)
        patch.setattr(Text, "block", lambda _: "")
        with_care = list(Rows(["a,b\n", table], 10_000))
    assert [row for row in by_blocks if row[1]] == [row for row in with_care if row[1]]


def test_a_line_of_100_megabytes_is_never_held():
    piece = "x" * 1_000_000
    tracemalloc.start()
    rows = list(Rows(["text\n", *[piece] * 100, "\nend"], 16_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == [(1, ["text"]), (2, "line too long"), (3, ["end"])] and peak < 60_000_000
