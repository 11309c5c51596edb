"""Packing: the shards are those that the reference gives text by text, whoever encodes and wherever a shard ends."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from athanor.base import native
from athanor.base.errors import AthanorError
from athanor.base.progress import SilentProgress
from athanor.base.records import encode_record, read_records
from athanor.data import lines
from athanor.data.document import make_document
from athanor.data.packing.pack import PackSettings, TokenFiles, TokenWriter, document_mark, pack_documents
from athanor.data.packing.table import table_row
from athanor.data.shards import ShardWriter
from athanor.store.artifact import Artifact, Store
from athanor.tokens import tokenizer as tokens
from athanor.tokens.tokenizer import DOCUMENT, Tokenizer
from tests.tokens import makers
from tests.tokens.samples import LEARN, NASTY, random_texts

TEXTS = [*LEARN, *NASTY, *random_texts(40), "苯甲醛 <|document|> <|end|>", "x" * 3000]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


def corpus_of(store: Store, train: list[str], heldout: list[str]) -> Artifact:
    folder = store.workplace("corpus-1")
    for split, texts in (("train", train), ("heldout", heldout)):
        with ShardWriter(folder, split, shard_bytes=20_000) as writer:
            for number, text in enumerate(texts):
                writer.write(make_document(text, f"{split}-{number}", language="en"))
    return store.commit("corpus-1", {"kind": "corpus", "measurements": {}})


def tokenizer_of(store: Store, tokenizer: Tokenizer) -> Artifact:
    tokenizer.save(store.workplace("tokenizer-1"))
    return store.commit("tokenizer-1", {"kind": "tokenizer", "measurements": {}})


def packed(store: Store, tokenizer: Tokenizer, folder: Path, shard_tokens: int = 1_024) -> dict:
    parents = {"corpus": corpus_of(store, TEXTS, ["held out"]), "tokenizer": tokenizer_of(store, tokenizer)}
    folder.mkdir()
    return pack_documents(PackSettings(shard_tokens=shard_tokens), parents, folder, SilentProgress())


def plain_ids(tokenizer: Tokenizer, mark: int, texts: list[str]) -> list[list[int]]:
    """Each document by the library's reference, one call per text."""
    core = tokenizers.Tokenizer.from_str(tokenizer.core.to_str())
    core.encode_special_tokens = True
    return [[mark, *core.encode(text, add_special_tokens=False).ids] for text in texts]


