"""A corpus with planted near-copies of exactly known similarity, made of real texts: what deduplication is measured on.

    python benchmarks/corpus/planted.py --texts FOLDER --out FOLDER

FOLDER holds gzipped JSON lines: English books, editions of one book, manuals and encyclopaedia pages; Chinese classics
with modern versions, poems, manuals. They are cut at line ends into documents of about 2 KB. A copy is a document of
which words (Chinese: characters) were replaced, left out or added until its Jaccard similarity to the original is at
the value wanted or just below; the value it then has is stored, computed with plain sets of tuples. Writes
<language>.jsonl {"id", "text"} and <language>.truth.jsonl {"original", "copy", "jaccard", "jaccard_simplified"}.

Two definitions of similarity. `jaccard`: runs of five words, a word being a run of letters, digits and underscores,
lower-cased, and every Chinese character a word. `jaccard_simplified` (English): the text as datatrove simplifies it
(numbers become 0, accents go), split at blanks.
"""

import argparse
import gzip
import json
import random
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

ENGLISH = {
    "en_gutenberg": "text", "dedup_gutenberg_editions": "text", "en_rust_book": "text", "en_c4_sample": "text",
    "en_wikipedia_sample": "text", "en_zh_python_docs": "en", "dedup_minhash_articles_1000": "text",
}  # fmt: skip
CHINESE = {
    "zh_classical_modern": ("classical", "modern"), "zh_poetry": "text", "en_zh_python_docs": "zh", "zh_d2l_book": "zh",
}  # fmt: skip
DOCUMENT_BYTES = {"en": 2_050, "zh": 2_050}
RUN = 5
SEED = 20_240
HAN = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
WORD = re.compile(rf"[{HAN}]|[^\W{HAN}]+")
EDITABLE = {"en": re.compile(r"(?<!\S)[A-Za-z]{2,}(?!\S)"), "zh": re.compile(r"[\u4e00-\u9fff]")}
NUMBER = re.compile(r"\d+([.,]\d+)?")
PUNCTUATION = re.compile(r"[^\w\s]|_")


def runs(words: list[str]) -> set[tuple[str, ...]]:
    """All runs of five words."""
    width = min(RUN, len(words))
    return {tuple(words[place : place + width]) for place in range(len(words) - width + 1)} if words else set()


def jaccard(left: set, right: set) -> float:
    """Size of the intersection by size of the union."""
    return len(left & right) / len(left | right) if left | right else 0.0


def plain_runs(text: str) -> set[tuple[str, ...]]:
    """The runs of the definition."""
    return runs(WORD.findall(text.lower()))


def simplified_runs(text: str) -> set[tuple[str, ...]]:
    """The runs of a text simplified as datatrove does it."""
    text = PUNCTUATION.sub(" ", NUMBER.sub("0", text.lower()))
    text = "".join(letter for letter in unicodedata.normalize("NFD", text) if unicodedata.category(letter) != "Mn")
    return runs(text.split())


def read_texts(folder: Path, files: dict[str, str | tuple[str, ...]]) -> Iterator[str]:
    """The texts of the files, field by field; short rows of one file are joined to long texts."""
    for name, fields in files.items():
        for key in [fields] if isinstance(fields, str) else fields:
            with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
                yield "\n".join(str(row[key]) for row in map(json.loads, lines) if row.get(key))


def cut(text: str, size: int, chance: random.Random) -> Iterator[str]:
    """Pieces of whole lines, of about `size` bytes: from half to one and a half times that."""
    piece: list[str] = []
    length, wanted = 0, chance.uniform(0.5, 1.5) * size
    for line in text.split("\n"):
        piece.append(line)
        length += len(line.encode()) + 1
        if length >= wanted:
            yield "\n".join(piece)
            piece, length, wanted = [], 0, chance.uniform(0.5, 1.5) * size


def edit(text: str, places: list[re.Match], kinds: list[str], vocabulary: list[str], chance: random.Random) -> str:
    """The text with the words at these places replaced, left out, or followed by a new one."""
    pieces, last = [], 0
    for match, kind in sorted(zip(places, kinds, strict=True), key=lambda item: item[0].start()):
        new = "" if kind == "leave out" else chance.choice(vocabulary)
        kept = match.group() + (" " if match.group().isascii() else "") if kind == "add" else ""
        pieces += [text[last : match.start()], kept, new]
        last = match.end()
    return "".join([*pieces, text[last:]])


def make_copy(text: str, wanted: float, language: str, vocabulary: list[str], chance: random.Random) -> str:
    """A copy with the fewest edits that bring the similarity to `wanted` or below."""
    places = list(EDITABLE[language].finditer(text))
    if chance.random() < 0.2:  # a passage changed as a whole: neighbours first
        first = chance.randrange(len(places))
        order = places[first:] + places[:first]
    else:
        order = chance.sample(places, len(places))
    kinds = chance.choices(["replace", "leave out", "add"], weights=[6, 2, 2], k=len(order))
    seed, original = chance.random(), plain_runs(text)

    def edited(count: int) -> str:
        return edit(text, order[:count], kinds[:count], vocabulary, random.Random(seed))

    low, high = 1, len(order)
    while low < high:
        middle = (low + high) // 2
        if jaccard(original, plain_runs(edited(middle))) <= wanted:
            high = middle
        else:
            low = middle + 1
    return edited(low)


def build(texts: Path, out: Path, language: str, most: int, planted: int) -> None:
    """Write one language's corpus and its truth."""
    chance = random.Random(f"{SEED}{language}")
    files = ENGLISH if language == "en" else CHINESE
    size = DOCUMENT_BYTES[language]
    documents = [piece for text in read_texts(texts, files) for piece in cut(text, size, chance)]
    chance.shuffle(documents)
    documents = documents[:most]
    vocabulary = [word.group() for text in documents[:2_000] for word in EDITABLE[language].finditer(text)]
    sources = [number for number, text in enumerate(documents) if len(EDITABLE[language].findall(text)) >= 100]
    rows = [(text, None, 0.0) for text in documents]
    for source in chance.sample(sources, min(planted, len(sources))):
        wanted = chance.uniform(0.5, 1.0)
        rows.append((make_copy(documents[source], wanted, language, vocabulary, chance), source, wanted))
    order = chance.sample(range(len(rows)), len(rows))
    place = {number: position for position, number in enumerate(order)}
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f"{language}.jsonl", "w", encoding="utf-8") as file:
        for position, number in enumerate(order):
            row = {"id": f"{language}-{position:06d}", "text": rows[number][0]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    with open(out / f"{language}.truth.jsonl", "w", encoding="utf-8") as file:
        for number, (text, source, _) in enumerate(rows):
            if source is not None:
                row = {
                    "original": place[source], "copy": place[number],
                    "jaccard": jaccard(plain_runs(documents[source]), plain_runs(text)),
                    "jaccard_simplified": jaccard(simplified_runs(documents[source]), simplified_runs(text)),
                }  # fmt: skip
                file.write(json.dumps(row) + "\n")
    megabytes = sum(len(text.encode()) for text, _, _ in rows) / 1e6
    print(f"{language}: {len(documents)} documents and {len(rows) - len(documents)} copies, {megabytes:.1f} MB of text")


def main() -> None:
    """Build both languages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--languages", nargs="+", default=["en", "zh"])
    parser.add_argument("--documents", type=int, default=1_000_000, help="at most so many per language")
    parser.add_argument("--copies", type=int, default=4_000, help="per language")
    args = parser.parse_args()
    for language in args.languages:
        build(args.texts, args.out, language, args.documents, args.copies)


if __name__ == "__main__":
    main()
