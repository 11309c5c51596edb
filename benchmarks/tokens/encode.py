"""Megabytes of text per second and core: ours beside the `tokenizers` library's batch call, rounds interleaved.

    python benchmarks/tokens/encode.py --texts FOLDER --vocabulary 16000

FOLDER holds gzipped JSON lines with a field "text": en_gutenberg.jsonl.gz and zh_poetry.jsonl.gz by default. Both run
in one thread and the clock is CPU time, which a busy neighbour does not change. Every round encodes the same texts
with both and compares every id. The last figure is ours on the wall clock
with all processors.
"""

import argparse
import gzip
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from athanor.tokens import tokenizer as module
from athanor.tokens.tokenizer import Tokenizer

MEGA = 1e6


def read(path: Path, most: int) -> list[str]:
    """Texts of a file, up to `most` bytes; long ones are cut into pieces of 100,000 letters, as documents are."""
    texts: list[str] = []
    size = 0
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            for place in range(0, len(text), 100_000):
                texts.append(text[place : place + 100_000])
                size += len(texts[-1].encode())
                if size >= most:
                    return texts
    return texts


def measure(tokenizer: Tokenizer, texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round: the library's batch call (ids taken as lists), our numpy ids, our lists of ids."""

    def library() -> list[list[int]]:
        return [row.ids for row in tokenizer.core.encode_batch_fast(texts, add_special_tokens=False)]

    def arrays() -> list[np.ndarray]:
        return list(tokenizer.encode_corpus(texts))

    def lists() -> list[list[int]]:
        return tokenizer.encode_batch(texts)

    runs: dict[str, Callable[[], list]] = {"tokenizers": library, "encode_corpus": arrays, "encode_batch": lists}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        found = {}
        for name, run in runs.items():
            start = time.process_time()
            found[name] = run()
            if number:  # the first round warms up
                times[name].append(time.process_time() - start)
        same = all(
            one == other.tolist() == third
            for one, other, third in zip(
                found["tokenizers"], found["encode_corpus"], found["encode_batch"], strict=True
            )
        )
        if not same:
            raise SystemExit("the ids differ")
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--files", nargs="+", default=["en_gutenberg", "zh_poetry"])
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--bytes", type=int, default=8_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    corpora = {name: read(args.texts / f"{name}.jsonl.gz", args.bytes) for name in args.files}
    tokenizer = Tokenizer.train([text for texts in corpora.values() for text in texts], args.vocabulary)
    start = time.perf_counter()
    if not tokenizer.prepare_fast():
        raise SystemExit("there is no fast encoder for this tokenizer")
    print(f"vocabulary {tokenizer.vocabulary}; made ready in {time.perf_counter() - start:.2f} s")
    processors = module.processors
    for name, texts in corpora.items():
        size = sum(len(text.encode()) for text in texts) / MEGA
        module.processors = lambda: 1
        times = measure(tokenizer, texts, args.rounds)
        middle = {run: statistics.median(spent) for run, spent in times.items()}
        ratio = statistics.median(a / b for a, b in zip(times["tokenizers"], times["encode_corpus"], strict=True))
        rates = "  ".join(f"{run} {size / spent:.1f}" for run, spent in middle.items())
        module.processors = processors
        start = time.perf_counter()
        count = sum(len(ids) for ids in tokenizer.encode_corpus(texts))
        wall = time.perf_counter() - start
        print(
            f"{name:16} {size:.1f} MB, {size * MEGA / count:.2f} bytes per token · MB/s of one core, medians of "
            f"{args.rounds}: {rates} · {ratio:.1f} times the library, all ids the same · "
            f"{processors()} threads {size / wall:.1f} MB/s"
        )


if __name__ == "__main__":
    main()
