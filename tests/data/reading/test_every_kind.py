"""A folder with a file of every kind; and each of them cut short and damaged at random: reading never stops."""

import bz2
import gzip
import json
import lzma
import random
import tarfile

import pytest
import zstandard

from athanor.data.reading.items import ReadLimits, SetAside
from athanor.data.reading.kinds import KINDS
from athanor.data.reading.readers import READERS, read_file
from athanor.data.reading.sources import find_sources
from tests.data.reading.test_archive import make_tar, make_zip
from tests.data.reading.test_packages import chapter, docx, epub, paragraph, write_zip
from tests.data.reading.test_read import NOTE, make_pdf
from tests.data.reading.test_warc import record, response
from tests.data.reading.tiny_media import png, wav

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (athanor[parquet])")
import pyarrow.parquet as pq  # noqa: E402

LIMITS = ReadLimits(max_document_bytes=1_000_000, max_line_bytes=1_000_000)


@pytest.fixture
def every(folder):
    """One file of every kind that is read, by its name without the ending: "a"."""
    texts = [f"{NOTE}{number}" for number in range(20)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (folder / "a.txt").write_text(NOTE * 20)
    (folder / "a.md.gz").write_bytes(gzip.compress(f"# Head\n\n{NOTE}".encode()))
    (folder / "a.html").write_text(f"<html><title>T</title><p>{NOTE}</p></html>")
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    (folder / "a.json").write_text(json.dumps([{"text": text} for text in texts], indent=1))
    (folder / "a.jsonl.xz").write_bytes(lzma.compress(lines) + bytes(8) + lzma.compress(lines))
    (folder / "a.jsonl.bz2").write_bytes(bz2.compress(lines) + bz2.compress(lines))
    (folder / "a.csv").write_text("text,n\n" + "".join(f'"{text.strip()}",1\n' for text in texts))
    table = pa.table({"text": texts})
    pq.write_table(table, folder / "a.parquet", row_group_size=5)
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    with pa.OSFile(str(folder / "a.feather"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    (folder / "a.warc.gz").write_bytes(b"".join(gzip.compress(record(response(text))) for text in texts))
    make_pdf(folder / "a.pdf", [["The first page."], ["The second page."]])
    write_zip(folder / "a.epub", epub({"one": chapter(f"<p>{NOTE}</p>")}))
    write_zip(folder / "a.docx", docx(paragraph(NOTE)))
    samples = {"0.png": png(), "0.txt": b"words", "x.txt": NOTE.encode(), "rows.jsonl": lines}
    (folder / "a.tar").write_bytes(make_tar(samples, form=tarfile.PAX_FORMAT))
    (folder / "a.zip").write_bytes(make_zip(samples))
    for name, data in (("picture.png", png()), ("sound.wav", wav())):
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text("Words.")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.png").write_bytes(png())
    (folder / "sub" / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "Words."}\n')
    return folder


def test_a_folder_with_every_kind(every, read_all):
    documents, aside = read_all(every)
    assert aside == {}
    read = {document.source.split("#")[0].removesuffix("/0").removesuffix("/x.txt") for document in documents}
    assert read >= {path.name for path in every.glob("*.*") if path.name not in ("picture.txt", "sound.txt")}
    assert set(KINDS.values()) | {"captions"} == set(READERS)


@pytest.mark.parametrize("rounds", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_damage_of_any_kind_is_set_aside_and_never_raised(every, rounds):
    chance = random.Random(4)
    for path in sorted(every.glob("*.*")):
        whole = path.read_bytes()
        for number in range(rounds):
            data = bytearray(whole)
            if number % 2:
                del data[chance.randrange(1, len(data)) :]
            else:
                for _ in range(chance.choice([1, 5, 50])):
                    data[chance.randrange(len(data))] = chance.randrange(256)
            path.write_bytes(data)
            for file in find_sources(str(path)):
                for item in read_file(file, LIMITS):
                    assert isinstance(item, SetAside) or item.text
        path.write_bytes(whole)
