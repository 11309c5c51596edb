"""Reading files of every kind: megabytes of text per CPU second and peak memory, beside the libraries people use.

    python benchmarks/corpus/reading.py ../shared/data/text/en_gutenberg.jsonl.gz --peer-python venv/bin/python

The same text, cut into documents of about 2.5 KB, is written as files of each kind; each is read from beginning to end
in a process of its own, ours and the peers' in turns (pip install datasets pandas warcio fastwarc python-docx
ebooklib).
Ours makes documents: text checked, named, with an id. Peers give rows, records or elements. CPU seconds of one thread
for a second reading, the median of the rounds; memory is the peak of the process.
"""

import argparse
import gzip
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

DOCUMENT = 2_500  # characters
PAGE = "<html><head><title>A page</title></head><body><nav><a href='/'>Home</a></nav>{}</body></html>"


def documents(file: Path, megabytes: int) -> list[str]:
    """Texts of about DOCUMENT characters from rows of JSON lines, so many megabytes of them."""
    found, size = [], 0
    with gzip.open(file, "rt", encoding="utf-8") as rows:
        for row in rows:
            text = json.loads(row)["text"]
            for start in range(0, len(text), DOCUMENT):
                found.append(text[start : start + DOCUMENT])
                size += len(found[-1].encode())
                if size >= megabytes * 1e6:
                    return found
    return found


def write_all(texts: list[str], folder: Path) -> dict[str, Path]:
    """The texts as one file (or folder) of each kind."""
    import csv

    import pyarrow
    import pyarrow.parquet
    import zstandard

    files = {
        name: folder / f"x.{name}"
        for name in ("txt", "jsonl", "jsonl.gz", "jsonl.zst", "csv", "parquet", "tar", "warc.gz")
    }
    lines = "".join(
        json.dumps({"id": n, "text": text}, ensure_ascii=False) + "\n" for n, text in enumerate(texts)
    ).encode()
    files["txt"].write_text("\n\n".join(texts), encoding="utf-8")
    files["jsonl"].write_bytes(lines)
    files["jsonl.gz"].write_bytes(gzip.compress(lines, 6))
    files["jsonl.zst"].write_bytes(zstandard.compress(lines, 3))
    with open(files["csv"], "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(texts)])
    table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, files["parquet"], compression="zstd", row_group_size=5_000)
    with tarfile.open(files["tar"], "w") as archive:
        for number, text in enumerate(texts):
            header = tarfile.TarInfo(f"{number:07}.txt")
            header.size = len(data := text.encode())
            archive.addfile(header, io.BytesIO(data))
    with open(files["warc.gz"], "wb") as file:
        for number, text in enumerate(texts):
            file.write(gzip.compress(warc_record(number, text), 6))
    files["arrow folder"] = write_data_set(table, folder / "set")
    write_packages(texts, files, folder)
    return files


