"""The published quality rules of Gopher, C4 and FineWeb: ours against datatrove's on the same real documents.

    python benchmarks/corpus/filters.py FOLDER --datatrove-python PYTHON [--documents 12000] [--rounds 6]

FOLDER holds text: *.jsonl(.gz) with a field `text` (or `en`), *.txt(.gz), in folders below too. Long texts are cut into
documents of 300 to 6,000 characters; one document in ten is spoiled on purpose (menus, repeated lines, braces ...).
The documents are cut into rounds; in each round both judge the same ones, one after the other, in processes of their
own, in CPU seconds of one thread. Printed: MB/s, documents/s, their ratio, peak memory, equal verdicts, and every pair
of different reasons with an example. PYTHON needs `datatrove` and `spacy` 3.
"""

import argparse
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIELDS = ("text", "en")
SIZES = (300, 800, 2_500, 2_500, 2_500, 6_000)
SAME = {  # datatrove's names for our reasons, by rule set
    "gopher_quality": {
        "gopher_short_doc": "minimum_words", "gopher_long_doc": "maximum_words",
        "gopher_below_avg_threshold": "mean_word_letters", "gopher_above_avg_threshold": "mean_word_letters",
        "gopher_too_many_hashes": "symbols_per_word", "gopher_too_many_ellipsis": "symbols_per_word",
        "gopher_too_many_bullets": "bullet_lines", "gopher_too_many_end_ellipsis": "ellipsis_lines",
        "gopher_below_alpha_threshold": "words_with_letters", "gopher_enough_stop_words": "stop_words",
    },
    "gopher_repetition": {
        "dup_para_frac": "repeated_paragraphs", "dup_para_char_frac": "repeated_paragraph_letters",
        "dup_line_frac": "repeated_lines", "dup_line_char_frac": "repeated_line_letters",
        **{f"top_{width}_gram": "most_frequent_run" for width in (2, 3, 4)},
        **{f"duplicated_{width}_n_grams": "repeated_runs" for width in range(5, 11)},
    },
    "c4": {"lorem_ipsum": "placeholder text", "curly_bracket": "a curly brace", "too_few_sentences": "sentences"},
    "fineweb": {
        "line_punct_ratio": "closed_lines", "short_line_ratio": "short_lines", "char_dup_ratio": "repeated_letters",
        "list_ratio": "line_feeds_per_word",
    },
}  # fmt: skip


def read_texts(folder: Path) -> Iterator[str]:
    """Every text below a folder."""
    for path in sorted(folder.rglob("*")):
        if not path.name.endswith((".jsonl", ".jsonl.gz", ".txt", ".txt.gz")):
            continue
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", errors="replace") as file:
            if ".txt" in path.name:
                yield file.read()
                continue
            rows = [row for row in map(json.loads, file) if isinstance(row, dict)]
        name = next((name for name in FIELDS if rows and isinstance(rows[0].get(name), str)), None)
        if name is None:
            continue
        texts = [row[name] for row in rows if isinstance(row.get(name), str)]
        short = sum(map(len, texts)) < 300 * len(texts)  # sentences of one book or manual
        yield from ["\n\n".join(texts)] if short else texts


def cut(text: str, chance: random.Random) -> Iterator[str]:
    """Documents of various sizes, cut at paragraphs or lines."""
    place = 0
    while place < len(text):
        size = chance.choice(SIZES)
        end = text.find("\n\n", place + size, place + 3 * size)
        if end < 0:
            end = text.find("\n", place + size, place + 3 * size)
        end = min(len(text), place + size) if end < 0 else end
        if text[place:end].strip():
            yield text[place:end]
        place = end


def spoil(text: str, chance: random.Random) -> str:
    """A document as the web has them."""
    words = text.split() or ["word"]
    lines = [line for line in text.split("\n") if line] or ["line"]
    kind = chance.randrange(9)
    if kind == 0:
        return "\n".join(" ".join(chance.choices(words, k=chance.randint(1, 3))) for _ in range(chance.randint(10, 90)))
    if kind == 1:
        return "\n".join("- " + " ".join(chance.choices(words, k=chance.randint(2, 9))) for _ in range(40))
    if kind == 2:
        return "\n".join(lines[:3] * chance.randint(2, 9) + lines)
    if kind == 3:
        return text + "\nLorem ipsum dolor sit amet.\nPlease enable JavaScript. We use cookies, see our privacy policy."
    if kind == 4:
        return text + "\nfunction start() { return run(); }; that is all."
    if kind == 5:
        return text + (" " + " ".join(chance.choices(words, k=chance.randint(2, 8)))) * chance.randint(3, 100)
    if kind == 6:
        return " ".join("#" + word if chance.random() < 0.12 else word for word in words)
    if kind == 7:
        return "\n".join(" ".join(words[start : start + 8]) + chance.choice(["...", "…", "."]) for start in
                         range(0, len(words), 8))  # fmt: skip
    return " ".join(str(chance.randint(0, 99_999)) if chance.random() < 0.25 else word for word in words)


def choose_documents(folder: Path, count: int) -> list[str]:
    """Documents from every text in turn, so that no large book crowds out the others."""
    chance = random.Random(1)
    by_text = [list(cut(text, chance)) for text in read_texts(folder)]
    for documents in by_text:
        chance.shuffle(documents)
    chosen: list[str] = []
    while len(chosen) < count and any(by_text):
        for documents in by_text:
            chosen.extend(documents.pop() for _ in range(min(len(documents), 20)))
    chance.shuffle(chosen)
    chosen = chosen[:count]
    return [spoil(text, chance) if chance.random() < 0.1 else text for text in chosen]


