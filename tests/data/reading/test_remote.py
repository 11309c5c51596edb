"""Addresses: fsspec's file systems in memory and in a ZIP archive, and a web server of this process."""

import functools
import http.server
import json
import socket
import threading
import zipfile

import pytest

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (athanor[remote])")

from athanor.base.errors import AthanorError  # noqa: E402
from athanor.data.reading.read import ReadSettings, fingerprint  # noqa: E402
from tests.data.reading.tiny_media import png  # noqa: E402

FILES = {
    "a.txt": b"Plain text.", "sub/rows.jsonl": b'{"text": "row one"}\n{"text": "row two"}\n',
    "sub/.hidden.txt": b"secret",
    "pictures/metadata.jsonl": b'{"file_name": "in/x.png", "text": "A picture."}\n', "pictures/in/x.png": png(4, 3),
    "pictures/in/y.png": png(), "cat.png": png(5, 6), "cat.txt": b"A cat.", "empty.md": b"", "data.bin": b"\0",
}  # fmt: skip
TEXTS = {
    "a.txt": "Plain text.", "cat.png": "A cat.", "pictures/metadata.jsonl#1": "A picture.",
    "sub/rows.jsonl#1": "row one", "sub/rows.jsonl#2": "row two",
}  # fmt: skip
ASIDE = {"empty.md": "empty file", "data.bin": "kind not read: .bin", "in/y.png": "a picture without words"}


@pytest.fixture
def in_memory(request):
    system = fsspec.filesystem("memory")
    root = f"/{request.node.name}"
    for name, data in FILES.items():
        system.pipe_file(f"{root}/{name}", data)
    yield f"memory:/{root}"
    system.rm(root, recursive=True)


def test_a_folder_at_an_address(in_memory, read_all):
    documents, aside = read_all(in_memory)
    assert {document.source: document.text for document in documents} == TEXTS and aside == ASIDE
    media = {document.source: document.media[0] for document in documents if document.media}
    assert media["cat.png"]["width"] == 5
    for name, picture in (("cat.png", "cat.png"), ("pictures/metadata.jsonl#1", "pictures/in/x.png")):
        with fsspec.open(media[name]["path"]) as file:
            assert file.read() == FILES[picture]


def test_a_file_and_a_pattern_at_an_address(in_memory, read_all):
    assert [document.source for document in read_all(f"{in_memory}/a.txt")[0]] == ["a.txt"]
    assert [document.source for document in read_all(f"{in_memory}/*.txt")[0]] == ["a.txt", "cat.txt"]


def test_the_fingerprint_of_an_address_follows_its_contents(in_memory):
    settings = ReadSettings(path=in_memory)
    first = fingerprint(settings)
    assert fingerprint(settings) == first
    fsspec.filesystem("memory").pipe_file(in_memory.removeprefix("memory:/") + "/a.txt", b"Other words")
    assert fingerprint(settings) != first


def test_files_in_a_zip_archive(folder, read_all):
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    documents, aside = read_all(f"zip://::{folder}/all.zip")
    assert {document.source: document.text for document in documents} == TEXTS and aside == ASIDE
    path = next(document for document in documents if document.media).media[0]["path"]
    with fsspec.open(path) as file:
        assert file.read() == FILES["cat.png"]


def test_a_damaged_zip_archive(folder, read_all):
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        archive.writestr("a.txt", "Plain text.")
        archive.writestr("b.txt", "Other text.")
        archive.writestr("c.txt", "Locked text.")
    data = bytearray((folder / "all.zip").read_bytes())
    data[data.index(b"Other text.")] ^= 1
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flag "encrypted" of the last
        data[data.rindex(mark) + at] |= 1
    (folder / "all.zip").write_bytes(data)
    documents, aside = read_all(f"zip://::{folder}/all.zip")
    assert [document.source for document in documents] == ["a.txt"]
    assert aside == {"b.txt": "broken or truncated compression", "c.txt": "encrypted or unusual archive"}
    (folder / "cut.zip").write_bytes(data[:-30])
    with pytest.raises(AthanorError, match="cannot be opened"):
        read_all(f"zip://::{folder}/cut.zip")


@pytest.fixture
def server(folder):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed (athanor[remote])")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_files_of_a_web_server(folder, read_all, server):
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(3)))
    documents, aside = read_all(f"{server}/rows.jsonl")
    assert [(document.source, document.text) for document in documents] == [
        (f"rows.jsonl#{n + 1}", f"row {n}") for n in range(3)
    ]
    assert aside == {}
    (folder / "page.txt").write_text("A text.")
    assert read_all(f"{server}/page.txt?signature=x.y")[0][0].text == "A text."
    with pytest.raises(AthanorError, match="cannot be reached: 404"):
        read_all(f"{server}/gone.jsonl")


@pytest.mark.parametrize(
    "address, said", [("memory://nowhere/x", "there is nothing at"), ("nonsense://a/b", "cannot be opened"),
                      ("http://127.0.0.1:9/x.txt", "cannot be reached")],
)  # fmt: skip
def test_what_cannot_be_reached_is_explained(read_all, address, said):
    with pytest.raises(AthanorError, match=said):
        read_all(address)


def test_no_socket_is_opened_for_a_local_path(folder, read_all, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    documents, aside = read_all(folder)
    assert {document.source: document.text for document in documents} == TEXTS and aside == ASIDE
