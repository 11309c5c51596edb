"""Tar archives: WebDataset's samples and plain folders of files, whole and damaged."""

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import zstandard

from tests.data.reading.tiny_media import png, wav


def make_tar(members: dict[str, bytes], mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return out.getvalue()


PACKERS = {
    ".tar": bytes, ".tar.gz": gzip.compress, ".tgz": gzip.compress, ".tar.zst": zstandard.compress,
    ".tar.xz": lzma.compress, ".tar.bz2": bz2.compress,
}  # fmt: skip
SAMPLES = {
    "a/000.png": png(4, 3), "a/000.txt": b"The first picture.", "a/001.json": '{"text": "第二"}'.encode(),
    "a/001.png": png(), "a/002.wav": wav(), "a/002.json": b'{"text": "not this"}', "a/002.txt": b"hello",
    "a/003.png": png(), "b/003.txt": b"A text of its own.", "rows.jsonl": b'{"text": "row one"}\n{"text": "row two"}\n',
    "c/.hidden.txt": b"secret", "c/page.x.html": b"<p>A page.</p>", "c/page.y.html": b"<p>Another page.</p>",
    "d/x.json": b"{}", "d/model.bin": b"\0", "d/inner.tar": make_tar({"x.txt": b"x"}), "d/empty.txt": b"",
    "long" * 60 + ".txt": b"A long name.", "d/big.txt": b"word " * 300_000,
}  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("suffix", PACKERS)
def test_members_are_read_as_samples_or_files(folder, read_all, suffix, form):
    members = dict(SAMPLES)
    if form == tarfile.USTAR_FORMAT:
        members.pop("long" * 60 + ".txt")
    data = make_tar(members, form=form)
    name = f"shard{suffix}"
    (folder / name).write_bytes(PACKERS[suffix](data))
    documents, aside = read_all(folder / name, max_document_bytes=2_000_000)
    texts = {document.source.removeprefix(f"{name}/"): document.text for document in documents}
    assert texts.pop("d/big.txt") == "word " * 300_000
    assert texts.pop("long" * 60 + ".txt", "A long name.") == "A long name."
    assert texts == {
        "a/000": "The first picture.", "a/001": "第二", "a/002": "hello", "b/003.txt": "A text of its own.",
        "rows.jsonl#1": "row one", "rows.jsonl#2": "row two", "c/page.x.html": "A page.",
        "c/page.y.html": "Another page.",
    }  # fmt: skip
    assert {source.removeprefix(f"{name}/"): reason for source, reason in aside.items()} == {
        "a/003": "a picture without words", "d/x.json#1": "no field text or content or body",
        "d/model.bin": "kind not read: .bin", "d/inner.tar": "an archive inside an archive",
        "d/empty.txt": "empty file",
    }  # fmt: skip
    reference = dict(documents[0].media[0])
    offset = reference.pop("offset", None)
    assert reference == {
        "kind": "picture", "path": str(folder / name), "member": "a/000.png", "bytes": len(png(4, 3)),
        "width": 4, "height": 3,
    }  # fmt: skip
    assert (offset is None) == (suffix != ".tar")
    if offset is not None:
        assert data[offset : offset + len(png(4, 3))] == png(4, 3)


def test_damage_is_told_and_what_stands_before_it_stays(folder, read_all):
    whole = make_tar({f"{number:03}.txt": f"Text number {number}.".encode() for number in range(100)})
    damaged = bytearray(whole)
    damaged[1024 * 50 : 1024 * 50 + 300] = b"\xff" * 300  # the header of member 50
    (folder / "damaged.tar").write_bytes(damaged)
    (folder / "cut.tar").write_bytes(whole[: 1024 * 60 + 700])
    (folder / "cut.tar.gz").write_bytes(gzip.compress(whole)[:-300])
    (folder / "no-end.tar").write_bytes(whole[: 1024 * 100])
    (folder / "text.tar").write_text("no archive " * 200)
    documents, aside = read_all(folder)
    counts = {}
    for document in documents:
        counts[document.source.split("/")[0]] = counts.get(document.source.split("/")[0], 0) + 1
    assert counts.pop("cut.tar.gz", 0) < 100
    assert counts == {"damaged.tar": 50, "cut.tar": 61, "no-end.tar": 100}
    assert aside == {
        "damaged.tar": "broken or truncated archive", "cut.tar": "broken or truncated archive",
        "cut.tar.gz": "broken or truncated compression", "text.tar": "broken or truncated archive",
    }  # fmt: skip


def test_links_and_devices_are_not_followed(folder, read_all):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind in (("link.txt", tarfile.SYMTYPE), ("null.txt", tarfile.CHRTYPE), ("dir.txt", tarfile.DIRTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            archive.addfile(header)
        for name in ("../../outside.txt", "inside.txt"):
            header = tarfile.TarInfo(name)
            header.size = 5
            archive.addfile(header, io.BytesIO(b"words"))
    (folder / "x.tar").write_bytes(out.getvalue())
    documents, aside = read_all(folder)
    assert aside["x.tar/link.txt"] == aside["x.tar/null.txt"] == "not a file (link or device)"
    assert aside["x.tar/../../outside.txt"] == "a name that leads out of the archive"
    assert [document.source for document in documents] == ["x.tar/inside.txt"]


def make_zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_is_read_as_its_files_are_in_a_tar(folder, read_all, method):
    members = {**SAMPLES, "d/inner.zip": make_zip({"x.txt": b"x"}), "笔记/第 一 篇.txt": "今天天气很好。".encode()}
    read = {}
    for name, data in (("x.tar", make_tar(dict(sorted(members.items())))), ("x.zip", make_zip(members, method))):
        (folder / name).write_bytes(data)
        documents, aside = read_all(folder / name, max_document_bytes=2_000_000)
        texts = {document.source.removeprefix(f"{name}/"): document.text for document in documents}
        sizes = [[(one["member"], one["bytes"]) for one in document.media] for document in documents]
        read[name] = texts, sizes, {source.removeprefix(f"{name}/"): reason for source, reason in aside.items()}
        (folder / name).unlink()
    assert read["x.zip"] == read["x.tar"]
    assert read["x.zip"][0]["笔记/第 一 篇.txt"] == "今天天气很好。"


def test_a_zip_from_chinese_windows_has_its_names(folder, read_all):
    data = make_zip({"AAAAAAAA.txt": "今天天气很好。".encode(), "caf\u00e9.txt": b"words"})
    name = "我的笔记".encode("gb18030")
    assert len(name) == len("AAAAAAAA")
    (folder / "x.zip").write_bytes(data.replace(b"AAAAAAAA", name))
    documents, aside = read_all(folder / "x.zip")
    assert {document.source for document in documents} == {"x.zip/我的笔记.txt", "x.zip/café.txt"} and not aside


def test_zips_that_are_hostile_or_damaged(folder, read_all):
    good = {f"{number:02}.txt": f"Text number {number}. ".encode() * 50 for number in range(9)}
    (folder / "bomb.zip").write_bytes(make_zip({**good, "zeros.txt": bytes(80_000_000)}))
    (folder / "bombs.zip").write_bytes(make_zip({f"{number}.txt": bytes(10_000_000) for number in range(8)}))
    (folder / "out.zip").write_bytes(
        make_zip({"../../out.txt": b"words", "/etc/x.txt": b"words", "a\\..\\b.txt": b"x", "in.txt": b"words"})
    )
    whole = make_zip(good)
    (folder / "cut.zip").write_bytes(whole[:-100])
    place = whole.index(b"03.txt") + len(b"03.txt") + 5
    (folder / "one.zip").write_bytes(whole[:place] + b"\xff\xff\xff" + whole[place + 3 :])
    flags, method = whole.index(b"PK\x01\x02") + 8, whole.index(b"PK\x01\x02") + 10  # of the first file
    (folder / "locked.zip").write_bytes(whole[:flags] + b"\x01" + whole[flags + 1 :])
    (folder / "strange.zip").write_bytes(whole[:method] + b"\x09" + whole[method + 1 :])
    (folder / "text.zip").write_text("no archive " * 200)
    documents, aside = read_all(folder)
    counts = Counter(document.source.split("/")[0] for document in documents)
    assert counts == {"out.zip": 1, "one.zip": 8, "locked.zip": 8, "strange.zip": 8}
    leads = "a name that leads out of the archive"
    assert aside == {
        "bomb.zip": "archive unpacks to too much", "bombs.zip": "archive unpacks to too much",
        "out.zip/../../out.txt": leads, "out.zip//etc/x.txt": leads, "out.zip/a\\..\\b.txt": leads,
        "cut.zip": "broken or truncated archive", "text.zip": "broken or truncated archive",
        "one.zip/03.txt": "broken or unusual compression", "locked.zip/00.txt": "encrypted file",
        "strange.zip/00.txt": "broken or unusual compression",
    }  # fmt: skip


def test_a_tar_that_is_a_bomb_is_refused_before_it_is_unpacked(folder, read_all):
    (folder / "bomb.tar.gz").write_bytes(gzip.compress(make_tar({"a.txt": b"words", "b.txt": bytes(80_000_000)}), 9))
    documents, aside = read_all(folder)
    assert [document.text for document in documents] == ["words"]
    assert aside == {"bomb.tar.gz": "archive unpacks to too much"}


READ_IN_CHILD = """
import sys
from athanor.data.reading.items import ReadLimits
from athanor.data.reading.readers import read_file
from athanor.data.reading.sources import find_sources
file = next(find_sources(sys.argv[1]))
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
limits = ReadLimits(max_document_bytes=1_000_000, max_line_bytes=16_000_000)
seen = 0
for item in read_file(file, limits):
    assert item.text, item
    seen += 1
    if seen == 1_000:
        before = peak()
print(seen, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("files", [8_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number_of_files(folder, files):
    """tarfile alone keeps 0.4 kB for each: 3 MB and 400 MB."""
    with tarfile.open(folder / "many.tar", "w") as archive:
        for number in range(files):
            header = tarfile.TarInfo(f"{number:07}.txt")
            data = f"Text number {number}.".encode()
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
            archive.members.clear()
    done = subprocess.run(
        [sys.executable, "-c", READ_IN_CHILD, str(folder / "many.tar")], capture_output=True, text=True, check=True
    )
    seen, kilobytes = map(int, done.stdout.split())
    assert seen == files and kilobytes < 2_000 + files // 200