def judge_ours(texts: list[str]) -> dict[str, list[str | None]]:
    sys.path.insert(0, str(ROOT))
    from athanor.data.rules.fast import judge_texts

    judge_texts(["The tables are made once."])
    started = time.process_time()
    reasons = judge_texts(texts)
    report(started)
    return reasons


def judge_theirs(texts: list[str]) -> dict[str, list[str | None]]:
    from datatrove.data import Document  # type: ignore[import-not-found]
    from datatrove.pipeline import filters  # type: ignore[import-not-found]

    judges = {
        "gopher_quality": filters.GopherQualityFilter(), "gopher_repetition": filters.GopherRepetitionFilter(),
        "fineweb": filters.FineWebQualityFilter(), "c4": filters.C4QualityFilter(),
    }  # fmt: skip
    reasons: dict[str, list[str | None]] = {name: [] for name in judges}
    for judge in judges.values():
        judge.filter(Document(text="The tables are made once. " * 20, id="0"))
    started = time.process_time()
    for text in texts:
        document = Document(text=text, id="0")
        for name, judge in judges.items():
            verdict = judge.filter(document)
            reasons[name].append(None if verdict is True else verdict[1])
    report(started)
    return reasons


def report(started: float) -> None:
    status = Path("/proc/self/status")  # getrusage would name the parent's peak where that was higher
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    peak = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
    print(json.dumps({"seconds": time.process_time() - started, "peak": peak}), file=sys.stderr)


def run(python: str, who: str, documents: Path) -> tuple[dict[str, float], dict[str, list[str | None]]]:
    """Judge a file of documents in a process of its own: (measurements, reasons by rule set)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [python, __file__, str(documents), "--judge", who]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stderr.strip().splitlines()[-1]), json.loads(done.stdout)


def compare(ours: dict[str, list[str | None]], theirs: dict[str, list[str | None]], texts: list[str]) -> None:
    """Print the share of equal verdicts, and the pairs of reasons that differ."""
    pairs: Counter[tuple[str, str | None, str | None]] = Counter()
    examples: dict[tuple[str, str | None, str | None], str] = {}
    whole = [0] * len(texts)
    for name, names in SAME.items():
        equal = reasons_equal = 0
        for number, (mine, other) in enumerate(zip(ours[name], theirs[name], strict=True)):
            equal += (mine is None) == (other is None)
            same = mine == other or (mine is not None and other is not None and names.get(other, other) in mine)
            reasons_equal += same
            whole[number] += (mine is None) - (other is None)
            if not same:
                pairs[name, mine, other] += 1
                examples.setdefault((name, mine, other), " ".join(texts[number].split())[:60])
        dropped = sum(reason is not None for reason in theirs[name])
        print(f"{name:18} dropped {dropped:6}  equal verdicts {equal / len(texts):8.3%}"
              f"  equal reasons {reasons_equal / len(texts):8.3%}")  # fmt: skip
    kept_ours = [all(ours[name][number] is None for name in SAME) for number in range(len(texts))]
    kept_theirs = [all(theirs[name][number] is None for name in SAME) for number in range(len(texts))]
    equal = sum(mine == other for mine, other in zip(kept_ours, kept_theirs, strict=True))
    print(f"all rules together: equal verdicts {equal / len(texts):.3%}; kept {sum(kept_ours)} and {sum(kept_theirs)}")
    for (name, mine, other), count in pairs.most_common():
        print(f"  {count:4} {name}: ours {mine!r}, theirs {other!r}: {examples[name, mine, other]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--datatrove-python", default=None)
    parser.add_argument("--documents", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--judge", choices=("ours", "datatrove"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.judge:
        texts = json.loads(arguments.folder.read_text(encoding="utf-8"))
        print(json.dumps(judge_ours(texts) if arguments.judge == "ours" else judge_theirs(texts)))
        return
    texts = choose_documents(arguments.folder, arguments.documents)
    judges = {"ours": sys.executable}
    if arguments.datatrove_python:
        judges["datatrove"] = arguments.datatrove_python
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in judges}
    reasons: dict[str, dict[str, list[str | None]]] = {name: {rules: [] for rules in SAME} for name in judges}
    peaks = dict.fromkeys(judges, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            part = texts[number :: arguments.rounds]
            size = sum(len(text.encode()) for text in part) / 1e6
            file = Path(folder, "documents.json")
            file.write_text(json.dumps(part), encoding="utf-8")
            for name, python in judges.items():
                measured, found = run(python, name, file)
                speeds[name].append((size / measured["seconds"], len(part) / measured["seconds"]))
                peaks[name] = max(peaks[name], measured["peak"])
                for rules in SAME:
                    reasons[name][rules].extend(found[rules])
    texts = [text for number in range(arguments.rounds) for text in texts[number :: arguments.rounds]]
    print(
        f"{len(texts)} documents, {sum(len(text.encode()) for text in texts) / 1e6:.1f} MB, {arguments.rounds} rounds"
    )
    for name in judges:
        megabytes, documents = (statistics.median(column) for column in zip(*speeds[name], strict=True))
        print(f"{name:10} {megabytes:8.2f} MB/s {documents:9.0f} documents/s  peak {peaks[name]:6.0f} MiB")
    if len(judges) == 2:
        ratios = [mine[0] / other[0] for mine, other in zip(speeds["ours"], speeds["datatrove"], strict=True)]
        print(f"ratio {statistics.median(ratios):.0f} (rounds: {', '.join(f'{ratio:.0f}' for ratio in ratios)})")
        compare(reasons["ours"], reasons["datatrove"], texts)


if __name__ == "__main__":
    main()
