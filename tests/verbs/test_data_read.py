"""`athanor data read` and `athanor data convert`: what a path holds, and all of it in one file."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from athanor.base.records import read_records
from tests.data.reading.tiny_media import png
from tests.verbs.conftest import Verb

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (athanor[parquet])")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with a note, rows, a picture with words, a table, and two files that cannot be read."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "note.txt").write_text("A note about gardens.")
    (folder / "rows.jsonl").write_text('{"text": "row one", "author": "Ann", "n": 1}\n{"text": ""}\n{broken\n')
    (folder / "cat.png").write_bytes(png(3, 2))
    (folder / "cat.txt").write_text("A cat.")
    (folder / "table.csv").write_text("author,text,url\nBob,A cell.,http://b.example/\n")
    (folder / "model.bin").write_bytes(b"\0")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 no")
    return folder


def test_a_path_is_shown_with_what_cannot_be_read(mixed: Path, verb: Verb) -> None:
    said = verb("data", "read", mixed, "--show", "2")
    assert "1. cat.png · caption · 6 B · picture 3×2\n   A cat." in said and "2. note.txt · prose · 21 B" in said
    assert "\n3. " not in said
    assert "4 documents (caption 1, prose 3), 41 B of text, from 6 files; 4 set aside" in said
    assert "broken PDF" in said and "kind not read: .bin" in said and "rows.jsonl#3" in said
    (mixed / "poems.jsonl").write_text('{"title": "Spring", "poem": "Blue is the sky."}\n')
    assert "poems.jsonl#1 has title, poem" in verb("data", "read", mixed)
    assert "--text-field NAME" in verb("data", "read", mixed / "poems.jsonl", code=2)
    (mixed / "poems.jsonl").unlink()
    told = json.loads(verb("data", "read", mixed, "--json", "--show", "9"))
    assert told["documents"] == 4 and len(told["shown"]) == 4
    assert {row["reason"]: row["count"] for row in told["set_aside"]} == {
        "broken PDF": 1, "empty text": 1, "kind not read: .bin": 1, "not JSON": 1,
    }  # fmt: skip


def test_columns_of_any_name_may_be_kept(verb: Verb, tmp_path: Path) -> None:
    """Once each of these names ended in a traceback, in long texts or short ones, or when the document was cut."""
    names = ["text", "source", "language", "name", "limits", "pieces", "meta", "id"]
    row = {name: f"the {name}" for name in names} | {"text": "A sentence about gardens. " * 180_000}
    (tmp_path / "rows.jsonl").write_text(json.dumps({**row, "text": "short"}) + "\n" + json.dumps(row) + "\n")
    keep = [word for name in names for word in ("--keep", name)]
    verb("data", "convert", "rows.jsonl", "out.jsonl", *keep)
    documents = list(read_records(tmp_path / "out.jsonl"))
    assert [document["source"] for document in documents] == ["rows.jsonl#1", "rows.jsonl#2"]
    for document in documents:
        assert document["meta"] == row | {"text": document["text"], "kind": "prose"}
    assert "rename the field" in verb("data", "convert", "rows.jsonl", "x.jsonl", "--keep", "kind", code=2)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_everything_is_written_to_one_file_and_read_back(mixed: Path, verb: Verb, tmp_path: Path, suffix: str) -> None:
    first, again = tmp_path / f"all{suffix}", tmp_path / "again.jsonl"
    said = verb("data", "convert", mixed, first, "--keep", "author", "--set-aside", "aside.jsonl")
    assert f"→ {first}" in said and "4 documents" in said
    verb("data", "convert", first, again)
    rows = {row["source"]: row for row in read_records(again)}
    assert list(rows) == ["cat.png", "note.txt", "rows.jsonl#1", "table.csv#2"]
    assert rows["rows.jsonl#1"]["meta"] == {"kind": "prose", "author": "Ann"}
    assert rows["table.csv#2"]["meta"] == {"kind": "prose", "url": "http://b.example/", "author": "Bob"}
    assert rows["cat.png"]["media"][0]["width"] == 3
    aside = [json.loads(line) for line in (tmp_path / "aside.jsonl").read_text().splitlines()]
    assert {row["source"] for row in aside} == {"broken.pdf", "model.bin", "rows.jsonl#2", "rows.jsonl#3"}
    data = first.read_bytes()
    texts = [row["text"] for row in rows.values()]
    if suffix == ".parquet":
        assert pq.read_table(first).column("text").to_pylist() == texts
    else:
        data = gzip.decompress(data) if suffix == ".jsonl.gz" else data
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data) if suffix == ".jsonl.zst" else data
        assert data == again.read_bytes()


def test_many_documents_fill_several_row_groups(tmp_path: Path, verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("athanor.data.writing.GROUP_BYTES", 1_000)
    texts = [f"document {number} " * (number % 7 + 1) for number in range(300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    verb("data", "convert", "rows.jsonl", "rows.parquet")
    written = pq.ParquetFile(tmp_path / "rows.parquet")
    assert written.num_row_groups > 5 and written.read().column("text").to_pylist() == texts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("read", "nowhere"), "there is nothing at nowhere"),
        (("read", "mixed/model.bin"), "kind not read: .bin"),
        (("convert", "mixed", "out.txt"), ".jsonl.zst"),
        (("convert", "mixed", "mixed/rows.jsonl"), "exists already"),
        (("convert", "mixed", "no/out.jsonl"), "there is no folder no"),
        (("convert", "mixed/model.bin", "out.jsonl"), "kind not read: .bin"),
        (("convert", "mixed", "out.jsonl", "--text-field", "poem"), "no field poem"),
        (("convert", "mixed", "out.jsonl", "--set-aside", "mixed/rows.jsonl"), "exists already"),
        (("convert", "mixed", "out.jsonl", "--set-aside", "./out.jsonl"), "choose two names"),
        (("read", ""), "the path is empty"),
    ],
)
def test_a_refusal_says_what_is_allowed_and_leaves_nothing(
    mixed: Path, verb: Verb, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    if "poem" in words:
        for name in ("note.txt", "cat.png", "cat.txt"):
            (mixed / name).unlink()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert said in verb("data", *words, code=2)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
