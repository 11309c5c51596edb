"""The document index on real text: building, and queries warm and with its files dropped from the page cache.

    python benchmarks/corpus/index.py corpus.jsonl --folder /somewhere/with/space [--shard-megabytes 256]

`corpus.jsonl` holds rows with a field "text" (and perhaps "id"). Queries: stretches of 500 letters of random documents,
and texts in which stretches of 60 letters of five documents alternate with words in random order, which is the hardest
case: most of it occurs nowhere. Every answer is checked: the stretch must be found, with its document. Building and
each set of queries run in processes of their own; their peak memory counts the pages they have mapped.
"""

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import orjson

from athanor.store.index import DocumentIndex
from athanor.store.index_build import build_index

WORDS = "river lantern quiet seven stone harbour violet meadow copper".split()


def rows(path: Path):  # type: ignore[no-untyped-def]
    """(name, text) of every document."""
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            row = orjson.loads(line)
            yield str(row.get("id", number)), row["text"]


def peak() -> str:
    """Peak memory of this process in MB."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"


def build(path: Path, folder: Path, shard_bytes: int) -> None:
    """Build and say what it took."""
    folder.mkdir(parents=True)
    figures = build_index(folder, rows(path), shard_bytes=shard_bytes)
    disk = sum(file.stat().st_size for file in folder.iterdir())
    seconds = time.process_time()
    print(f"built {figures['bytes'] / 1e9:.3f} GB in {figures['shards']} shards: {seconds:.0f} s of CPU, "
          f"{figures['bytes'] / 1e6 / seconds:.1f} MB/s, peak {peak()}, {disk / 1e9:.2f} GB on disk")  # fmt: skip


def queries(path: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Texts, each with the (stretch, document's name) that must be found in it."""
    draw = random.Random(3)
    some = [(name, text) for name, text in rows(path) if len(text) > 1_200 and draw.random() < 0.002][:120]
    stretches = [
        (name, text[place : place + 500]) for name, text in some for place in [draw.randrange(len(text) - 600)]
    ]
    verbatim = [(text, [(text, name)]) for name, text in stretches[:20]]
    mixed = []
    for number in range(10):
        parts = [(text[:60], name) for name, text in stretches[20 + 5 * number : 25 + 5 * number]]
        mixed.append((" ".join(f"{text} {' '.join(draw.choices(WORDS, k=8))}" for text, _ in parts), parts))
    return [*verbatim, *mixed]


def ask(path: Path, folder: Path) -> None:
    """Time every query and check its answer."""
    asked = queries(path)
    index = DocumentIndex(folder)
    taken: dict[str, list[float]] = {"verbatim": [], "mixed": []}
    for text, wanted in asked:
        clock = time.perf_counter()
        spans = index.longest_spans(text, limit=20, occurrences=3)
        taken["verbatim" if len(wanted) == 1 else "mixed"].append(time.perf_counter() - clock)
        for stretch, name in wanted:
            span = next(span for span in spans if stretch in span.text)
            places = {place.document for place in span.occurrences}
            elsewhere = len(span.text) > len(stretch)  # with a letter more, which a copy of the document may go on with
            assert name in places or elsewhere or span.count > len(span.occurrences), f"{name} was not found"
    for kind, seconds in taken.items():
        print(f"  {kind}: {len(seconds)} queries, median {1e3 * statistics.median(seconds):.0f} ms, "
              f"slowest {1e3 * max(seconds):.0f} ms")  # fmt: skip
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    print(f"  peak {peak()}, {faults:,} pages read from disk")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shard-megabytes", type=int, default=256)
    parser.add_argument("--step", choices=["build", "ask"])
    given = parser.parse_args()
    if given.step == "build":
        return build(given.corpus, given.folder, given.shard_megabytes << 20)
    if given.step == "ask":
        return ask(given.corpus, given.folder)
    again = [sys.executable, __file__, *sys.argv[1:], "--step"]
    if not given.folder.exists():
        subprocess.run([*again, "build"], check=True)
    for name in ("cold", "warm"):
        if name == "cold":
            for file in given.folder.iterdir():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        print(name, flush=True)
        subprocess.run([*again, "ask"], check=True)


if __name__ == "__main__":
    main()
