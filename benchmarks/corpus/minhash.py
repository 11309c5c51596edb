"""Near copies: ours beside datatrove's MinHash pipeline, JSON lines in and out, on a corpus of known truth.

    python benchmarks/corpus/planted.py --texts FOLDER --out CORPUS
    python benchmarks/corpus/minhash.py --corpus CORPUS --datatrove-python PATH --work FOLDER

PATH is a Python that has datatrove with spacy, jieba, orjson and xxhash. Each run is a process of its own with one
thread; the clock is CPU time, user and system, from the first import to the last byte; megabytes are those of the
texts without JSON. Interleaved rounds, medians; the peer runs in `--peer-rounds` of them only, for it is slow.

The truth of a removal does not rest on the plan: every removed document is compared with all documents that stay, over
plain sets of word runs, and the highest similarity counts. Recall is over the planted pairs: one of the two is gone.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from planted import WORD, simplified_runs

OURS = """
import json, sys
from pathlib import Path
from athanor.data.copies.files import CopySettings, remove_copies
remove_copies([Path(sys.argv[1])], Path(sys.argv[2]), CopySettings())
"""
DATATROVE = """
import os, sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
source, work, language = sys.argv[1:4]
config = MinhashConfig()
reader = JsonlReader(os.path.dirname(source), glob_pattern=os.path.basename(source), compression=None)
steps = [
    [reader, MinhashDedupSignature(work + "/signatures", config, language=language)],
    [MinhashDedupBuckets(work + "/signatures", work + "/buckets", config=config)],
    [MinhashDedupCluster(work + "/buckets", work + "/remove", config=config)],
    [reader, MinhashDedupFilter(work + "/remove"), JsonlWriter(work + "/out", compression=None)],
]
for number, step in enumerate(steps):
    tasks = config.num_buckets if number == 1 else 1
    LocalPipelineExecutor(pipeline=step, tasks=tasks, workers=1, logging_dir=f"{work}/logs{number}").run()
"""
EDGES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.01)


def run(python: str, program: str, corpus: Path, work: Path, language: str) -> tuple[float, int, set[str]]:
    """(CPU seconds, peak bytes, ids that stay) of one process."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [python, "-c", program, str(corpus), str(work), language]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, use = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{python} ended with {process.returncode}: {' '.join(command[3:])}")
    left = next(path for path in (work / "documents.jsonl", *work.glob("out/*.jsonl")) if path.exists())
    with open(left, encoding="utf-8") as lines:
        kept = {json.loads(line)["id"] for line in lines}
    return use.ru_utime + use.ru_stime, use.ru_maxrss * 1024, kept


