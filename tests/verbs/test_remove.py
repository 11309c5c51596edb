"""Removing documents from a store in which a model was trained: planted copies, a planted secret, and what is left."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from athanor.base.errors import AthanorError
from athanor.base.progress import SilentProgress
from athanor.base.records import read_records
from athanor.base.stopping import Stopped, StopRequest
from athanor.data.document import Document
from athanor.data.packing.explain import Explainer
from athanor.data.packing.mixture import document_ids, open_batches
from athanor.data.reading.python_text import read_topics, standard_library
from athanor.data.reading.removed import overlap, read_removed
from athanor.data.shards import read_shards
from athanor.data.trace import trace
from athanor.recipes import removal
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe, run_recipe
from athanor.store.artifact import Store
from tests.verbs.conftest import Verb

SECRET = "The vault below the lighthouse opens with seven turns to the left."
RECIPE = """
seed: 3
steps:
  data: {do: read, path: FOLDER}
  clean: {from: {documents: data}, heldout_share: 0.1}
  tokenizer: {from: {corpus: clean}, vocabulary: 600}
  pack: {from: {corpus: clean, tokenizer: tokenizer}}
  pretrain: {from: {shards: pack, tokenizer: tokenizer}, steps: 30, layers: 1, width: 32, heads: 1, hidden: 32,
             context: 64, rows: 8}
  index: {from: {corpus: clean, shards: pack, pretrained: pretrain}}
"""


def run(folder: Path) -> dict[str, Any]:
    store = Store(folder / "store")
    recipe = load_recipe(str(folder / "small.yaml"))
    return run_recipe(recipe, plan_recipe(recipe, removed=read_removed(store)), store, SilentProgress())


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its texts, and a store in which it ran."""
    folder = tmp_path_factory.mktemp("removal")
    (folder / "raw").mkdir()
    topics = [item.text for item in read_topics(standard_library()) if isinstance(item, Document)]
    prose = [text[:1_500] for text in topics if len(text) > 1_500][:26]
    texts = {f"p{number:02d}.txt": text for number, text in enumerate(prose)}
    texts["secret.txt"] = prose[0][:700] + "\n" + SECRET + "\n" + prose[1][:700]
    texts["again.txt"] = texts["secret.txt"]
    texts["nearly.txt"] = texts["secret.txt"].replace(SECRET, SECRET + " Tell nobody.")
    texts["short.txt"] = "Too short to stay."
    for name, text in texts.items():
        (folder / "raw" / name).write_text(text, encoding="utf-8")
    (folder / "small.yaml").write_text(RECIPE.replace("FOLDER", str(folder / "raw")))
    run(folder)
    return folder


@pytest.fixture
def trained(once: Path, tmp_path: Path) -> Path:
    """The same, with a store of its own."""
    shutil.copytree(once / "store", tmp_path / "store")
    shutil.copy(once / "small.yaml", tmp_path)
    (tmp_path / "raw").symlink_to(once / "raw")
    return tmp_path


def found(folder: Path, *targets: str, copies: bool = True) -> removal.Removal:
    return removal.find_removal(Store(folder / "store"), targets, copies, SilentProgress())


def sources(folder: Path, step: str = "clean") -> set[str]:
    store = Store(folder / "store")
    corpus = store.get(store.remembered("small")[step])
    return {document.source for split in ("train", "heldout") for document in read_shards(corpus, split)}


def test_everything_that_learnt_from_a_document_is_listed_and_made_again_without_it(trained: Path) -> None:
    store = Store(trained / "store")
    before = store.remembered("small")
    assert Explainer(store.get(before["index"])).spans(SECRET)[0]["text"] == SECRET
    names = {"secret.txt", "again.txt", "nearly.txt"}
    for target in ("secret.txt", str(trained / "raw" / "secret.txt"), SECRET):
        listed = found(trained, target)
        assert {row["source"] for row in listed.documents} == names
    assert {row["source"] for row in found(trained, "secret.txt", copies=False).documents} == names - {"nearly.txt"}
    assert {one.artifact.id: one.holds for one in listed.stale} == {
        before[step]: "text" if step in ("data", "clean", "pack") else "learnt" for step in before
    }
    assert store.remembered("small") == before and not read_removed(store), "listing changes nothing"

    made = removal.rebuild(store, listed, SilentProgress())
    after = store.remembered("small")
    assert made == {before[step]: after[step] for step in before} and not set(made) & set(made.values())
    for artifact in map(store.get, after.values()):
        artifact.verify()
        for file in artifact.path.rglob("*.jsonl.zst"):
            assert SECRET not in "".join(json.dumps(row) for row in read_records(file))
    assert not sources(trained, "clean") & names and len(sources(trained, "clean")) == 26
    assert all(SECRET not in span["text"] for span in Explainer(store.get(after["index"])).spans(SECRET))
    assert {name: one.id for name, one in run(trained).items()} == after, "a later run leaves it out, too"
    assert not found(trained).stale[0].recipes, "only the old ones know it"
    gone = removal.delete_stale(store, found(trained), made)
    assert set(gone) == set(before.values()) and {one.id for one in store.all()} == set(after.values())
    assert SECRET.encode() not in (store.root / "removed.json").read_bytes()


