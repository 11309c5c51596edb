"""Tar archives: WebDataset's samples and plain folders of files, whole and damaged."""

import gzip
import io
import subprocess
import sys
import tarfile
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


PACKERS = {".tar": bytes, ".tar.gz": gzip.compress, ".tgz": gzip.compress, ".tar.zst": zstandard.compress}
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
        "a/003": "a picture without words", "d/x.json": "kind not read: .json", "d/model.bin": "kind not read: .bin",
        "d/inner.tar": "an archive inside an archive", "d/empty.txt": "empty file",
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
        header = tarfile.TarInfo("../../outside.txt")
        header.size = 5
        archive.addfile(header, io.BytesIO(b"words"))
    (folder / "x.tar").write_bytes(out.getvalue())
    documents, aside = read_all(folder)
    assert aside["x.tar/link.txt"] == aside["x.tar/null.txt"] == "not a file (link or device)"
    assert not documents or documents[0].text == "words"


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
