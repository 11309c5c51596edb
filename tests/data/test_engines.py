"""The corpus steps with one worker, several, and on a Ray cluster of two nodes: every byte the same."""

import os
import random
import signal
from pathlib import Path

import pytest

from athanor.base.files import hash_file
from athanor.base.workers import Workers, using
from athanor.data.cleaning.clean import CleanSettings, clean_documents
from athanor.data.copies import deduplicate, minhash
from athanor.data.copies.corpora import CorpusCopySettings, remove_corpus_copies
from athanor.data.copies.files import CopySettings, remove_copies
from athanor.data.packing.pack import PackSettings, pack_documents
from athanor.data.reading.read import ReadSettings, group_files, read_documents
from athanor.data.reading.sources import find_sources
from athanor.tokens.tokenizer import Tokenizer
from tests.data.cleaning.test_clean import story


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder of stories, some of them near or exact copies, junk, personal data and files that cannot be read."""
    folder = tmp_path / "raw"
    folder.mkdir()
    chance = random.Random(5)
    texts = [story(number, 12) for number in range(300)]
    texts += [text.replace("river", "stream", 1) for text in texts[:40]] + texts[100:120]
    texts += [f"{number} | home | cart | login\n" * 9 for number in range(40)]
    texts += [f"Write to person{number}@example-mail.de today. {story(number + 5_000)}" for number in range(40)]
    texts += ["村里的人清晨到河边去挑水，老人说今年的雨水比往年多。" * 3 + f"第{number}回。" for number in range(40)]
    chance.shuffle(texts)
    for number, text in enumerate(texts):
        (folder / f"{number:04d}.txt").write_text(text, encoding="utf-8")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    (folder / "long.txt").write_text("".join(story(number, 40) for number in range(9_000, 10_200)), encoding="utf-8")
    return folder


def make_all(run_step, raw: Path, tokenizer) -> dict[str, str]:
    """The hash of every file of every step's artifact."""
    documents = run_step(read_documents, ReadSettings(path=str(raw), max_document_bytes=20_000))
    corpus = run_step(clean_documents, CleanSettings(rules="published"), documents=documents)
    unique = run_step(remove_corpus_copies, CorpusCopySettings(threshold=0.5), corpus=corpus)
    shards = run_step(pack_documents, PackSettings(), corpus=unique, tokenizer=tokenizer)
    found = {}
    for artifact in (documents, corpus, unique, shards):
        for path in sorted(artifact.path.iterdir()):
            if path.name != "artifact.json":
                found[f"{artifact.record['kind']}/{path.name}"] = hash_file(path)
        found[f"{artifact.record['kind']} says"] = str(artifact.measurements)
    return found


@pytest.fixture
def tokenizer(run_step):
    def save(settings, parents, folder, progress):
        Tokenizer.train([story(number) for number in range(50)], 400).save(folder)
        return {}

    return run_step(save, None)


def test_artifacts_do_not_depend_on_the_number_of_workers(run_step, raw, tokenizer, monkeypatch):
    assert len(list(group_files(find_sources(str(raw))))) >= 2, "more pieces than one"
    alone = make_all(run_step, raw, tokenizer)
    assert "clean_documents/funnel.json" in alone and len(alone) >= 16
    for count, waiting in ((2, minhash.WAITING_BYTES), (3, 1)):  # keys in memory; on disk, bands shared among workers
        monkeypatch.setattr(minhash, "WAITING_BYTES", waiting)
        with using(Workers(count)):
            assert make_all(run_step, raw, tokenizer) == alone


def test_copies_of_files_do_not_depend_on_the_number_of_workers(tmp_path):
    import json

    rows = [json.dumps({"id": str(number), "text": story(number % 900, 6)}) for number in range(1_500)]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(rows) + "\n")
    done = []
    for count in (1, 2):
        with using(Workers(count)):
            figures = remove_copies([source, source], tmp_path / str(count), CopySettings())
        done.append((figures, [hash_file(path) for path in sorted((tmp_path / str(count)).iterdir())]))
    assert done[0] == done[1] and done[0][0]["kept"] == 900 and done[0][0]["exact_copies"] == 2_100


def kill_own_process_once(folder: Path, piece: int) -> int:
    mark = folder / f"died-{piece}"
    if piece == 5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return piece * piece


def always_kill_own_process(piece: int) -> int:
    if piece == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_makes_the_same_bytes(run_step, raw, tokenizer, tmp_path, monkeypatch):
    from functools import partial

    from athanor.base.errors import AthanorError

    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # the nodes' processes import us
    alone = make_all(run_step, raw, tokenizer)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000})
    cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    try:
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        assert len(ray.nodes()) == 2
        with using(Workers(engine="ray")):
            assert make_all(run_step, raw, tokenizer) == alone
            for module in (minhash, deduplicate):
                monkeypatch.setattr(module, "WAITING_BYTES", 1)  # as of many documents: the nodes sort bands from disk
            assert make_all(run_step, raw, tokenizer) == alone
        squares = Workers(engine="ray").map(partial(kill_own_process_once, tmp_path), range(12), str)
        assert list(squares) == [number * number for number in range(12)] and (tmp_path / "died-5").exists()
        with pytest.raises(AthanorError, match="piece 3: 3 workers died of it"):
            list(Workers(engine="ray").map(always_kill_own_process, range(6), lambda piece: f"piece {piece}"))
    finally:
        ray.shutdown()
        cluster.shutdown()
