"""Artifacts exist whole or not at all, and no change to them goes unseen."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from athanor.base.errors import AthanorError
from athanor.store.artifact import RECORD, Artifact, Store, artifact_name, find_store

RECORD_OF_A_MODEL = {"kind": "model", "step": "pretrain", "parents": {}, "measurements": {}}


def make_model(store: Store, name: str = "model-0123456789abcdef") -> Artifact:
    folder = store.create().workplace(name)
    tensors = {
        "embed.weight": np.arange(64, dtype=np.float32).reshape(8, 8),
        "head.weight": np.ones((4, 8), np.float16),
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"layers": 2}')
    return store.commit(name, RECORD_OF_A_MODEL)


def test_every_flipped_bit_is_reported_with_file_and_tensor(tmp_path: Path) -> None:
    """One bit anywhere: in the checkpoint's tensors or header, the config, the record itself."""
    artifact = make_model(Store(tmp_path))
    draw = random.Random(1)
    for file in ("model.safetensors", "config.json", RECORD):
        path = artifact.path / file
        good = path.read_bytes()
        for _ in range(40):
            place, bit = draw.randrange(len(good)), draw.randrange(8)
            path.write_bytes(good[:place] + bytes([good[place] ^ (1 << bit)]) + good[place + 1 :])
            with pytest.raises(AthanorError) as caught:
                Artifact(artifact.path).verify()
            assert file in str(caught.value)
        path.write_bytes(good)
    Artifact(artifact.path).verify()


def test_the_damaged_tensor_is_named(tmp_path: Path) -> None:
    artifact = make_model(Store(tmp_path))
    path = artifact.path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last byte belongs to head.weight: safetensors puts wider types first
    path.write_bytes(data)
    with pytest.raises(AthanorError, match=r"model\.safetensors.*head\.weight"):
        Artifact(artifact.path).file("model.safetensors")


def test_missing_added_and_truncated_files_are_reported(tmp_path: Path) -> None:
    artifact = make_model(Store(tmp_path))
    (artifact.path / "extra.txt").write_text("not ours")
    with pytest.raises(AthanorError, match=r"extra\.txt"):
        Artifact(artifact.path).verify()
    (artifact.path / "extra.txt").unlink()
    path = artifact.path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(AthanorError, match=r"model\.safetensors"):
        Artifact(artifact.path).verify()
    path.unlink()
    with pytest.raises(AthanorError, match="missing"):
        Artifact(artifact.path).verify()


def test_an_unfinished_workplace_is_not_an_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path).create()
    (store.workplace("model-aaaa") / "model.safetensors").write_bytes(b"half")
    assert not store.has("model-aaaa")
    assert list(store.all()) == []


def test_the_name_depends_on_everything_that_made_it() -> None:
    base = artifact_name("model", "pretrain", {"steps": 2}, {"shards": "shards-1"}, "code-1")
    others = {
        artifact_name("model", "pretrain", {"steps": 3}, {"shards": "shards-1"}, "code-1"),
        artifact_name("model", "pretrain", {"steps": 2}, {"shards": "shards-2"}, "code-1"),
        artifact_name("model", "pretrain", {"steps": 2}, {"shards": "shards-1"}, "code-2"),
        artifact_name("model", "finetune", {"steps": 2}, {"shards": "shards-1"}, "code-1"),
    }
    assert len(others | {base}) == 5
    assert base == artifact_name("model", "pretrain", {"steps": 2}, {"shards": "shards-1"}, "code-1")


def test_a_name_may_be_shortened_but_not_ambiguous(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_model(store, "model-aaaa000000000000")
    make_model(store, "model-aaab000000000000")
    assert store.get("aaaa").id == store.get("model-aaaa").id == "model-aaaa000000000000"
    with pytest.raises(AthanorError, match="names 2 artifacts"):
        store.get("model-aaa")
    with pytest.raises(AthanorError, match="names no artifacts"):
        store.get("../../etc")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    artifact = make_model(Store(tmp_path))
    record = json.loads((artifact.path / RECORD).read_text())
    (artifact.path / RECORD).write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(AthanorError, match="99"):
        Artifact(artifact.path)


def test_the_nearest_store_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATHANOR_STORE", raising=False)
    Store(tmp_path / ".athanor").create()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert find_store().root == tmp_path / ".athanor"
    assert find_store(str(tmp_path)).root == tmp_path
    monkeypatch.setenv("ATHANOR_STORE", str(tmp_path / "a"))
    assert find_store().root == tmp_path / "a"
    with pytest.raises(AthanorError, match="no store"):
        find_store(str(tmp_path / "nowhere"))
