import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.base.records import read_records
from athanor.data.reading.read import ReadSettings, fingerprint, read_documents
from athanor.data.reading.rows import bounded_lines
from athanor.data.shards import read_shards

NOTE = "A note about the garden: the roses have come out and the bees are busy among them.\n"
CHINESE = "今天天气很好，我们去公园看花，孩子们在草地上跑来跑去，大家都很高兴。\n"


@pytest.fixture
def read(run_step):
    """(texts by source, set-aside reasons by source, artifact) of a path."""

    def run(path: Path | str, **settings):
        artifact = run_step(read_documents, ReadSettings(path=str(path), **settings))
        documents = list(read_shards(artifact, "documents"))
        aside = {row["source"]: row["reason"] for row in read_records(artifact.file("set_aside.jsonl"))}
        assert len({document.id for document in documents}) == len(documents)
        return {document.source: document.text for document in documents}, aside, artifact

    return run


def make_pdf(path: Path, pages: list[list[str]]) -> None:
    """A small valid PDF with lines of Helvetica, written by hand."""
    objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    kids = []
    for lines in pages:
        shown = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
        content = f"BT /F1 12 Tf 72 720 Td {shown} ET".encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 %s >> >> >>" % (len(objects), font)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    out = io.BytesIO(b"")
    out.write(b"%PDF-1.4\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.writelines(b"%010d 00000 n \n" % place for place in places)
    out.write(b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start))
    path.write_bytes(out.getvalue())


def test_a_folder_of_mixed_files(tmp_path, read):
    folder = tmp_path / "mixed"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text(NOTE)
    (folder / "b.md").write_text("# 花园\n\n" + CHINESE, encoding="gb18030")
    (folder / "c.html").write_text(f"<html><nav>menu</nav><p>{NOTE}</p><script>x()</script></html>")
    rows = [{"text": NOTE}, {"content": CHINESE}, {"body": NOTE}]
    (folder / "d.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    packed = zstandard.compress(NOTE.encode()) + zstandard.compress(CHINESE.encode())  # two frames, one file
    (folder / "sub" / "e.TXT.zst").write_bytes(packed)
    make_pdf(folder / "f.pdf", [["The first page is about an exam-", "ple of hyphens."], ["The second page."]])
    texts, aside, artifact = read(folder)
    assert aside == {}
    assert texts == {
        "a.txt": NOTE, "b.md": "# 花园\n\n" + CHINESE, "c.html": NOTE.strip(),
        "d.jsonl.gz#1": NOTE, "d.jsonl.gz#2": CHINESE, "d.jsonl.gz#3": NOTE, "sub/e.TXT.zst": NOTE + CHINESE,
        "f.pdf": "The first page is about an example of hyphens.\n\nThe second page.",
    }  # fmt: skip
    assert artifact.measurements["files_read"] == 6
    files = read_json(artifact.file("funnel.json"))[0]
    assert (files["in"], files["out"]) == (6, 6)


def test_an_encrypted_pdf_is_set_aside(tmp_path, read):
    folder = tmp_path / "pdf"
    folder.mkdir()
    make_pdf(folder / "locked.pdf", [["Secret words."]])
    locked = (folder / "locked.pdf").read_bytes()
    key = b"<< /Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P -4 >>" % (b"11" * 32, b"22" * 32)
    (folder / "locked.pdf").write_bytes(locked.replace(b"/Root 1 0 R", b"/Root 1 0 R /ID [<00> <00>] /Encrypt " + key))
    (folder / "note.txt").write_text(NOTE)
    texts, aside, _ = read(folder)
    assert list(texts) == ["note.txt"] and aside == {"locked.pdf": "encrypted PDF"}


def test_everything_unusable_is_set_aside_with_its_reason(tmp_path, read):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "good.txt").write_text(NOTE)
    (folder / "binary.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 50)
    (folder / "broken.txt").write_bytes(CHINESE.encode() + b"\xff" + CHINESE.encode())
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.md").write_text(" \n\n\t\n")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4\nnot really")
    (folder / "menu.html").write_text("<html><nav>home</nav></html>")
    (folder / "photo.jpeg").write_bytes(b"\xff\xd8\xff")
    (folder / "cut.txt.gz").write_bytes(gzip.compress(os.urandom(5_000).hex().encode())[:-600])
    (folder / "wrong.jsonl.zst").write_bytes(b"this is no zstd frame")
    (folder / "dangling.txt").symlink_to(folder / "nowhere")
    texts, aside, artifact = read(folder)
    assert texts == {"good.txt": NOTE}
    assert aside == {
        "binary.txt": "binary file", "broken.txt": "broken UTF-8", "empty.txt": "empty file", "blank.md": "empty text",
        "broken.pdf": "broken PDF", "menu.html": "no text in the page", "photo.jpeg": "a picture without words",
        "cut.txt.gz": "broken or truncated compression", "wrong.jsonl.zst": "broken or truncated compression",
        "dangling.txt": "broken link",
    }  # fmt: skip
    files = read_json(artifact.file("funnel.json"))[0]
    assert files["in"] == files["out"] + sum(reason["count"] for reason in files["reasons"].values()) == 11


