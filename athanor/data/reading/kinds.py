"""Which files are read, by the end of their name; and which of a folder's files belong together."""

import os
from collections.abc import Iterable

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
SOUNDS = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a")
KINDS = {
    ".txt": "text", ".text": "text", ".md": "text", ".markdown": "text",
    ".html": "html", ".htm": "html", ".xhtml": "html",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "table", ".tsv": "table",
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow",
    ".warc": "warc", ".wet": "warc", ".pdf": "pdf", ".epub": "epub", ".docx": "docx", ".tar": "tar", ".tgz": "tar",
    ".zip": "zip",
    **dict.fromkeys(PICTURES, "picture"), **dict.fromkeys(SOUNDS, "sound"),
}  # fmt: skip
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
COMPRESSIBLE = ("text", "html", "jsonl", "json", "table", "warc", "tar")  # kinds that may be compressed as a whole
MEDIA = ("picture", "sound")
ALLOWED = (
    ".txt .md .html .jsonl .json .csv .tsv .warc .tar, these also with .gz, .zst, .bz2 or .xz; .zip .pdf .epub .docx"
    " .parquet .arrow; pictures and sounds with their captions"
)
CAPTIONS = (".txt", ".caption", ".lab", ".json")  # beside a picture or sound of the same name
TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv")  # in a folder of pictures or sounds: a row for each


def find_kind(name: str) -> tuple[str | None, bool]:
    """(kind, whether the file is compressed as a whole) by a file's name; None when it is not read."""
    stem, suffix = os.path.splitext(name.lower())
    if suffix not in COMPRESSED:
        return KINDS.get(suffix), suffix == ".tgz"
    kind = KINDS.get(os.path.splitext(stem)[1])
    return (kind if kind in COMPRESSIBLE else None), True


def describe_kind(name: str) -> str:
    """The end of a name as it is shown where the kind is not read."""
    stem, suffix = os.path.splitext(name.lower())
    if suffix in COMPRESSED:
        suffix = os.path.splitext(stem)[1] + suffix
    return suffix[:12] or "no suffix"


def pair(names: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """(the files that stand for themselves, those that are captions by the name of their picture or sound)."""
    names = list(names)
    media: dict[str, list[str]] = {}
    for name in names:
        if find_kind(name)[0] in MEDIA:
            media.setdefault(os.path.splitext(name)[0], []).append(name)
    if not media:
        return names, {}
    alone: list[str] = []
    captions: dict[str, list[str]] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in CAPTIONS and stem in media:
            for medium in media[stem]:
                captions.setdefault(medium, []).append(name)
        else:
            alone.append(name)
    return alone, captions
