"""GPT-3's data recipe, run whole on the text that every Python carries, with junk and near copies planted in it."""

import random
import re
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.base.progress import SilentProgress
from athanor.base.records import read_records
from athanor.base.tables import text_table
from athanor.data.packing.batches import Batches
from athanor.data.packing.explain import Explainer
from athanor.data.packing.index import IndexSettings, index_documents
from athanor.data.packing.mixture import MIXTURE, open_batches
from athanor.data.packing.pack import TokenFiles
from athanor.data.reading.python_text import list_modules, read_module, read_topics, standard_library
from athanor.data.shards import read_shards
from athanor.data.show.collection import of_artifact
from athanor.data.show.survey import survey
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe, run_recipe
from athanor.store.artifact import Artifact, Store
from athanor.tokens.tokenizer import Tokenizer
from tests.data.cleaning.test_quality import junk

DOCUMENTS, CURATED, COPIES, JUNK = 150, 160, 170, 1_600
BANDS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.01)
SMALLEST = (
    "quality.features=65536", "tokenizer.vocabulary=1000", "pretrain.steps=60", "pretrain.layers=1",
    "pretrain.width=32", "pretrain.heads=1", "pretrain.hidden=32", "pretrain.context=64", "pretrain.rows=8",
)  # fmt: skip


@cache
def runs(text: str) -> frozenset[tuple[str, ...]]:
    """All runs of five words."""
    words = re.findall(r"\w+", text.lower())
    return frozenset(tuple(words[place : place + 5]) for place in range(len(words) - 4))


def jaccard(one: str, other: str) -> float:
    """Of the word runs of two texts."""
    return len(runs(one) & runs(other)) / max(1, len(runs(one) | runs(other)))


def python_prose() -> list[str]:
    """The language reference and the docstrings of the library, cut to pieces of about 1,500 letters."""
    library = standard_library()
    texts = [item.text for item in read_topics(library) if hasattr(item, "text")]
    for name in list_modules(library):
        if len(texts) > 500:
            break
        texts += [item.text for item in read_module(library, name, 10**6) if getattr(item, "kind", "") == "prose"]
    pieces = [text[place : place + 1_500] for text in texts for place in range(0, len(text) - 700, 1_500)]
    random.Random(1).shuffle(pieces)
    return pieces


def copy_of(text: str, number: int) -> str:
    """The text with some of its words replaced, so that its Jaccard similarity lies between 0.5 and 1."""
    chance = random.Random(number)
    share = chance.uniform(0, 0.06)
    return re.sub(
        r"\w+", lambda word: f"other{chance.randrange(999)}" if chance.random() < share else word.group(), text
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Artifact], dict[str, Any]]:
    """The artifacts of a whole run, and what its steps told."""
    folder = tmp_path_factory.mktemp("gpt3data")
    prose = python_prose()
    curated, good = prose[:CURATED], prose[CURATED : CURATED + DOCUMENTS]
    files = {f"raw/good{n:04d}.txt": text for n, text in enumerate(good)}
    files |= {f"raw/copy{n:04d}.txt": copy_of([*curated[:110], *good][n], n) for n in range(COPIES)}
    files |= {f"raw/junk{n:04d}.txt": junk(n) for n in range(JUNK)}
    files |= {f"curated/{n:04d}.txt": text for n, text in enumerate(curated)}
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    told: list[str] = []
    progress = SilentProgress()
    progress.note = told.append  # type: ignore[method-assign]
    paths = (f"raw.path={folder / 'raw'}", f"curated.path={folder / 'curated'}")
    recipe = load_recipe("gpt3data", [*paths, *SMALLEST])
    return run_recipe(recipe, plan_recipe(recipe), Store(folder / "store"), progress), {"told": "\n".join(told)}


def sources(artifact: Artifact) -> dict[str, str]:
    return {document.source: document.text for document in read_shards(artifact, "train")}