def test_bad_rows_are_named_by_line_and_the_others_stay(tmp_path, read):
    lines = [
        b'{"text": "first good row"}', b"{broken", b'["a list"]', b'{"title": "no text"}', b'{"text": 5}', b"",
        b'{"messages": [{"role": "user", "content": "hi"}]}', b'{"text": "\xff"}', b'{"text": "  "}',
        b'{"text": "' + b"x" * 5_000 + b'"}', b'{"text": "half \\ud800 pair"}', b'{"text": "last good row"}',
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    texts, aside, _ = read(tmp_path / "rows.jsonl", max_line_bytes=1_000)
    assert texts == {"rows.jsonl#1": "first good row", "rows.jsonl#12": "last good row"}
    assert {source: reason.split(" (")[0] for source, reason in aside.items()} == {
        "rows.jsonl#2": "not JSON", "rows.jsonl#3": "not a JSON object",
        "rows.jsonl#4": "no field text or content or body", "rows.jsonl#5": "field text is not text",
        "rows.jsonl#7": "a conversation", "rows.jsonl#8": "broken UTF-8", "rows.jsonl#9": "empty text",
        "rows.jsonl#10": "line too long", "rows.jsonl#11": "half of a surrogate pair in the text",
    }  # fmt: skip


def test_the_text_field_can_be_named(tmp_path, read):
    (tmp_path / "rows.jsonl").write_text('{"text": "not this", "story": "but this"}\n')
    texts, _, _ = read(tmp_path / "rows.jsonl", text_field="story")
    assert list(texts.values()) == ["but this"]


def test_a_long_file_becomes_documents_that_join_to_the_file(tmp_path, read):
    text = (NOTE * 3 + "\n" + CHINESE) * 200
    (tmp_path / "long.txt").write_text(text)
    texts, _, _ = read(tmp_path / "long.txt", max_document_bytes=5_000)
    assert "".join(texts.values()) == text
    assert list(texts)[:2] == ["long.txt#1", "long.txt#2"]
    assert max(len(part.encode()) for part in texts.values()) <= 5_000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_devices_links_and_hidden_files_are_survived(tmp_path, read):
    folder = tmp_path / "odd"
    (folder / "inner" / ".git").mkdir(parents=True)
    (folder / "inner" / "a.txt").write_text(NOTE)
    (folder / "inner" / ".hidden.txt").write_text("secret")
    (folder / "inner" / ".git" / "config.txt").write_text("secret")
    os.mkfifo(folder / "pipe.txt")
    (folder / "null.txt").symlink_to("/dev/zero")
    (folder / "inner" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self").symlink_to(folder / "self")
    (folder / "twice.txt").symlink_to(folder / "inner" / "a.txt")
    texts, aside, _ = read(folder)
    assert list(texts.values()) == [NOTE]
    assert aside["pipe.txt"] == aside["null.txt"] == "not a file (pipe, socket or device)"
    assert aside["self"] == "broken link"


@pytest.mark.parametrize(
    "name", ["new\nline.txt", "\u202egnol.txt", "🙂🙃.txt", "é" * 125 + ".txt", " .txt", "a#b.txt"]
)
def test_strange_names_work(tmp_path, read, name):
    folder = tmp_path / "names"
    folder.mkdir()
    (folder / name).write_text(NOTE)
    texts, _, _ = read(folder)
    assert texts == {name: NOTE}


def test_a_name_that_is_no_utf8_is_shown_in_escapes(tmp_path, read):
    folder = tmp_path / "names"
    folder.mkdir()
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xe9t\xe9.txt")).write_text(NOTE)
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    texts, _, _ = read(folder)
    assert texts == {"\\xe9t\\xe9.txt": NOTE}


def test_an_unreadable_file_is_set_aside(tmp_path, read, monkeypatch):
    """Root may read everything, so the refusal is played by `open` itself."""
    (tmp_path / "a.txt").write_text(NOTE)
    (tmp_path / "locked.txt").write_text(NOTE)
    real = open

    def refuse(path, *rest, **named):
        if str(path).endswith("locked.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **named)

    monkeypatch.setattr("builtins.open", refuse)
    (tmp_path / "x").mkdir()
    texts, aside, _ = read(str(tmp_path / "*.txt"))
    assert list(texts) == ["a.txt"]
    assert aside == {"locked.txt": "cannot be opened: Permission denied"}


@pytest.mark.parametrize("shrink", [True, False])
def test_a_file_that_changes_while_it_is_read_does_not_stop_the_run(tmp_path, read, monkeypatch, shrink):
    import athanor.data.reading.readers as readers

    path = tmp_path / "moving.txt"
    path.write_text(NOTE * 10)
    real = readers.find_encoding

    def then_change(open_file):
        encoding = real(open_file)
        path.write_bytes(b"" if shrink else b"\xff\xff" * 9)
        return encoding

    monkeypatch.setattr(readers, "find_encoding", then_change)
    (tmp_path / "z.md").write_text(NOTE)
    monkeypatch.setattr(readers, "find_encoding", lambda f: then_change(f) if path.stat().st_size > 100 else real(f))
    texts, aside, _ = read(tmp_path)
    assert list(texts) == ["z.md"]
    assert aside["moving.txt"] in ("changed while it was read", "nothing usable in it")


def test_a_pattern_reads_its_matches_once(tmp_path, read):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "one.md").write_text(NOTE)
    (tmp_path / "a" / "deep" / "two.md").write_text(CHINESE)
    (tmp_path / "a" / "three.txt").write_text(CHINESE)
    texts, _, _ = read(str(tmp_path / "a" / "**" / "*.md"))
    assert sorted(texts) == ["deep/two.md", "one.md"]


@pytest.mark.parametrize("make", ["nothing", "empty", "useless"])
def test_nothing_to_read_says_what_was_found_and_what_is_allowed(tmp_path, run_step, make):
    folder = tmp_path / "f"
    if make != "nothing":
        folder.mkdir()
    if make == "useless":
        (folder / "a.mp4").write_bytes(b"x")
        (folder / "b.mp4").write_bytes(b"x")
    with pytest.raises(AthanorError) as caught:
        run_step(read_documents, ReadSettings(path=str(folder)))
    assert {"nothing": "there is nothing at", "empty": "is empty", "useless": "kind not read: .mp4 (2)"}[make] in str(
        caught.value
    )
    assert ".md" in caught.value.allowed and caught.value.fix


def test_max_bytes_stops_early(tmp_path, read):
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text(NOTE)
    texts, _, artifact = read(tmp_path, max_bytes=3 * len(NOTE))
    assert list(texts) == ["00.txt", "01.txt", "02.txt"]
    assert artifact.measurements["stopped_at_max_bytes"]


def test_the_fingerprint_follows_names_and_contents(tmp_path):
    settings = ReadSettings(path=str(tmp_path))
    (tmp_path / "a.txt").write_text("one")
    first = fingerprint(settings)
    assert fingerprint(settings) == first
    (tmp_path / "a.txt").write_text("two")
    second = fingerprint(settings)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert len({first, second, fingerprint(settings)}) == 3


def test_reading_twice_gives_the_same_bytes(tmp_path, run_step):
    folder = tmp_path / "f"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(NOTE * number + CHINESE)
    one, two = (run_step(read_documents, ReadSettings(path=str(folder))) for _ in range(2))
    assert one.record["files"] == two.record["files"]


def test_lines_are_bounded():
    stream = io.BytesIO(b"ab\n" + b"x" * 100 + b"\ncd\n" + b"y" * 11 + b"\n" + b"z" * 50)
    assert list(bounded_lines(stream, 10)) == [(1, b"ab\n"), (2, None), (3, b"cd\n"), (4, None), (5, None)]


# VmHWM and not ru_maxrss: that one begins at the memory of the process which started this one.
READ_IN_CHILD = """
import sys
from pathlib import Path
from athanor.base.progress import SilentProgress
from athanor.data.reading.read import ReadSettings, read_documents
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
print(read_documents(ReadSettings(path=sys.argv[1]), {}, Path(sys.argv[2]), SilentProgress())["text_bytes"])
print((peak() - before) // 1024)
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


@needs_proc
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_single_line_of_100_megabytes_is_read_in_bounded_memory(tmp_path, kind):
    path = tmp_path / f"line.{kind}"
    block = ("word " * 200_000 + "汉字").encode()  # a megabyte without a line end
    with open(path, "wb") as file:
        file.write(b'{"text": "' if kind == "jsonl" else b"")
        for _ in range(100):
            file.write(block)
        file.write(b'"}\n{"text": "the next row"}\n' if kind == "jsonl" else b"")
    out = tmp_path / "out"
    out.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", READ_IN_CHILD, str(path), str(out)], capture_output=True, text=True, check=True
    )
    text_bytes, megabytes = map(int, result.stdout.split())
    assert text_bytes == (len("the next row") if kind == "jsonl" else 100 * len(block))
    assert megabytes < 80, f"{megabytes} MB for a file of 100"


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_a_single_line_of_4_gigabytes_is_survived(tmp_path, kind):
    """Compressed on disk, so that 4 MB become 4.3 GB of one line."""
    path, out = tmp_path / f"line.{kind}.gz", tmp_path / "out"
    begin, end = {"txt": (b"", b""), "jsonl": (b'{"text": "', b'"}\n{"text": "next"}'), "csv": (b"text\n", b"\nnext")}[
        kind
    ]
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(begin)
        for _ in range(4_300):
            file.write(b"word " * 200_000)
        file.write(end)
    out.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", READ_IN_CHILD, str(path), str(out)], capture_output=True, text=True, check=True
    )
    text_bytes, megabytes = map(int, result.stdout.split())
    assert text_bytes == (4_300_000_000 if kind == "txt" else 4)
    assert megabytes < 120
