"""Language identification: ours beside py3langid, gcld3, pycld2 and resiliparse on the same sentences.

    python benchmarks/corpus/languages.py ../shared/data/text --peer-python venv/bin/python [--model other.npz]

Four sets (benchmarks/corpus/train_languages.py names the first three): held-out sentences of 75 languages from the
source that ours was trained on, which favours ours; the Universal Declaration in those languages, which is another
kind of text for everybody when --model was trained --without-shared-declarations (for the shipped model only its
held-out lines are used); the Declaration's held-out lines in the other languages; captions and questions in seven
languages, another kind of text for every model here. "all" counts every line; "its languages" only those that the
library knows, so that none is punished for languages it does not have. CPU seconds of one thread, peers in turns with
ours, medians.
"""

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

Answer = Callable[[list[str]], list[str]]
PEERS = ("py3langid", "gcld3", "pycld2", "resiliparse")
SAME = {"no": "nb", "iw": "he", "zh-cn": "zh", "zh-tw": "zh", "zh-Hant": "zh", "zh-Latn": "zh", "fil": "tl", "jw": "jv"}


def identifier(name: str, model: str | None) -> tuple[Answer, set[str] | None]:
    """(texts to codes, the codes it knows; None when it does not say) of a library."""
    if name == "athanor":
        from athanor.data.cleaning.language import LanguageModel

        ours = LanguageModel.load(Path(model) if model else None)
        return (lambda texts: [code for code, _ in ours.identify(texts, least=0.0)]), set(ours.names)
    if name == "py3langid":
        import py3langid
        from py3langid import langid

        py3langid.classify("Load the model.")
        return (lambda texts: [py3langid.classify(text)[0] for text in texts]), set(langid.IDENTIFIER.labels)
    if name == "gcld3":
        import gcld3

        found = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=2000)
        return (lambda texts: [found.FindLanguage(text=text).language for text in texts]), None
    if name == "pycld2":
        import pycld2

        def detect(text: str) -> str:
            try:
                return pycld2.detect(text, bestEffort=True)[2][0][1]
            except pycld2.error:  # control characters
                return "un"

        return (lambda texts: [detect(text) for text in texts]), None
    from resiliparse.parse.lang import detect_fast, supported_langs

    return (lambda texts: [detect_fast(text)[0] for text in texts]), set(supported_langs())


def serve(name: str, model: str | None) -> None:
    """Run by the benchmark in a peer's Python: a file of texts per line of input; answers codes and CPU seconds."""
    answer, known = identifier(name, model)
    for line in sys.stdin:
        texts = json.loads(Path(line.strip()).read_text())
        before = time.process_time()
        codes = [SAME.get(code, code) for code in map(str, answer(texts))]
        seconds = time.process_time() - before
        said = None if known is None else sorted({SAME.get(code, code) for code in map(str, known)})
        print(json.dumps({"codes": codes, "seconds": seconds, "known": said}), flush=True)


def compare(sets: dict[str, list[tuple[str, str]]], pythons: dict[str, str], model: str | None, rounds: int) -> None:
    """Print, for every set, the speed and accuracy of every library that answers."""
    workers = {
        name: subprocess.Popen(
            [python, __file__, "--serve", name, *(["--model", model] if model else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name, python in pythons.items()
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for title, rows in sets.items():
            file = Path(folder) / "texts.json"
            file.write_text(json.dumps([text for text, _ in rows]))
            print(f"\n{title}: {len(rows)} lines, {len({code for _, code in rows})} languages")
            answers: dict[str, dict] = {}
            for _ in range(rounds):
                for name, worker in workers.items():
                    if worker.poll() is None:  # one that is not installed there has ended with its own message
                        ask(worker, file, answers.setdefault(name, {"seconds": []}))
            for name, answer in answers.items():
                if "codes" in answer:
                    print(report(name, rows, answer, answers["athanor"]))
    for worker in workers.values():
        worker.communicate()


def ask(worker: subprocess.Popen, file: Path, answer: dict) -> None:
    """One round: the worker's codes for the file's texts, and its seconds added to those of the rounds before."""
    print(file, file=worker.stdin, flush=True)
    if line := worker.stdout.readline():
        new = json.loads(line)
        answer["seconds"].append(new.pop("seconds"))
        answer.update(new)


def report(name: str, rows: list[tuple[str, str]], answer: dict, ours: dict) -> str:
    """A line: texts a second, share of right codes, and both shares on the languages that the library knows."""
    expected = [code for _, code in rows]
    known = set(answer["known"] or answer["codes"])
    right, ours_right = (
        [code == truth for code, truth in zip(each["codes"], expected, strict=True)] for each in (answer, ours)
    )
    shared = [number for number, truth in enumerate(expected) if truth in known]
    share, ours_share = (sum(hits[number] for number in shared) / max(1, len(shared)) for hits in (right, ours_right))
    speed = len(rows) / statistics.median(answer["seconds"])
    return (
        f"{name:12}{speed:9.0f}/s   all {sum(right) / len(right):.4f}   "
        f"its {len(known & set(expected)):3} languages ({len(shared)} lines): {share:.4f}, ours there {ours_share:.4f}"
    )


def read_other(folder: Path) -> list[tuple[str, str]]:
    """Captions of pictures (multi30k: cs, de, en, fr) and questions (xquad: ar, en, es, zh), as many as there are."""
    rows: dict[tuple[str, str], None] = {}
    captions, questions = folder / "multi30k.jsonl.gz", folder.parent / "tasks" / "xquad.jsonl.gz"
    if captions.is_file():
        with gzip.open(captions, "rt", encoding="utf-8") as file:
            for row in list(map(json.loads, file))[::60]:
                rows |= {(row[code], code): None for code in ("cs", "de", "en", "fr") if row.get(code)}
    if questions.is_file():
        with gzip.open(questions, "rt", encoding="utf-8") as file:
            rows |= {(row["question"], row["lang"]): None for row in map(json.loads, file)}
    return list(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--peer-python", help="a Python with the peers; without it only ours runs")
    parser.add_argument("--model", help="a model file instead of the shipped one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.model)
        return
    from train_languages import held_out, read_lines

    sentences, declarations = read_lines(arguments.folder)
    unseen = arguments.model is not None
    sets = {
        "sentences, held out": [(line, code) for code in sentences for line in sentences[code] if held_out(line)],
        f"declaration, languages with sentences ({'all' if unseen else 'held out'} lines)": [
            (line, code) for code in sentences for line in declarations.get(code, []) if unseen or held_out(line)
        ],
        "declaration, other languages (held out lines)": [
            (line, code)
            for code in declarations
            if code not in sentences
            for line in declarations[code]
            if held_out(line)
        ],
    }
    if other := read_other(arguments.folder):
        sets["captions and questions: another kind of text for all models"] = other
    pythons = {"athanor": sys.executable}
    if arguments.peer_python:
        pythons |= dict.fromkeys(PEERS, arguments.peer_python)
    compare(sets, pythons, arguments.model, arguments.rounds)


if __name__ == "__main__":
    main()