def test_planted_junk_is_dropped_and_good_text_stays_by_the_pareto_rule(made) -> None:  # type: ignore[no-untyped-def]
    before, after = sources(made[0]["clean"]), sources(made[0]["quality"])
    kept = {kind: sum(name.startswith(kind) for name in after) / sum(name.startswith(kind) for name in before)
            for kind in ("good", "copy", "junk")}  # fmt: skip
    assert kept["junk"] < 0.03 and kept["good"] > 0.2 and kept["copy"] > 0.2
    assert made[0]["quality"].record["settings"]["alpha"] == 9
    assert made[0]["quality"].measurements["area_under_curve"] > 0.75


def test_planted_copies_are_removed_in_every_band_of_similarity(made, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    """Truth from plain sets over everything that came to this step; the table is printed with `pytest -s`."""
    quality, unique, curated = (sources(made[0][name]) for name in ("quality", "unique", "good"))
    heldout = {document.source: document.text for document in read_shards(made[0]["quality"], "heldout")}
    removed = {row["removed_source"]: row for row in read_records(made[0]["unique"].file("duplicates.jsonl"))}
    others = [*curated.values(), *heldout.values()]
    nearest = dict.fromkeys(quality, 0.0)
    for one, other in combinations(quality, 2):
        if runs(quality[one]) & runs(quality[other]):
            similarity = jaccard(quality[one], quality[other])
            nearest[one], nearest[other] = max(nearest[one], similarity), max(nearest[other], similarity)
    for name, text in quality.items():
        nearest[name] = max([nearest[name], *(jaccard(text, other) for other in others)])
    left = [*unique.values(), *others]
    rows = []
    for low, high in pairwise(BANDS):
        inside = [name for name, similarity in nearest.items() if low <= similarity < high]
        gone = [name for name in inside if name in removed]
        uncovered = [name for name in inside if name in unique and _still_near(name, unique, left)]
        right = sum(removed[name]["similarity"] >= 0.7 for name in gone)
        rows.append([f"{low:.1f}-{min(high, 1):.1f}", len(inside), len(gone), len(uncovered), right])
        if low >= 0.7:
            assert len(inside) >= 5 and not uncovered  # recall 1: nothing is left that has a near copy left
        else:
            assert not gone
        assert right == len(gone)  # precision 1
    with capsys.disabled():
        header = ["Jaccard", "documents", "removed", "missed", "rightly removed"]
        print("\n" + text_table(header, rows))
    measured = made[0]["unique"].measurements
    assert sum(measured["copies_by_similarity"].values()) == len(removed) == measured["copies_near"]
    assert min(measured["copies_by_similarity"]) >= "0.7"


def _still_near(name: str, unique: dict[str, str], left: list[str]) -> bool:
    return any(jaccard(unique[name], other) >= 0.7 for other in left if other is not unique[name])


def test_the_realised_mixture_has_the_weights_and_its_epochs_are_told(made) -> None:  # type: ignore[no-untyped-def]
    mix, model = made[0]["mix"], made[0]["pretrain"]
    assert read_json(mix.file(MIXTURE))["stages"] == [{"until": 1.0, "weights": {"curated": 0.4, "raw": 0.6}}]
    found = model.measurements["sources"]
    for name, weight in (("raw", 0.6), ("curated", 0.4)):
        assert abs(found[name]["share"] - weight) <= 0.01
        assert found[name]["epochs"] == pytest.approx(60 * 8 * 64 * weight / found[name]["size"], rel=0.03)
    rows = list(read_records(model.file("metrics.jsonl")))
    assert set(rows[0]["parts"]) == {"raw", "curated"}  # the loss of each source by itself
    assert found["curated"]["size"] == made[0]["pack_curated"].measurements["tokens"]
    assert "epochs in 30.7 k tokens" in made[1]["told"] and "60.00 %" in made[1]["told"]
    settings = model.record["settings"]
    batches = open_batches(mix.path, 64, 8, settings["seed"], 60)
    whole = [batches.batch(step).ids_BT for step in (0, 1, 59)]
    halves = [np.concatenate([batches.batch(step, rank, 2).ids_BT for rank in (0, 1)]) for step in (0, 1, 59)]
    assert all((one == other).all() for one, other in zip(whole, halves, strict=True))


def test_why_names_source_filters_and_steps_of_a_document_of_each_source(made) -> None:  # type: ignore[no-untyped-def]
    """The steps are those in whose batches a window with the text's tokens stands, found by looking at all of them."""
    explainer = Explainer(made[0]["index"])
    steps, seed = 60, made[0]["pretrain"].record["settings"]["seed"]
    batches = open_batches(made[0]["mix"].path, 64, 8, seed, steps)
    read = [{row.tobytes() for row in batches.batch(step).ids_BT} for step in range(steps)]
    tokenizer = Tokenizer.load(made[0]["tokenizer"].path)
    table = tokenizer.token_bytes()
    for name, corpus, pack in (("raw", "unique", "pack_raw"), ("curated", "good", "pack_curated")):
        tokens = Batches(TokenFiles(made[0][pack].path), 64, 8)
        for number, document in enumerate(list(read_shards(made[0][corpus], "train"))[:12]):
            text = document.text[300:420]
            match = next(m for m in explainer.spans(text)[0]["matches"] if m["id"] == document.id)
            assert (match["source"], match["corpus"]) == (name, made[0][corpus].id)
            assert document.text[match["offset"] :].startswith(text) and match["document"] == document.source
            ends = np.cumsum([len(table[token]) for token in tokenizer.encode(document.text)])
            begin, end = (len(document.text[:place].encode()) for place in (300, 420))
            first, last = np.searchsorted(ends, [begin, end - 1], side="right") + 1
            windows = tokens.windows_of(number, int(first), int(last) + 1)
            rows = {tokens.window(int(window))[0].tobytes() for window in windows}
            truth = [step for step in range(steps) if rows & read[step]]
            assert match["read"]["pretrained"] == truth[:8] and match["times"]["pretrained"] == len(truth)
            passed = {row["step"]: row["filters"] for row in match["filters"]}
            assert passed["good" if name == "curated" else "clean"][3:] == ["exact copies", "near copies"]
            assert ("quality" in passed) == (name == "raw")
    told = made[0]["index"].measurements["read"]["pretrained"]["sources"]
    assert told["curated"]["epochs"] == made[0]["pretrain"].measurements["sources"]["curated"]["epochs"]


def test_a_mixture_is_shown_as_planned_and_as_it_was_read(made) -> None:  # type: ignore[no-untyped-def]
    collection = of_artifact(made[0]["mix"])
    seen = survey(collection, 3, 1, None, SilentProgress())
    count = made[0]["unique"].measurements["documents"] + made[0]["good"].measurements["documents"]
    assert sum(row["documents"] for part, row in seen.parts.items() if part.endswith("train")) == count
    assert set(seen.parts) == {"raw/train", "raw/heldout", "curated/train", "curated/heldout"}
    read = made[0]["pretrain"].measurements["sources"]
    for row in collection.mixture:
        assert row["share"] == {"raw": 0.6, "curated": 0.4}[row["name"]]
        assert row["read"] == [{"model": made[0]["pretrain"].id, "share": read[row["name"]]["share"],
                                "epochs": read[row["name"]]["epochs"]}]  # fmt: skip
    steps = [row["step"] for row in collection.funnels]
    assert steps == ["raw", "clean", "quality", "unique", "curated", "good"]


def test_an_index_of_a_mixture_wants_its_corpora(made, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    parents = {"shards": made[0]["mix"], "pretrained": made[0]["pretrain"]}
    good, unique = made[0]["good"], made[0]["unique"]
    for wrong, said in (
        ({"corpus": good}, "is a mixture of curated, raw"),
        ({"sources.raw": unique}, "not named: curated"),
        ({"sources.raw": good, "sources.curated": good}, "was not packed from"),
    ):
        folder = tmp_path / said[:6]
        folder.mkdir()
        with pytest.raises(AthanorError, match=said):
            index_documents(IndexSettings(), {**parents, **wrong}, folder, SilentProgress())


def test_without_folders_it_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AthanorError, match="there is nothing at raw"):
        plan_recipe(load_recipe("gpt3data"))