class Truth:
    """Exact similarities of a corpus, by plain sets of word runs turned into whole numbers."""

    def __init__(self, corpus: Path, language: str):
        self.language = language
        with open(corpus, encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        self.ids = [row["id"] for row in rows]
        self.bytes = sum(len(row["text"].encode()) for row in rows)
        with open(corpus.with_name(f"{language}.truth.jsonl"), encoding="utf-8") as lines:
            self.pairs = [json.loads(line) for line in lines]
        self.sets = {"jaccard": self._sets([WORD.findall(row["text"].lower()) for row in rows])}
        if language == "en":  # datatrove's own definition
            numbers: dict[tuple, int] = {}
            self.sets["jaccard_simplified"] = [
                np.array(sorted(numbers.setdefault(run, len(numbers)) for run in simplified_runs(row["text"])))
                for row in rows
            ]

    @staticmethod
    def _sets(documents: list[list[str]]) -> list[np.ndarray]:
        numbers: dict[tuple[str, ...], int] = {}
        found = []
        for words in documents:
            width = min(5, len(words))
            runs = {tuple(words[place : place + width]) for place in range(len(words) - width + 1)} if words else set()
            found.append(np.array(sorted(numbers.setdefault(run, len(numbers)) for run in runs), dtype=np.int64))
        return found

    def best(self, kept: set[str], key: str) -> np.ndarray:
        """For every removed document its highest similarity to any document that stays."""
        sets = self.sets[key]
        stays = [number for number, name in enumerate(self.ids) if name in kept]
        runs = np.concatenate([sets[number] for number in stays])
        owners = np.repeat(stays, [len(sets[number]) for number in stays])
        order = np.argsort(runs, kind="stable")
        runs, owners = runs[order], owners[order]
        sizes = np.array([len(part) for part in sets])
        highest = []
        for number, name in enumerate(self.ids):
            if name in kept:
                continue
            low, high = np.searchsorted(runs, sets[number]), np.searchsorted(runs, sets[number], side="right")
            counts = high - low
            places = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
            shared = np.bincount(owners[places], minlength=1) if len(places) else np.zeros(1)
            others = np.flatnonzero(shared)
            union = sizes[number] + sizes[others] - shared[others]
            highest.append(float((shared[others] / union).max(initial=0.0)))
        return np.array(highest)

    def report(self, name: str, kept: set[str]) -> None:
        """Print recall by similarity and the removals that are none."""
        for key in self.sets:
            line = []
            for low, high in pairwise(EDGES):
                pairs = [pair for pair in self.pairs if low <= pair[key] < high]
                gone = sum(
                    self.ids[pair["original"]] not in kept or self.ids[pair["copy"]] not in kept for pair in pairs
                )
                line.append(f"{low:.2f}-{min(high, 1):.2f}: {gone}/{len(pairs)}")
            above = [pair for pair in self.pairs if pair[key] >= 0.7]
            found = sum(self.ids[pair["original"]] not in kept or self.ids[pair["copy"]] not in kept for pair in above)
            best = self.best(kept, key)
            print(
                f"  {name} by {key}: recall at 0.7 {found / len(above):.4f} ({found}/{len(above)}); gone by similarity "
                f"{', '.join(line)}; {len(best)} removed, {(best < 0.7).sum()} less than 0.7 similar to all that stay"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--datatrove-python")
    parser.add_argument("--languages", nargs="+", default=["en", "zh"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-rounds", type=int, default=1)
    args = parser.parse_args()
    done = {}
    for language in args.languages:  # all runs before the truth: a process begins with its parent's memory
        corpus = (args.corpus / f"{language}.jsonl").resolve()
        programs = {"athanor": (sys.executable, OURS)}
        if args.datatrove_python:
            programs["datatrove"] = (args.datatrove_python, DATATROVE)
        measured: dict[str, list[tuple[float, int]]] = {name: [] for name in programs}
        kept: dict[str, set[str]] = {}
        for number in range(args.rounds):
            for name, (python, program) in programs.items():
                if name == "athanor" or number < args.peer_rounds:
                    seconds, peak, kept[name] = run(python, program, corpus, args.work / name, language)
                    measured[name].append((seconds, peak))
        few = args.work / f"few-{language}.jsonl"
        with open(corpus, "rb") as lines:
            few.write_bytes(b"".join(islice(lines, 20)))
        starts = {
            name: run(python, program, few.resolve(), args.work / name, language)[0]
            for name, (python, program) in programs.items()
        }
        done[language] = (corpus, measured, kept, starts)
    for language, (corpus, measured, kept, starts) in done.items():
        report(Truth(corpus, language), language, measured, kept, starts)


def report(
    truth: Truth,
    language: str,
    measured: dict[str, list[tuple[float, int]]],
    kept: dict[str, set[str]],
    starts: dict[str, float],
) -> None:
    """Print one language's figures; `starts` are the seconds that 20 documents take."""
    size = truth.bytes / 1e6
    print(f"{language}: {len(truth.ids)} documents, {size:.1f} MB of text, {len(truth.pairs)} planted pairs")
    rates, net = {}, {}
    for name, rounds in measured.items():
        middle = statistics.median(seconds for seconds, _ in rounds)
        rates[name], net[name] = size / middle, size / (middle - starts[name])
        print(
            f"  {name}: {size / rates[name]:.2f} s CPU, {rates[name]:.2f} MB/s of text (median of {len(rounds)}, "
            f"best {size / min(rounds)[0]:.2f}), {net[name]:.2f} without the {starts[name]:.2f} s of "
            f"starting, peak {max(peak for _, peak in rounds) / 1e6:.0f} MB"
        )
        truth.report(name, kept[name])
    if "datatrove" in rates:
        whole, beside = (found["athanor"] / found["datatrove"] for found in (rates, net))
        print(f"  ratio {whole:.1f}, without starting {beside:.1f}")


if __name__ == "__main__":
    main()
