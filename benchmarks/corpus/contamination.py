"""Recall and precision of decontamination on planted test items, and its speed.

    python benchmarks/corpus/contamination.py --items gsm8k.jsonl.gz cmmlu.jsonl.gz --documents text/*.jsonl.gz

Half of the items of each file are what the corpus is checked against; some of them are planted into real documents:
word for word, wrapped anew, embedded in a sentence, in other case, with other punctuation. Of the other half some are
planted, too: finding those would be wrong, and so would finding anything in the documents left alone.
"""

import argparse
import gzip
import json
import random
import re
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from athanor.data.copies.decontaminate import FIELDS
from athanor.data.copies.overlap import Item, Runs, tokens_of, too_short

LETTERS = 2_500  # of a document


def verbatim(text: str, _: random.Random) -> str:
    """As it is."""
    return text


def wrapped(text: str, chance: random.Random) -> str:
    """In short lines; a Chinese one has no blanks to break at."""
    width = chance.randint(18, 60)
    return "\n".join(textwrap.wrap(text, width)) if " " in text else "\n".join(re.findall(f".{{1,{width}}}", text))


def embedded(text: str, _: random.Random) -> str:
    """Inside another sentence."""
    return f"Yesterday somebody asked me: “{text}” and I did not know what to say."


def other_case(text: str, chance: random.Random) -> str:
    """Upper, lower or title case."""
    return chance.choice((str.upper, str.lower, str.title))(text)


def other_punctuation(text: str, chance: random.Random) -> str:
    """Marks left out, doubled or exchanged, blanks doubled."""
    marks = {",": ["", ";", " -"], ".": ["", "...", " ."], "?": ["", "??", "？"], "，": [",", " "], "。": [".", ""]}
    text = "".join(chance.choice(marks[letter]) if letter in marks else letter for letter in text)
    return re.sub(" ", lambda _: chance.choice((" ", "  ")), text)


CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    verbatim, wrapped, embedded, other_case, other_punctuation,
)  # fmt: skip


def rows(path: Path) -> Iterator[dict]:
    """The rows of a JSON-lines file, compressed or not."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def read_items(path: Path) -> list[Item]:
    """One text of each row: the first field that it has."""
    found = []
    for number, row in enumerate(rows(path)):
        text = next((row[name] for name in FIELDS if isinstance(row.get(name), str)), "")
        if not too_short(text):
            found.append(Item(path.name, number, text))
    return found


def documents(paths: list[Path], most: int) -> list[str]:
    """Real texts, cut to a usual length."""
    found: list[str] = []
    for path in paths:
        for row in rows(path):
            text = next(
                (value for name in ("text", "content", "en", "zh") if isinstance(value := row.get(name), str)), ""
            )
            found += [text[start : start + LETTERS] for start in range(0, len(text) - LETTERS // 2, LETTERS)][:200]
    random.Random(0).shuffle(found)
    return found[:most]


def plant(document: str, text: str, chance: random.Random) -> str:
    """The text somewhere inside the document, between two words."""
    place = document.rfind(" ", 0, chance.randint(1, len(document))) + 1
    return f"{document[:place]}\n{text}\n{document[place:]}"


def unlike(known: list[Item], others: list[Item], most: float = 0.8) -> list[Item]:
    """Other items that hold less than this share of every known item's different tokens: finding one is wrong."""
    owners: dict[str, list[int]] = {}
    sizes = []
    for number, item in enumerate(known):
        words = set(tokens_of(item.text))
        sizes.append(len(words))
        for word in words:
            owners.setdefault(word, []).append(number)
    left = []
    for item in others:
        counts = Counter(number for word in set(tokens_of(item.text)) for number in owners.get(word, ()))
        if all(count < most * sizes[number] for number, count in counts.items()):
            left.append(item)
    return left


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", nargs="+", type=Path, required=True)
    parser.add_argument("--documents", nargs="+", type=Path, required=True)
    parser.add_argument("--most", type=int, default=20_000, help="documents")
    parser.add_argument("--planted", type=int, default=300, help="items of each file planted in each way")
    parser.add_argument("--least-share", type=float, default=0.7)
    args = parser.parse_args()
    chance = random.Random(1)
    texts = documents(args.documents, args.most)
    known, unknown = [], []
    for path in args.items:
        items = read_items(path)
        chance.shuffle(items)
        known += items[::2]
        unknown += items[1::2]
    before = len(unknown)
    unknown = unlike(known, unknown)
    print(f"{before - len(unknown)} of {before} other items repeat most of a known one and are left out")
    runs = Runs(known)
    clock = time.process_time()
    alone = [len(runs.matches(text, args.least_share)) for text in texts]
    spent = time.process_time() - clock
    size = sum(len(text.encode()) for text in texts)
    false = sum(map(bool, alone))
    print(f"{len(known)} items, {len(texts)} documents, {size / 1e6:.0f} MB: {size / 1e6 / spent:.1f} MB/s of CPU; "
          f"{false} documents found without planting")  # fmt: skip
    index = {(item.task, item.number): number for number, item in enumerate(known)}
    hits = wrong = planted = others = 0
    for change in CHANGES:
        found = asked = 0
        for item in chance.sample(known, min(args.planted * len(args.items), len(known))):
            text = plant(chance.choice(texts), change(item.text, chance), chance)
            matched = {match.item for match in runs.matches(text, args.least_share)}
            asked += 1
            found += index[item.task, item.number] in matched
        sample = chance.sample(unknown, min(args.planted * len(args.items), len(unknown)))
        strange = sum(
            bool(runs.matches(plant(chance.choice(texts), change(item.text, chance), chance), args.least_share))
            for item in sample
        )
        print(f"{change.__name__:18} recall {found / asked:.4f} ({asked})   others found {strange} of {len(sample)}")
        hits, planted, wrong, others = hits + found, planted + asked, wrong + strange, others + len(sample)
    print(f"all: recall {hits / planted:.4f}, precision {hits / (hits + wrong):.4f}")


if __name__ == "__main__":
    main()
