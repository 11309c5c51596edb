"""The step `pack`, from documents on disk to token shards: megabytes of text per second of processor time.

    python benchmarks/tokens/shards.py --texts FOLDER --vocabulary 16000

FOLDER holds gzipped JSON lines with a field "text": en_gutenberg.jsonl.gz and zh_poetry.jsonl.gz by default. Each file
becomes a corpus (texts above 100,000 letters are cut) and is packed several times; the tokens of the first round are
compared with the reference's, text by text. `from rest` is the first round: it proves the fast encoder exact and makes
it ready, as a run does once; `after` is the median of the others. The clock is processor time of all threads together,
which a busy neighbour changes little; the wall clock stands beside it.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from encode import MEGA, read

from athanor.base.progress import SilentProgress
from athanor.data.document import make_document
from athanor.data.packing.pack import PackSettings, TokenFiles, pack_documents
from athanor.data.shards import ShardWriter
from athanor.store.artifact import Artifact, Store
from athanor.tokens.tokenizer import DOCUMENT, Tokenizer


def make_parents(store: Store, name: str, texts: list[str], tokenizer: Tokenizer) -> dict[str, Artifact]:
    """A corpus of the texts, one of them held out as well, and the tokenizer, as artifacts."""
    folder = store.workplace(f"corpus-{name}")
    for split, rows in (("train", texts), ("heldout", texts[:1])):
        with ShardWriter(folder, split) as writer:
            for number, text in enumerate(rows):
                writer.write(make_document(text, f"{name}#{number}", language=name[:2]))
    tokenizer.save(store.workplace(f"tokenizer-{name}"))
    record = {"measurements": {}}
    return {
        "corpus": store.commit(f"corpus-{name}", {"kind": "corpus", **record}),
        "tokenizer": store.commit(f"tokenizer-{name}", {"kind": "tokenizer", **record}),
    }


def measure(store: Store, parents: dict[str, Artifact], folder: Path, rounds: int) -> list[tuple[float, float]]:
    """Seconds of processor and of the wall clock, of each round; the parents are verified anew in each, as in a run."""
    times = []
    for number in range(rounds + 1):
        fresh = {role: store.get(artifact.id) for role, artifact in parents.items()}
        target = folder / str(number)
        target.mkdir(parents=True)
        processor, wall = time.process_time(), time.perf_counter()
        pack_documents(PackSettings(), fresh, target, SilentProgress())
        times.append((time.process_time() - processor, time.perf_counter() - wall))
    return times


def check(folder: Path, texts: list[str], tokenizer: Tokenizer) -> None:
    """Compare every token with those of the reference."""
    files, place = TokenFiles(folder), 0
    for text in texts:
        expected = [
            tokenizer.special[DOCUMENT], *tokenizer.core.encode_batch_fast([text], add_special_tokens=False)[0].ids
        ]  # fmt: skip
        if not np.array_equal(files.read(place, place + len(expected)), expected):
            raise SystemExit(f"the tokens differ from place {place} on")
        place += len(expected)
    if place != files.tokens:
        raise SystemExit(f"{files.tokens} tokens, {place} expected")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--files", nargs="+", default=["en_gutenberg", "zh_poetry"])
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--bytes", type=int, default=12_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    corpora = {name: read(args.texts / f"{name}.jsonl.gz", args.bytes) for name in args.files}
    tokenizer = Tokenizer.train([text for texts in corpora.values() for text in texts], args.vocabulary)
    for name, texts in corpora.items():
        with tempfile.TemporaryDirectory() as place:
            store = Store(Path(place) / "store").create()
            times = measure(store, make_parents(store, name, texts, tokenizer), Path(place) / "out", args.rounds)
            check(Path(place) / "out" / "0", texts, tokenizer)
        size = sum(len(text.encode()) for text in texts)
        later = statistics.median(processor for processor, _ in times[1:])
        wall = statistics.median(wall for _, wall in times[1:])
        print(
            f"{name:14} {size / MEGA:.1f} MB in {len(texts):,} documents of {size // len(texts):,} bytes · MB/s of "
            f"processor time: {size / MEGA / later:.1f} after, {size / MEGA / times[0][0]:.1f} from rest · wall "
            f"{size / MEGA / wall:.1f} MB/s · every token the reference's"
        )


if __name__ == "__main__":
    main()
