"""Parquet, Arrow and `datasets` folders, written by pyarrow as those libraries write them."""

import builtins
import json

import pytest

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (athanor[parquet])")
import pyarrow.parquet as pq  # noqa: E402

from athanor.base.errors import AthanorError  # noqa: E402
from tests.conftest import REAL_DATA  # noqa: E402
from tests.data.reading.tiny_media import png, wav  # noqa: E402

TEXTS = ["The first row.", "第二行。", "The third row."]


def table(texts=TEXTS, **more):
    return pa.table({"id": list(range(len(texts))), "text": texts, **more})


def texts_of(documents):
    return {document.source: document.text for document in documents}


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_rows_become_documents(folder, read_all, compression, kind):
    rows = pa.table({"url": ["u1", "u2", None], "text": pa.array(TEXTS).cast(kind)})
    pq.write_table(rows, folder / "t.parquet", compression=compression, row_group_size=2)
    documents, aside = read_all(folder / "t.parquet")
    assert texts_of(documents) == {f"t.parquet#{number}": text for number, text in enumerate(TEXTS, 1)}
    assert aside == {} and [document.meta.get("url") for document in documents] == ["u1", "u2", None]


def test_a_broken_row_group_is_set_aside_and_the_next_is_read(folder, read_all):
    pq.write_table(table([f"text number {n} " * 50 for n in range(400)]), folder / "t.parquet", row_group_size=100)
    data = bytearray((folder / "t.parquet").read_bytes())
    group = pq.ParquetFile(folder / "t.parquet").metadata.row_group(1).column(1)
    begin = group.dictionary_page_offset or group.data_page_offset
    data[begin : begin + group.total_compressed_size] = b"\xff" * group.total_compressed_size
    (folder / "t.parquet").write_bytes(data)
    documents, aside = read_all(folder / "t.parquet")
    numbers = [int(document.source.split("#")[1]) for document in documents]
    assert numbers == [*range(1, 101), *range(201, 401)]
    assert aside == {"t.parquet#101": "broken parquet"}


def test_what_is_no_parquet_is_set_aside(folder, read_all):
    pq.write_table(table(), folder / "good.parquet")
    (folder / "cut.parquet").write_bytes((folder / "good.parquet").read_bytes()[:-20])
    (folder / "text.parquet").write_text("no parquet at all, only a name")
    pq.write_table(pa.table({"messages": [["hi"]]}), folder / "chat.parquet")
    pq.write_table(pa.table({"text": [b"\xff\xfe", b"bytes"]}), folder / "bytes.parquet")
    pq.write_table(table([None, "x" * 3_000, " ", "good"]), folder / "rows.parquet")
    documents, aside = read_all(folder, max_line_bytes=2_000)
    assert sorted(texts_of(documents)) == ["good.parquet#1", "good.parquet#2", "good.parquet#3", "rows.parquet#4"]
    assert {source: reason.split(" (")[0] for source, reason in aside.items()} == {
        "cut.parquet": "broken parquet", "text.parquet": "broken parquet", "chat.parquet": "a conversation",
        "bytes.parquet#1": "field text is not text", "bytes.parquet#2": "field text is not text",
        "bytes.parquet": "nothing usable in it", "rows.parquet#1": "field text is not text",
        "rows.parquet#2": "row too long", "rows.parquet#3": "empty text",
    }  # fmt: skip


def test_text_that_is_no_utf8_costs_its_row_only(folder, read_all):
    broken = pa.Array.from_buffers(pa.string(), 3, pa.array([b"good", b"b\xffd", b"fine"]).buffers())
    pq.write_table(pa.table({"text": broken}), folder / "t.parquet")
    documents, aside = read_all(folder / "t.parquet")
    assert texts_of(documents) == {"t.parquet#1": "good", "t.parquet#3": "fine"}
    assert aside == {"t.parquet#2": "field text is not text"}