@pytest.mark.parametrize("worth", [0, 10**9], ids=["fast", "reference"])
def test_the_shards_are_the_references_to_the_byte(
    worth: int, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "WORTH", worth)
    monkeypatch.setattr(tokens, "PORTION", 700)  # many portions, encoded by threads, out of step with documents
    tokenizer = Tokenizer.train(LEARN, 600)
    measured = packed(store, tokenizer, tmp_path / "out")
    rows = plain_ids(tokenizer, tokenizer.special[DOCUMENT], TEXTS)
    whole = np.array([index for row in rows for index in row], np.uint16)
    for number, start in enumerate(range(0, len(whole), 1_024)):
        np.save(tmp_path / "expected.npy", whole[start : start + 1_024])
        assert (tmp_path / "out" / f"train-{number:05d}.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert len(list((tmp_path / "out").glob("train-0*.npy"))) == -(-len(whole) // 1_024) > 2
    starts = np.load(tmp_path / "out" / "train-starts.npy")
    assert starts.tolist() == np.cumsum([0, *(len(row) for row in rows)]).tolist()
    table = list(read_records(tmp_path / "out" / "train-documents.jsonl.zst"))
    assert [row["source"] for row in table] == [f"train-{number}" for number in range(len(TEXTS))]
    assert [row["bytes"] for row in table] == [len(text.encode()) for text in TEXTS]
    size = sum(row["bytes"] for row in table)
    assert measured["tokens"] == len(whole) and measured["bytes_per_token"] == round(size / len(whole), 4)
    assert measured["heldout_bytes"] == len("held out") and measured["dtype"] == "uint16"


def test_a_shard_that_ends_with_the_text_is_not_followed_by_an_empty_one(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path, "train", np.uint16, 8)
    for ids in ([1, 2, 3], np.arange(4, 17, dtype=np.uint32)):
        writer.write(ids)
    writer.close()
    shards = [np.load(path).tolist() for path in sorted(tmp_path.glob("*.npy"))]
    assert shards == [list(range(1, 9)), list(range(9, 17))] and writer.tokens == 16
    TokenWriter(tmp_path, "heldout", np.uint16, 8).close()
    assert np.load(tmp_path / "heldout-00000.npy").tolist() == []


@pytest.mark.parametrize(("name", "mark"), [("llama3", "bos"), ("qwen", "eos"), ("gpt2", "bos")])
def test_another_models_documents_begin_with_its_own_mark(name: str, mark: str, store: Store, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    makers.MAKERS[name](tmp_path / name)
    tokenizer = Tokenizer.load(tmp_path / name)
    spelling = getattr(tokenizer, mark)
    assert spelling is not None and (mark == "bos" or tokenizer.bos is None)
    packed(store, tokenizer, tmp_path / "out", 64_000)
    files = TokenFiles(tmp_path / "out")
    index = tokenizer.core.token_to_id(spelling)
    ids = files.read(0, files.tokens)
    assert files.documents == len(TEXTS) and (ids[files.starts_D[:-1]] == index).all()
    assert (ids == index).sum() == len(TEXTS)  # text that spells it stays text
    assert ids.tolist() == [index for row in plain_ids(tokenizer, index, TEXTS) for index in row]


def test_a_tokenizer_without_a_mark_is_refused(store: Store, tmp_path: Path) -> None:
    core = tokenizers.Tokenizer.from_str(Tokenizer.train(LEARN, 300).core.to_str().replace("<|document|>", "<|other|>"))
    tokenizer = Tokenizer(core, {"tokenizer_class": "PreTrainedTokenizerFast"})
    with pytest.raises(AthanorError, match="no token to begin a document with") as refused:
        packed(store, tokenizer, tmp_path / "out")
    assert "bos_token" in str(refused.value) and list((tmp_path / "out").iterdir()) == []
    named = Tokenizer(core, {"eos_token": "<|end|>"})
    assert document_mark(named) == core.token_to_id("<|end|>")


def test_large_ids_get_four_bytes(store: Store, tmp_path: Path) -> None:
    """An id past 65,535 in a vocabulary that is far smaller."""
    told = Tokenizer.train(LEARN, 300).core.to_str()
    told = told.replace('"id":0,', '"id":70000,').replace('"<|document|>":0', '"<|document|>":70000')
    core = tokenizers.Tokenizer.from_str(told)
    assert core.token_to_id(DOCUMENT) == 70_000
    measured = packed(store, Tokenizer(core), tmp_path / "out")
    assert measured["dtype"] == "uint32"
    assert TokenFiles(tmp_path / "out").read(0, 1).tolist() == [70_000]


def test_a_corpus_packs_to_the_same_bytes_as_ever(store: Store, tmp_path: Path) -> None:
    """The digest was taken from the code before encoding by arrays."""
    tokenizer = Tokenizer.train(LEARN, 600)
    packed(store, tokenizer, tmp_path / "out", 64_000_000)
    names = ("train-00000.npy", "train-starts.npy", "heldout-00000.npy", "heldout-starts.npy", "funnel.json")
    digest = hashlib.sha256(b"".join((tmp_path / "out" / name).read_bytes() for name in names)).hexdigest()
    assert digest == "5a630943238b56ef2c79db406fc0ee61a342cd450fceb37adbf52f6f8ca0328b"


def test_the_files_are_the_same_with_and_without_the_c_library(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native.available():
        pytest.skip(f"the C library is not in use: {native.describe()}")
    monkeypatch.setattr(tokens, "WORTH", 0)
    monkeypatch.setattr(lines, "BLOCK", 3_000)
    folder = store.workplace("corpus-1")
    sources = ["plain", 'quoted "name"', "back\\slash", "中文 é 😀", "new\nline", "\x7f\x01", "", "x" * 2_000]
    with ShardWriter(folder, "train", shard_bytes=20_000) as writer:
        for number, text in enumerate(TEXTS):
            language = (None, "en", "zh", 'odd"')[number % 4]
            writer.write(make_document(text, sources[number % len(sources)], language=language, score=number / 7))
        writer.write_line(b'{"text": "\\u6c49 fields in another order", "source": "\\u00e9", "id": "1", "n": 1e9}\n', 1)
    with ShardWriter(folder, "heldout") as writer:
        writer.write(make_document("held out", "h"))
    parents = {
        "corpus": store.commit("corpus-1", {"kind": "corpus", "measurements": {}}),
        "tokenizer": tokenizer_of(store, Tokenizer.train(LEARN, 600)),
    }
    for name in ("library", "python"):
        monkeypatch.setattr(native, "available", lambda name=name: name == "library")
        (tmp_path / name).mkdir()
        pack_documents(PackSettings(shard_tokens=1_024), parents, tmp_path / name, SilentProgress())
    names = sorted(path.name for path in (tmp_path / "python").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "library").iterdir()) and len(names) > 6
    for name in names:
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "library" / name).read_bytes(), name
    for document in (make_document(text, source, language=None) for text in TEXTS for source in sources):
        row = {"id": document.id, "source": document.source, "language": None, "bytes": document.bytes}
        assert table_row(document) == encode_record({**row, "characters": len(document.text)})