def test_a_stopped_rebuild_leaves_the_old_run_and_goes_on(trained: Path) -> None:
    store = Store(trained / "store")
    before = store.remembered("small")
    stop = StopRequest()
    progress = SilentProgress(stop)
    progress.note = lambda text: setattr(stop, "asked", stop.asked or "tokenizer" in text)  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        removal.rebuild(store, found(trained, "secret.txt"), progress)
    assert store.remembered("small") == before and all(map(store.has, before.values()))
    assert [row["source"] for row in read_removed(store)] == ["again.txt", "nearly.txt", "secret.txt"]
    removal.rebuild(store, found(trained), SilentProgress())
    assert "secret.txt" not in sources(trained) and all(map(store.has, before.values()))


def test_the_way_of_a_document_is_told(trained: Path) -> None:
    store = Store(trained / "store")
    names = store.remembered("small")
    ids = {document.source: document.id for document in read_shards(store.get(names["data"]), "documents")}
    folder, seed = store.get(names["pack"]).path, store.get(names["pretrain"]).record["settings"]["seed"]
    batches = open_batches(folder, 64, 8, seed, 30)
    kept = next(document for document in read_shards(store.get(names["clean"]), "train"))
    way = {row["name"]: row for row in trace(store, kept.id)}
    assert way["data"]["fate"] == "read" and way["clean"]["fate"] == "kept" and way["index"]["fate"] == "used"
    assert way["pack"]["tokens"][0] == 0 and way["pack"]["part"] == "train"
    assert way["pretrain"]["steps"] == [s for s in range(30) if kept.id in document_ids(folder, batches, s)]
    apart = next(document for document in read_shards(store.get(names["clean"]), "heldout"))
    way = {row["name"]: row for row in trace(store, apart.id)}
    assert way["clean"]["fate"] == "held out" and way["pack"]["part"] == "heldout" and way["pretrain"]["fate"] == "used"
    way = trace(store, ids["short.txt"])
    assert [row["fate"] for row in way] == ["read", "dropped"] and "minimum_words" in way[1]["reason"]
    fates = [trace(store, ids[name])[1] for name in ("again.txt", "secret.txt", "nearly.txt")]
    assert sorted(row["fate"] for row in fates) == ["copy", "copy", "kept"]
    assert all(row["similarity"] > 0.9 for row in fates if row["fate"] == "copy")


def test_an_index_whose_record_or_order_was_changed_answers_nothing(trained: Path) -> None:
    store = Store(trained / "store")
    index = store.get(store.remembered("small")["index"])
    for name in ("index/index.json", "readings.json", "order/train-starts.npy"):
        whole = (index.path / name).read_bytes()
        (index.path / name).write_bytes(whole.replace(b"1", b"2", 1) if name.endswith("json") else whole[:-1] + b"~")
        with pytest.raises(AthanorError, match="has changed since it was written"):
            Explainer(store.get(index.id))
        (index.path / name).write_bytes(whole)
    assert Explainer(store.get(index.id)).spans(SECRET)


def test_what_names_nothing_is_refused(trained: Path, tmp_path: Path) -> None:
    for target, said in (("nowhere.txt", "is no id, source or file"), ("the", "12 characters"), ("", "12 characters")):
        with pytest.raises(AthanorError, match=said):
            found(trained, target)
    with pytest.raises(AthanorError, match="nothing was removed"):
        found(trained)
    with pytest.raises(AthanorError, match="no document of"):
        trace(Store(trained / "store"), "0123456789abcdef")


def test_the_verbs_say_what_they_found(trained: Path, verb: Verb) -> None:
    told = verb("remove", "secret.txt")
    assert "nearly.txt" in told and "copy (" in told and "nothing was changed" in told and "pretrain" in told
    assert "give both" in verb("remove", "secret.txt", "--delete", code=2)
    row = next(row for row in json.loads(verb("remove", SECRET, "--json"))["documents"])
    told = verb("lineage", "--document", row["id"])
    assert "read" in told and "clean" in told
    done = json.loads(verb("remove", "secret.txt", "--rebuild", "--delete", "--json"))
    assert len(done["rebuilt"]) == len(done["deleted"]) == 6
    assert "no part of it" in verb("why", SECRET, "--minimum", "40")
    assert "no artifact holds" in verb("remove")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("/a/b", "/a/b/c.txt", True), ("/a/b/*.md", "/a/b/c.txt", True), ("/a/b", "/a/c", False), ("/a", "/ab", False),
        ("python:", "python:", True), ("python:", "/a", False), ("s3://box/a", "s3://box/b", False),
        ("/a/*/x", "/a/b/y", True),
    ],
)  # fmt: skip
def test_paths_overlap_where_they_may_have_a_file_in_common(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) == overlap(other, one) == expected