def warc_record(number: int, text: str) -> bytes:
    page = PAGE.format("".join(f"<p>{part}</p>" for part in text.split("\n\n"))).encode()
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:x:{number}>\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
    head += f"WARC-Target-URI: http://a.example/{number}\r\nContent-Type: application/http; msgtype=response\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def write_data_set(table: object, folder: Path) -> Path:
    """A folder as Dataset.save_to_disk writes it."""
    import pyarrow

    folder.mkdir()
    with pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink:
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1_000)
    features = {name: {"dtype": kind, "_type": "Value"} for name, kind in (("id", "int64"), ("text", "string"))}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0" * 16}
    more = {"_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False}
    (folder / "state.json").write_text(json.dumps({**state, **more, "_split": None}))
    return folder


def write_packages(texts: list[str], files: dict[str, Path], folder: Path) -> None:
    """A tenth of the texts as one DOCX and one EPUB (a book of 4 MB is a long one)."""
    from html import escape

    few = texts[: len(texts) // 10]
    w = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    body = "".join(f'<w:p><w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p>' for text in few)
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    files["docx"] = folder / "x.docx"
    with zipfile.ZipFile(files["docx"], "w", zipfile.ZIP_DEFLATED) as archive:
        kinds = (
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels"'
            ' ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Override PartName="/word/document.xml"'
            ' ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
        )
        archive.writestr("[Content_Types].xml", kinds)
        rows = f'<Relationship Id="r" Type="{relation}" Target="word/document.xml"/>'
        space = "http://schemas.openxmlformats.org/package/2006/relationships"
        archive.writestr("_rels/.rels", f'<Relationships xmlns="{space}">{rows}</Relationships>')
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{w}"><w:body>{body}</w:body></w:document>')
    files["epub"] = folder / "x.epub"
    with zipfile.ZipFile(files["epub"], "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        root = '<rootfiles><rootfile full-path="b.opf" media-type="application/oebps-package+xml"/></rootfiles>'
        space = "urn:oasis:names:tc:opendocument:xmlns:container"
        archive.writestr("META-INF/container.xml", f'<container version="1.0" xmlns="{space}">{root}</container>')
        chapters = [few[start : start + 20] for start in range(0, len(few), 20)]
        items = "".join(
            f'<item id="c{n}" href="{n}.xhtml" media-type="application/xhtml+xml"/>' for n in range(len(chapters))
        )
        spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
        facts = '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>x</dc:title></metadata>'
        book = f"{facts}<manifest>{items}</manifest><spine>{spine}</spine>"
        archive.writestr("b.opf", f'<package xmlns="http://www.idpf.org/2007/opf" version="3.0">{book}</package>')
        for number, chapter in enumerate(chapters):
            page = "".join(f"<p>{escape(text)}</p>" for text in chapter)
            head = '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>t</title></head>'
            archive.writestr(f"{number}.xhtml", f"{head}<body>{page}</body></html>")


def ours(path: str) -> Iterator[str]:
    from athanor.data.reading.items import ReadLimits, SetAside
    from athanor.data.reading.readers import read_file
    from athanor.data.reading.sources import find_sources

    limits = ReadLimits(max_document_bytes=1_000_000, max_line_bytes=16_000_000)
    for file in find_sources(path):
        for item in read_file(file, limits):
            assert not isinstance(item, SetAside), item
            yield item.text


def ours_records(path: str) -> Iterator[str]:
    from athanor.data.reading.warc import Record, read_records

    with gzip.open(path) as stream:
        for record in read_records(stream):
            assert isinstance(record, Record)
            yield record.data.decode()


def datasets_streaming(kind: str) -> Callable[[str], Iterator[str]]:
    def read(path: str) -> Iterator[str]:
        import datasets

        for row in datasets.load_dataset(kind, data_files=path, split="train", streaming=True):
            yield row["text"]

    return read


def datasets_folder(path: str) -> Iterator[str]:
    import datasets

    for row in datasets.load_from_disk(path):
        yield row["text"]


def pandas_json(path: str) -> Iterator[str]:
    import pandas

    for part in pandas.read_json(path, lines=True, chunksize=1_000):
        yield from part["text"]


def pandas_csv(path: str) -> Iterator[str]:
    import pandas

    for part in pandas.read_csv(path, chunksize=1_000):
        yield from part["text"]


def pandas_parquet(path: str) -> Iterator[str]:
    import pandas

    yield from pandas.read_parquet(path, columns=["text"])["text"]


def warcio(path: str) -> Iterator[str]:
    from warcio.archiveiterator import ArchiveIterator

    with open(path, "rb") as stream:
        for record in ArchiveIterator(stream):
            yield record.content_stream().read().decode()


def fastwarc(path: str) -> Iterator[str]:
    from fastwarc import ArchiveIterator

    with open(path, "rb") as stream:
        for record in ArchiveIterator(stream):
            yield record.reader.read().decode()


def plain_tar(path: str) -> Iterator[str]:
    with tarfile.open(path) as archive:
        for member in archive:
            yield archive.extractfile(member).read().decode()


def python_docx(path: str) -> Iterator[str]:
    import docx

    for paragraph in docx.Document(path).paragraphs:
        yield paragraph.text


def ebooklib(path: str) -> Iterator[str]:
    from ebooklib import ITEM_DOCUMENT, epub
    from lxml import html

    for item in epub.read_epub(path).get_items_of_type(ITEM_DOCUMENT):
        yield html.fromstring(item.get_content()).text_content()


PEERS: dict[str, Callable[[str], Iterator[str]]] = {
    "athanor": ours, "athanor, records alone": ours_records, "datasets json": datasets_streaming("json"),
    "datasets csv": datasets_streaming("csv"), "datasets parquet": datasets_streaming("parquet"),
    "datasets folder": datasets_folder, "pandas json": pandas_json, "pandas csv": pandas_csv,
    "pandas parquet": pandas_parquet, "warcio": warcio, "fastwarc": fastwarc, "tarfile": plain_tar,
    "python-docx": python_docx, "ebooklib + lxml": ebooklib,
}  # fmt: skip
BESIDE = {
    "txt": [],
    "jsonl": ["datasets json", "pandas json"], "jsonl.gz": ["datasets json", "pandas json"],
    "jsonl.zst": ["pandas json"], "csv": ["datasets csv", "pandas csv"],
    "parquet": ["datasets parquet", "pandas parquet"], "arrow folder": ["datasets folder"], "tar": ["tarfile"],
    "warc.gz": ["athanor, records alone", "warcio", "fastwarc"], "docx": ["python-docx"], "epub": ["ebooklib + lxml"],
}  # fmt: skip


def measure(name: str, path: str) -> None:
    """In a process of its own: CPU seconds of a second reading, megabytes of text, peak memory of the process."""
    for _ in PEERS[name](path):  # imports, and the file into the page cache
        pass
    begin = time.process_time()
    size = sum(len(text.encode()) for text in PEERS[name](path))
    seconds = time.process_time() - begin
    print(json.dumps({"seconds": seconds, "megabytes": size / 1e6, "MiB": peak_mebibytes()}))


def peak_mebibytes() -> float:
    """Peak memory; getrusage would begin at that of the process which started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="?", help="JSON lines with a field text, .gz")
    parser.add_argument("--megabytes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="one kind, such as epub")
    parser.add_argument("--peer-python", help="a Python with the peers; without it only ours runs")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    with tempfile.TemporaryDirectory() as place:
        files = write_all(documents(arguments.texts, arguments.megabytes), Path(place))
        print(f"{'kind':14}{'reader':24}{'MB/s':>8}{'ratio':>8}{'MiB':>7}")
        for kind, path in files.items():
            if arguments.only not in (None, kind):
                continue
            readers = [
                "athanor",
                *(name for name in BESIDE[kind] if arguments.peer_python or name.startswith("athanor")),
            ]
            found: dict[str, list[dict[str, float]]] = {name: [] for name in readers}
            for _ in range(arguments.rounds):
                for name in readers:
                    python = sys.executable if name.startswith("athanor") else arguments.peer_python
                    command = [python, __file__, "--measure", name, str(path)]
                    found[name].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
            speeds = {
                name: statistics.median(run["megabytes"] / run["seconds"] for run in runs)
                for name, runs in found.items()
            }
            for name, runs in found.items():
                memory = max(run["MiB"] for run in runs)
                print(
                    f"{kind:14}{name:24}{speeds[name]:8.1f}{speeds['athanor'] / speeds[name]:8.2f}{memory:7.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
