"""From raw JSON lines to filtered, deduplicated token shards: our steps beside datatrove's stages in series.

    python benchmarks/corpus/planted.py --texts FOLDER --out CORPUS
    python benchmarks/corpus/end_to_end.py --corpus CORPUS --work FOLDER [--datatrove-python PATH --peer-documents 6000]

CORPUS holds en.jsonl and zh.jsonl. Ours are the recipe's own steps: read, clean (repair, language, published rules,
personal data masked, copies, a part held out), pack, each with its artifact written and verified. datatrove's:
Gopher's repetition and quality, C4 and FineWeb rules, MinHash in four stages, tokens; it masks nothing and repairs
nothing. Both use one tokenizer, trained before. PATH is a Python with datatrove, spacy, jieba, orjson, xxhash and
tokenizers. Every run is a process of its own with one thread; CPU seconds, user and system, from the first import to
the last byte; megabytes are those of the texts without JSON. datatrove is slow: it runs on the first documents only, in
turns with ours on the same ones. It has no rules for Chinese that keep Chinese, so it runs on English.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

STEPS = ("read", "clean", "pack")
DATATROVE = """
import os, sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline import filters
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
source, work, tokenizer = sys.argv[1:4]
config = MinhashConfig()
kept = JsonlReader(work + "/kept", compression=None)
rules = [filters.GopherRepetitionFilter(), filters.GopherQualityFilter(), filters.C4QualityFilter(),
         filters.FineWebQualityFilter()]
raw = JsonlReader(os.path.dirname(source), glob_pattern=os.path.basename(source), compression=None)
steps = [
    [raw, *rules, JsonlWriter(work + "/kept", compression=None)],
    [kept, MinhashDedupSignature(work + "/signatures", config)],
    [MinhashDedupBuckets(work + "/signatures", work + "/buckets", config=config)],
    [MinhashDedupCluster(work + "/buckets", work + "/remove", config=config)],
    [kept, MinhashDedupFilter(work + "/remove"), JsonlWriter(work + "/unique", compression=None)],
    [JsonlReader(work + "/unique", compression=None), DocumentTokenizer(
        work + "/tokens", local_working_dir=work + "/local", tokenizer_name_or_path=tokenizer, eos_token="<|document|>",
        shuffle_documents=False)],
]
for number, step in enumerate(steps):
    tasks = config.num_buckets if number == 2 else 1
    LocalPipelineExecutor(pipeline=step, tasks=tasks, workers=1, logging_dir=f"{work}/logs{number}").run()
"""


def run_steps(source: Path, work: Path, tokenizer: Path) -> None:
    """Run by the benchmark in a process of its own: our steps; prints the seconds of each."""
    from athanor.base.progress import SilentProgress
    from athanor.recipes.steps import step_named
    from athanor.store.artifact import Store

    store = Store(work / "store").create()
    shutil.copytree(tokenizer, store.workplace("tokenizer"), dirs_exist_ok=True)
    made = {"tokenizer": store.commit("tokenizer", {"kind": "tokenizer", "measurements": {}})}
    settings: dict[str, dict[str, Any]] = {"read": {"path": str(source)}, "clean": {"rules": "published"}, "pack": {}}
    roles = {"read": {}, "clean": {"documents": "read"}, "pack": {"corpus": "clean", "tokenizer": "tokenizer"}}
    seconds = {}
    for name in STEPS:
        begun = time.process_time()
        step = step_named(name)
        folder = store.workplace(name)
        parents = {role: made[parent] for role, parent in roles[name].items()}
        done = step.load()(step.settings_class()(**settings[name]), parents, folder, SilentProgress())
        made[name] = store.commit(name, {"kind": step.makes, "measurements": done})
        seconds[name] = time.process_time() - begun
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"steps": seconds, "peak": int(peak.split()[1]) * 1024, "tokens": done["tokens"]}))


def run(command: list[str], work: Path) -> tuple[float, str]:
    """CPU seconds of a process, and what it printed."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, use = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:2])[:200]} ended with {process.returncode}")
    return use.ru_utime + use.ru_stime, printed


def text_megabytes(path: Path) -> tuple[int, float]:
    """(documents, megabytes of text) of a file."""
    with open(path, encoding="utf-8") as lines:
        sizes = [len(json.loads(line)["text"].encode()) for line in lines]
    return len(sizes), sum(sizes) / 1e6


def make_tokenizer(corpus: Path, folder: Path) -> Path:
    """A tokenizer of 16,000 tokens, half of its text from each language."""
    from athanor.tokens.tokenizer import Tokenizer

    texts = []
    for language in ("en", "zh"):
        with open(corpus / f"{language}.jsonl", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in islice(lines, 2_500)]
    folder.mkdir(parents=True, exist_ok=True)
    Tokenizer.train(texts, 16_000).save(folder)
    return folder


def measure_ours(source: Path, work: Path, tokenizer: Path, rounds: int) -> float:
    """Print the rates of ours on one file; the median CPU seconds."""
    documents, megabytes = text_megabytes(source)
    command = [sys.executable, __file__, "--steps", str(source), "--work", str(work), "--tokenizer", str(tokenizer)]
    measured = [run(command, work) for _ in range(rounds)]
    whole = statistics.median(seconds for seconds, _ in measured)
    told = [json.loads(printed.splitlines()[-1]) for _, printed in measured]
    parts = {name: statistics.median(one["steps"][name] for one in told) for name in STEPS}
    print(
        f"{source.name}: {documents} documents, {megabytes:.1f} MB, {told[0]['tokens']} tokens: {whole:.2f} s CPU, "
        f"{megabytes / whole:.2f} MB/s (median of {rounds}); "
        + ", ".join(f"{name} {megabytes / seconds:.1f}" for name, seconds in parts.items())
        + f"; peak {max(one['peak'] for one in told) / 1e6:.0f} MB"
    )
    return whole


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--datatrove-python")
    parser.add_argument("--peer-documents", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps:
        run_steps(args.steps, args.work, args.tokenizer)
        return
    tokenizer = make_tokenizer(args.corpus, args.work / "tokenizer")
    for language in ("en", "zh"):
        measure_ours((args.corpus / f"{language}.jsonl").resolve(), args.work / "ours", tokenizer, args.rounds)
    if args.datatrove_python:
        few = (args.work / "few.jsonl").resolve()
        with open(args.corpus / "en.jsonl", "rb") as lines:
            few.write_bytes(b"".join(islice(lines, args.peer_documents)))
        ours = measure_ours(few, args.work / "ours", tokenizer, args.rounds)
        folder = args.work / "datatrove"
        command = [args.datatrove_python, "-c", DATATROVE, str(few), str(folder), str(tokenizer / "tokenizer.json")]
        seconds, _ = run(command, folder)
        rate = text_megabytes(few)[1] / seconds
        print(f"datatrove on the same: {seconds:.1f} s CPU, {rate:.3f} MB/s; ratio {seconds / ours:.1f}")


if __name__ == "__main__":
    main()
