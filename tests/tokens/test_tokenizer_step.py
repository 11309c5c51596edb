"""The step that trains a tokenizer: every kind, into an artifact that loads, with its report."""

from pathlib import Path

import pytest

from athanor.base.files import read_json
from athanor.base.progress import SilentProgress
from athanor.base.records import write_records
from athanor.data.document import make_document
from athanor.data.instruct.names import TRAIN
from athanor.data.shards import ShardWriter
from athanor.store.artifact import Artifact, Store
from athanor.tokens.conversation import Conversation
from athanor.tokens.learn import KINDS
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.tokenizer import TokenizerSettings, train_tokenizer
from tests.tokens.samples import LEARN

HELDOUT = [("en", "the cat sat on the mat"), ("zh", "今天天气很好"), ("en", "the other dog"), (None, "0 1 2")]


@pytest.fixture
def parents(tmp_path: Path) -> dict[str, Artifact]:
    store = Store(tmp_path / "store").create()
    corpus = store.workplace("corpus-1")
    for prefix, rows in (("train", [("en", text) for text in LEARN]), ("heldout", HELDOUT)):
        with ShardWriter(corpus, prefix) as writer:
            for number, (language, text) in enumerate(rows):
                writer.write(make_document(text, f"{prefix}-{number}", language=language))
    chats = store.workplace("conversations-1")
    write_records(chats / TRAIN, [Conversation.of(("user", "hello"), ("assistant", "the cat sat")).to_row()])
    return {
        "corpus": store.commit("corpus-1", {"kind": "corpus"}),
        "conversations": store.commit("conversations-1", {"kind": "conversations"}),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_an_artifact_with_a_report(kind: str, parents: dict[str, Artifact], tmp_path: Path) -> None:
    settings = TokenizerSettings(vocabulary=420, kind=kind)  # type: ignore[arg-type]
    measured = train_tokenizer(settings, parents, tmp_path, SilentProgress())
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.native and tokenizer.vocabulary == measured["vocabulary"] <= 420
    rows = {row["language"]: row for row in read_json(tmp_path / "fertility.json")}
    assert list(rows) == ["en", "zh", "unknown", "all"]
    assert (rows["en"]["words"], rows["zh"]["words"], rows["unknown"]["words"]) == (9, 6, 3)
    tokens = sum(len(tokenizer.encode(text)) for _, text in HELDOUT)
    assert rows["all"]["tokens"] == tokens
    size = sum(len(text.encode()) for _, text in HELDOUT)
    assert measured["bytes_per_token_documents"] == pytest.approx(size / tokens, abs=1e-4)


def test_another_kind_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(Exception, match="wordpiece"):
        TokenizerSettings(vocabulary=420, kind="words")  # type: ignore[arg-type]
