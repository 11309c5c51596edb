"""Web archives: records made here byte by byte, and real crawls."""

import gzip
import io
import tarfile
import tracemalloc

import pytest
import zstandard

from athanor.data.reading.pages import LARGEST_PAGE
from athanor.data.reading.warc import read_records
from tests.conftest import REAL_DATA

PAGE = "<html><head><title>{title}</title></head><body><nav><a href='/'>Home</a></nav><p>{text}</p></body></html>"
TEXT = "The garden is full of roses in June, and the bees are busy among them from morning to evening. "


def record(body: bytes, kind: str = "response", url: str = "http://a.example/", content="application/http", size=None):
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-01T00:00:00Z\r\n"
    stated = len(body) if size is None else size
    return f"{head}Content-Type: {content}\r\nContent-Length: {stated}\r\n\r\n".encode() + body + b"\r\n\r\n"


def response(text: str, headers: str = "Content-Type: text/html", status: str = "200 OK", encoding="utf-8", pack=bytes):
    page = pack(PAGE.format(title="T", text=text).encode(encoding))
    return f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + page


def chunked(data: bytes) -> bytes:
    chunks = [data[start : start + 100] for start in range(0, len(data), 100)]
    return b"".join(b"%x;x=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def read_archive(folder, read_all, data, name="crawl.warc"):
    (folder / name).write_bytes(data)
    (folder / "note.txt").write_text("A note beside the archive.")
    documents, aside = read_all(folder)
    return {document.source: document for document in documents if document.source != "note.txt"}, aside


@pytest.mark.parametrize("pack", [bytes, lambda data: b"".join(map(gzip.compress, [data[:900], data[900:]]))])
def test_pages_come_with_their_address(folder, read_all, pack):
    data = record(b"software: x", "warcinfo", content="application/warc-fields")
    data += record(b"GET / HTTP/1.1\r\n\r\n", "request") + record(response(TEXT), url="<http://b.example/x>")
    data += record(TEXT.encode(), "conversion", content="text/plain")
    name = "crawl.warc" if pack is bytes else "crawl.warc.gz"
    found, aside = read_archive(folder, read_all, pack(data), name)
    assert aside == {} and list(found) == [f"{name}#3", f"{name}#4"]
    page, plain = found.values()
    assert page.text == TEXT.strip() and plain.text == TEXT
    assert page.meta == {"kind": "page", "title": "T", "url": "http://b.example/x", "date": "2024-05-01T00:00:00Z"}


@pytest.mark.parametrize(
    "body",
    [
        response("汉字与花园。" * 20, "Content-Type: text/html; charset=GBK", encoding="gbk"),
        response("汉字与花园。" * 20, "Content-Type: text/html\r\nContent-Encoding: gzip", pack=gzip.compress),
        response("汉字与花园。" * 20, "content-type: text/html\r\ntransfer-encoding:\r\n chunked", pack=chunked),
        response(
            "汉字与花园。" * 20, "Content-Type: text/html\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip",
            pack=lambda page: chunked(gzip.compress(page)),
        ),
        response("汉字与花园。" * 20, "Content-Type: text/html\r\nTransfer-Encoding: chunked"),  # stored decoded
        response("汉字与花园。" * 20, "Content-Type: text/html\r\nContent-Encoding: gzip"),
        response("汉字与花园。" * 20, "Server: x"),  # no Content-Type
    ],
)  # fmt: skip
def test_a_body_is_decoded_as_its_headers_say(folder, read_all, body):
    found, aside = read_archive(folder, read_all, record(body))
    assert [page.text for page in found.values()] == ["汉字与花园。" * 20] and aside == {}


def test_what_is_no_page_is_set_aside_with_its_reason(folder, read_all):
    bomb = gzip.compress(b"<p>" + b"0" * 70_000_000)
    bodies = [
        response("x", status="404 Not Found"), response(TEXT, "Content-Type: image/png"),
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n" + bomb,
        response(TEXT, "Content-Type: text/html\r\nContent-Encoding: br"), b"no response", response(TEXT),
    ]  # fmt: skip
    found, aside = read_archive(folder, read_all, b"".join(map(record, bodies)))
    assert list(found) == ["crawl.warc#6"]
    assert aside == {
        "crawl.warc#1": "HTTP status 404", "crawl.warc#2": "kind not read: image/png",
        "crawl.warc#3": "page too large", "crawl.warc#4": "content encoding not read: br",
        "crawl.warc#5": "no HTTP response",
    }  # fmt: skip


def test_after_damage_reading_goes_on(folder, read_all):
    good = record(response(TEXT))
    short = record(response(TEXT), size=len(response(TEXT)) - 40)  # the block is longer than stated
    data = good + short + good + b"\0garbage\n" * 50 + good + good[: len(good) - 60]
    found, aside = read_archive(folder, read_all, data)
    assert [int(source.split("#")[1]) for source in found] == [1, 2, 3, 4]
    assert aside == {
        "crawl.warc#2-3": "broken WARC", "crawl.warc#3-4": "broken WARC", "crawl.warc#5": "truncated record"
    }  # fmt: skip


@pytest.mark.parametrize("suffix, pack", [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_of_a_truncated_archive_the_pages_before_the_end_stay(folder, read_all, suffix, pack):
    packed = b"".join(pack(record(response(f"{number} {TEXT}"))) for number in range(200))
    found, aside = read_archive(folder, read_all, packed[:-50], f"crawl.warc{suffix}")
    assert 150 < len(found) < 200
    assert aside == {f"crawl.warc{suffix}": "broken or truncated compression"}


def test_what_is_no_archive_is_set_aside(folder, read_all):
    found, aside = read_archive(folder, read_all, b"just some text\nof two lines\n")
    assert not found and aside == {"crawl.warc#0-1": "broken WARC", "crawl.warc": "broken WARC"}


@pytest.mark.skipif(not (REAL_DATA / "web" / "warc_samples.tar").exists(), reason="no real web archives here")
def test_real_archives(folder, read_all):
    """warcio 1.8 finds the same 16 pages in IANA's crawl; its own broken samples are read past their damage."""
    with tarfile.open(REAL_DATA / "web" / "warc_samples.tar") as samples:
        samples.extractall(folder, filter="data")
    documents, aside = read_all(folder)
    pages = [document for document in documents if document.source.startswith("pywb/iana.warc.gz")]
    assert len(pages) == 16 and all("iana.org" in page.meta["url"] for page in pages)
    chunked_page = next(document for document in documents if "iana.org-chunked" in document.source)
    assert "coordination of the DNS Root" in chunked_page.text
    assert aside["warcio/example-trunc.warc#3"] == "truncated content encoding"
    assert aside["warcio/example.arc"] == "kind not read: .arc"
    wrong = [
        document for document in documents if "wrong-chunks" in document.source or "non-chunked" in document.source
    ]
    assert [document.text.split("\n")[0] for document in wrong] == ["# Example Domain"] * 2


class Generated(io.RawIOBase):
    """An archive of a page, a record of `size` bytes, and a page; never held."""

    def __init__(self, size: int):
        large = record(b"", "response", size=size).removesuffix(b"\r\n\r\n")
        page = record(response(TEXT))
        self.pieces = [io.BytesIO(page + large), None, io.BytesIO(b"\r\n\r\n" + page)]
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer):
        while self.pieces:
            if self.pieces[0] is None:
                size = min(self.left, len(buffer))
                buffer[:size] = b"x" * size
                self.left -= size
            else:
                size = self.pieces[0].readinto(buffer)
            if size:
                return size
            self.pieces.pop(0)
        return 0


@pytest.mark.parametrize("size", [300_000_000, pytest.param(4_300_000_000, marks=pytest.mark.slow)])
def test_a_huge_record_is_passed_over_in_bounded_memory(size):
    tracemalloc.start()
    records = list(read_records(io.BufferedReader(Generated(size))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [item.size for item in records] == [len(response(TEXT)), size, len(response(TEXT))]
    assert peak < 3 * LARGEST_PAGE