def test_pictures_and_sounds_in_a_column_belong_to_their_row(folder, read_all):
    """The two forms `datasets` has had for its features Image and Audio, and a plain column of bytes."""
    image, audio = {"bytes": png(5, 4), "path": "a.png"}, {"bytes": wav(0.25), "path": None}
    rows = pa.table({
        "caption": ["A picture.", "A picture and a sound.", "Text alone.", "Broken.", None, "Elsewhere."],
        "image": [image, image, None, {"bytes": b"no picture", "path": None}, image, {"bytes": None, "path": "x.png"}],
        "audio": [None, audio, None, None, None, None],
    })  # fmt: skip
    pq.write_table(rows, folder / "media.parquet")
    pq.write_table(pa.table({"text": ["Bytes."], "png": [png(2, 7)], "other": [b"x"]}), folder / "plain.parquet")
    documents, aside = read_all(folder)
    found = {document.source: document for document in documents}
    assert list(found) == ["media.parquet#1", "media.parquet#2", "media.parquet#3", "plain.parquet#1"]
    assert found["media.parquet#2"].media == (
        {"kind": "picture", "path": str(folder / "media.parquet"), "row": 1, "column": "image", "bytes": len(png(5, 4)),
         "width": 5, "height": 4},
        {"kind": "sound", "path": str(folder / "media.parquet"), "row": 1, "column": "audio", "bytes": len(wav(0.25)),
         "seconds": 0.25, "sample_rate": 8_000},
    )  # fmt: skip
    assert found["media.parquet#3"].media == () and found["plain.parquet#1"].media[0]["height"] == 7
    assert aside == {
        "media.parquet#4": "broken picture", "media.parquet#5": "a picture without words",
        "media.parquet#6": "a picture or sound that lies elsewhere",
    }  # fmt: skip


@pytest.mark.skipif(not (REAL_DATA / "multimodal" / "nlvr_test.parquet").exists(), reason="no real pictures here")
def test_a_real_set_of_pictures_and_sentences(folder, read_all):
    documents, aside = read_all(REAL_DATA / "multimodal" / "nlvr_test.parquet")
    assert len(documents) == 1_980 and aside == {}
    assert {document.media[0]["width"] for document in documents} == {400}


def write_stream(path, rows):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=2)


def save_data_set(folder, rows):
    """A folder as `datasets.Dataset.save_to_disk` lays it out (datasets 3 and 4)."""
    folder.mkdir(parents=True)
    half = rows.num_rows // 2
    write_stream(folder / "data-00000-of-00002.arrow", rows.slice(0, half))
    write_stream(folder / "data-00001-of-00002.arrow", rows.slice(half))
    files = [{"filename": f"data-{number:05}-of-00002.arrow"} for number in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_fingerprint": "x", "_split": "train"}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    write_stream(folder / "cache-0123456789abcdef.arrow", table(["a cached result"]))


def test_a_saved_data_set_is_read_without_its_cache(folder, read_all):
    save_data_set(folder / "set" / "train", table())
    save_data_set(folder / "set" / "test", table(["one", "two"]))
    (folder / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    documents, aside = read_all(folder / "set")
    assert aside == {}
    assert [document.text for document in documents] == ["one", "two", *TEXTS]
    assert documents[-1].source == "train/data-00001-of-00002.arrow#2"


def test_arrow_files_and_streams(folder, read_all):
    rows = table([f"row {number}" for number in range(100)])
    write_stream(folder / "stream.arrow", rows)
    with pa.OSFile(str(folder / "file.feather"), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    data = (folder / "stream.arrow").read_bytes()
    (folder / "cut.arrow").write_bytes(data[: len(data) // 2])
    (folder / "wrong.arrow").write_text("nothing of the kind")
    documents, aside = read_all(folder)
    by_file = {}
    for document in documents:
        by_file.setdefault(document.source.split("#")[0], []).append(document.text)
    assert by_file["stream.arrow"] == by_file["file.feather"] == [f"row {number}" for number in range(100)]
    kept = by_file["cut.arrow"]
    assert 20 < len(kept) < 100 and kept == [f"row {number}" for number in range(len(kept))]
    assert aside == {"cut.arrow": "broken arrow file", "wrong.arrow": "broken arrow file"}


def test_without_pyarrow_the_error_says_what_to_install(folder, read_all, monkeypatch):
    pq.write_table(table(), folder / "t.parquet")
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(AthanorError) as caught:
        read_all(folder)
    assert "athanor[parquet]" in caught.value.fix
