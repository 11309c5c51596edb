"""Main text of real pages: ours beside trafilatura and resiliparse, accuracy and speed in the same run.

    python benchmarks/corpus/pages.py ../shared/data/web --peer-python venv/bin/python

The folder holds trafilatura_eval.tar.gz (trafilatura's own evaluation: strings that must be in a page's text and
strings that must not) and readability_pages.tar.gz (Readability's pages with the expected article). Peers run in the
Python given (pip install trafilatura resiliparse), on the same decoded pages, in turns with ours; times are CPU seconds
of one thread, the median of the rounds. "tuned on" are the pages whose name's SHA-256 begins with an even byte: only
those were looked at while the rules were written.
"""

import argparse
import hashlib
import json
import re
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

Extract = Callable[[str], str]
WORD = re.compile("[\u3040-\u9fff]|[^\\W\u3040-\u9fff]+")  # a word, or one Chinese or Japanese character


def read_evaluation(folder: Path) -> list[dict[str, Any]]:
    """Trafilatura's pages: name, markup, with, without."""
    from athanor.data.reading.html import declared_encoding

    pages = []
    with tarfile.open(folder / "trafilatura_eval.tar.gz") as archive:
        table = json.load(archive.extractfile("evaldata.json"))
        names = set(archive.getnames())
        for entry in table.values():
            if f"html/{entry['file']}" in names:
                data = archive.extractfile(f"html/{entry['file']}").read()
                markup = data.decode(declared_encoding(data) or "utf-8", errors="replace")
                pages.append(
                    {"name": entry["file"], "markup": markup} | {key: entry[key] for key in ("with", "without")}
                )
    return pages


def read_articles(folder: Path) -> list[dict[str, Any]]:
    """Readability's pages: name, markup, expected (the words of the expected article)."""
    from selectolax.lexbor import LexborHTMLParser

    pages = []
    with tarfile.open(folder / "readability_pages.tar.gz") as archive:
        files = {member.name: member for member in archive.getmembers() if member.isfile()}
        for name in sorted(files):
            if name.endswith("/source.html") and (expected := name.replace("source", "expected")) in files:
                markup, article = (
                    archive.extractfile(part).read().decode("utf-8", "replace") for part in (name, expected)
                )
                words = LexborHTMLParser(article).body.text(separator=" ")
                pages.append({"name": name.split("/")[0], "markup": markup, "expected": words})
    return pages


def is_tuned_on(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def score_strings(pages: list[dict[str, Any]], texts: list[str]) -> dict[str, float]:
    """Precision, recall and F1 of strings as trafilatura's evaluation counts them, blanks made equal on both sides."""
    found = missed = wrong = 0
    for page, text in zip(pages, texts, strict=True):
        flat = " ".join(text.split())
        hits = sum(" ".join(words.split()) in flat for words in page["with"])
        found, missed = found + hits, missed + len(page["with"]) - hits
        wrong += sum(" ".join(words.split()) in flat for words in page["without"])
    precision, recall = found / max(1, found + wrong), found / max(1, found + missed)
    return {"precision": precision, "recall": recall, "F1": 2 * precision * recall / max(1e-9, precision + recall)}


def score_words(pages: list[dict[str, Any]], texts: list[str]) -> dict[str, float]:
    """Mean over pages of precision, recall and F1 of the bag of words against the expected article."""
    rows = []
    for page, text in zip(pages, texts, strict=True):
        expected, got = Counter(WORD.findall(page["expected"])), Counter(WORD.findall(text))
        common = sum((expected & got).values())
        precision, recall = common / max(1, got.total()), common / max(1, expected.total())
        rows.append((precision, recall, 2 * precision * recall / max(1e-9, precision + recall)))
    return dict(zip(("precision", "recall", "F1"), map(statistics.mean, zip(*rows, strict=True)), strict=True))


def extractor(name: str) -> Extract:
    """The function of a library, with its settings for main text without comments."""
    if name == "athanor":
        from athanor.data.reading.decode import Unreadable
        from athanor.data.reading.html import main_text

        def ours(markup: str) -> str:
            try:
                return main_text(markup)[1]
            except Unreadable:
                return ""

        return ours
    if name == "trafilatura":
        import trafilatura

        return lambda markup: trafilatura.extract(markup, include_comments=False) or ""
    if name == "trafilatura-fast":
        import trafilatura

        return lambda markup: trafilatura.extract(markup, include_comments=False, fast=True) or ""
    from resiliparse.extract.html2text import extract_plain_text

    return lambda markup: extract_plain_text(markup, main_content=True, alt_texts=False) or ""


def serve(name: str) -> None:
    """Run by the benchmark in a peer's Python: a file of pages per line of input; answers texts and CPU seconds."""
    extract = extractor(name)
    for line in sys.stdin:
        pages = json.loads(Path(line.strip()).read_text())
        before = time.process_time()
        texts = [extract(markup) for markup in pages]
        seconds = time.process_time() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"texts": texts, "seconds": seconds, "peak_MiB": peak}), flush=True)


def compare(pages: list[dict[str, Any]], pythons: dict[str, str], rounds: int) -> dict[str, dict[str, Any]]:
    """Texts, median seconds and peak memory of each library, run in turns."""
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pages.json"
        file.write_text(json.dumps([page["markup"] for page in pages]))
        workers = {
            name: subprocess.Popen(
                [python, __file__, "--serve", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for name, python in pythons.items()
        }
        for _ in range(rounds):
            for name, worker in workers.items():
                print(file, file=worker.stdin, flush=True)
                answer = json.loads(worker.stdout.readline())
                result = results.setdefault(name, {"seconds": []})
                result["seconds"].append(answer.pop("seconds"))
                result.update(answer)
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    for result in results.values():
        result["seconds"] = statistics.median(result["seconds"])
    return results


def report(
    title: str, pages: list[dict[str, Any]], results: dict[str, dict[str, Any]], score: Callable[..., Any]
) -> None:
    size = sum(len(page["markup"].encode()) for page in pages) / 1e6
    print(f"\n{title}: {len(pages)} pages, {size:.1f} MB")
    print(f"{'':18}{'pages/s':>9}{'MB/s':>7}{'ratio':>7}{'MiB':>6}   precision recall F1: all | tuned on | held out")
    slowest = results.get("trafilatura", results["athanor"])["seconds"]
    for name, result in results.items():
        cells = []
        for choose in (lambda _: True, is_tuned_on, lambda name: not is_tuned_on(name)):
            rows = [number for number, page in enumerate(pages) if choose(page["name"])]
            figures = score([pages[row] for row in rows], [result["texts"][row] for row in rows])
            cells.append(" ".join(f"{value:.3f}" for value in figures.values()))
        speed = len(pages) / result["seconds"]
        line = f"{name:18}{speed:9.0f}{size / result['seconds']:7.1f}{slowest / result['seconds']:7.2f}"
        print(f"{line}{result['peak_MiB']:6.0f}   {' | '.join(cells)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--peer-python", help="a Python with trafilatura and resiliparse; without it only ours runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    pythons = {"athanor": sys.executable}
    if arguments.peer_python:
        pythons |= dict.fromkeys(("trafilatura", "trafilatura-fast", "resiliparse"), arguments.peer_python)
    for title, pages, score in (
        ("strings with/without (trafilatura's evaluation)", read_evaluation(arguments.folder), score_strings),
        ("words of the expected article (Readability's pages)", read_articles(arguments.folder), score_words),
    ):
        report(title, pages, compare(pages, pythons, arguments.rounds), score)


if __name__ == "__main__":
    main()
