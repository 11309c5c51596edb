import json
import random

import pytest

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.base.records import read_records
from athanor.data.cleaning.clean import CleanSettings, choose_heldout, clean_documents
from athanor.data.cleaning.improve import normalised_hash
from athanor.data.packing.batches import Batches
from athanor.data.packing.pack import PackSettings, TokenFiles, pack_documents
from athanor.data.reading.read import ReadSettings, read_documents
from athanor.data.shards import read_shards
from athanor.tokens.tokenizer import Tokenizer

WORDS = (
    "river morning meadow water people village boats sheep hill nobody thought before rain began old man said seen"
    " higher boy few believed told day night slow house garden bread letter window road winter summer"
).split()
GLUE = "the of and to was with that be in on over under for by from have".split()


def story(number, sentences=8):
    """Different text for every number, with enough common words to pass as English."""
    chance = random.Random(number)
    written = []
    for _ in range(sentences):
        words = [chance.choice(GLUE if place % 3 == 1 else WORDS) for place in range(chance.randint(9, 16))]
        written.append(" ".join(words).capitalize() + ".")
    return " ".join(written) + "\n"


@pytest.fixture
def clean(tmp_path, run_step):
    """`clean(texts, **settings)`: the corpus of a folder with these files."""

    def run(texts, **settings):
        folder = tmp_path / f"raw-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name, text in texts.items():
            (folder / name).write_text(text)
        documents = run_step(read_documents, ReadSettings(path=str(folder)))
        return run_step(clean_documents, CleanSettings(**settings), documents=documents)

    return run


def texts_of(corpus):
    return {split: {d.source: d.text for d in read_shards(corpus, split)} for split in ("train", "heldout")}


def test_three_short_notes_become_a_corpus(clean):
    corpus = clean({f"{number}.txt": story(number, 3) for number in range(3)})
    texts = texts_of(corpus)
    assert len(texts["train"]) == 2 and len(texts["heldout"]) == 1
    assert {**texts["train"], **texts["heldout"]} == {f"{number}.txt": story(number, 3) for number in range(3)}


def test_a_single_note_is_cut_in_two(clean):
    text = "\n\n".join(story(number, 2).strip() for number in range(20)) + "\n"
    texts = texts_of(clean({"only.md": text}))
    assert list(texts["train"]) == ["only.md/1"] and list(texts["heldout"]) == ["only.md/2"]
    assert texts["train"]["only.md/1"] + texts["heldout"]["only.md/2"] == text
    assert 0.5 < len(texts["train"]["only.md/1"]) / len(text) < 0.95


def test_nothing_left_names_the_reasons_and_their_settings(clean):
    with pytest.raises(AthanorError) as caught:
        clean({"a.txt": "Short.", "b.txt": "Also short.", "c.txt": "\u200b\n\x01"})
    message = str(caught.value)
    assert "none of 3 documents" in message and "too few words (minimum_words) (2)" in message
    assert "filters.minimum_words" in message
    assert texts_of(
        clean(
            {"a.txt": "Short, but the best of them.", "b.txt": "It is all that there was to have."},
            filters={"minimum_words": 2},
        )
    )


def test_copies_are_removed_recorded_and_never_straddle_the_split(clean):
    raw = {f"{number:03}.txt": story(number) for number in range(120)}
    for number in range(0, 60):
        raw[f"exact-{number:03}.txt"] = raw[f"{number:03}.txt"].upper().replace(". ", ".\n")
    for number in range(60, 120):
        raw[f"near-{number:03}.txt"] = (
            raw[f"{number:03}.txt"].replace(" and ", " und ", 1) + "One more line than that.\n"
        )
    corpus = clean(raw, heldout_share=0.2)
    texts = texts_of(corpus)
    rows = list(read_records(corpus.file("duplicates.jsonl")))
    assert sum(row["kind"] == "exact" for row in rows) == 60 and sum(row["kind"] == "near" for row in rows) == 60
    kept = set(texts["train"]) | set(texts["heldout"])
    assert len(kept) == 120 and all(row["kept_source"] in kept and row["removed_source"] not in kept for row in rows)
    assert not {row["removed_source"][-7:] for row in rows} - {source[-7:] for source in kept}
    assert 10 < len(texts["heldout"]) < 40
    near = [row for row in rows if row["kind"] == "near"]
    assert all(row["kept_source"].startswith("near-") and row["similarity"] >= 0.7 for row in near)  # the longer stays


def test_the_funnel_adds_up(clean):
    raw = {f"{number}.txt": story(number) for number in range(10)} | {"short.txt": "No.", "copy.txt": story(3)}
    raw["zh.txt"] = "今天天气很好，我们去公园看花，孩子们在草地上跑来跑去，大家都很高兴。\n"
    corpus = clean(raw, languages=("en",), filters={"minimum_words": 20})
    rows = read_json(corpus.file("funnel.json"))
    assert [row["stage"] for row in rows] == ["repair", "language", "quality", "exact copies", "near copies"]
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        assert row["in"] == row["out"] + sum(reason["count"] for reason in row["reasons"].values())
        assert following is None or following["in"] == row["out"]
        for reason in row["reasons"].values():
            assert 1 <= len(reason["examples"]) <= 3 and all(len(e["text"]) <= 120 for e in reason["examples"])
    measured = corpus.measurements
    assert measured["documents"] + measured["heldout_documents"] == rows[-1]["out"] == 10
    assert rows[1]["reasons"] == {
        "language zh not wanted (languages)": rows[1]["reasons"]["language zh not wanted (languages)"],
        "language und not wanted (languages)": rows[1]["reasons"]["language und not wanted (languages)"],
    }


def test_cleaning_twice_gives_the_same_bytes_whatever_was_left_behind(tmp_path, run_step, clean):
    raw = {f"{number}.txt": story(number) for number in range(30)}
    one, two = clean(raw), clean(raw)
    assert one.record["files"] == two.record["files"]


def test_masked_data_is_counted(clean):
    corpus = clean({"a.txt": story(1) + "Write to jane@mail.org or bob@mail.org.\n", "b.txt": story(2)})
    assert corpus.measurements["masked"] == {"mail": 2}
    assert not any("jane" in text for part in texts_of(corpus).values() for text in part.values())


def test_the_split_of_a_text_does_not_change_as_the_corpus_grows():
    hashes = [normalised_hash(story(number)) for number in range(400)]
    small = choose_heldout(hashes[:200], [1] * 200, set(), 0.1, 10**9)
    large = choose_heldout(hashes, [1] * 400, set(), 0.1, 10**9)
    assert small == {number for number in large if number < 200}
    assert 20 < len(large) < 60


def test_the_held_out_part_is_bounded_and_never_everything():
    hashes = [normalised_hash(str(number)) for number in range(50)]
    assert (
        sum(choose_heldout(hashes, [10] * 50, set(), 0.9, 100))
        and len(choose_heldout(hashes, [10] * 50, set(), 0.9, 100)) == 10
    )
    assert len(choose_heldout(hashes[:2], [10, 10], set(), 0.99, 100)) == 1
    assert choose_heldout(hashes[:1], [10], set(), 0.5, 100) == set()
    assert len(choose_heldout(hashes, [10_000] * 50, set(), 0.001, 100)) == 1


@pytest.fixture
def packed(clean, run_step, tmp_path):
    raw = {f"{number}.txt": story(number) + "汉字与 emoji 👩\u200d👧 <|document|> é\n" for number in range(40)}
    corpus = clean(raw)
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    Tokenizer.train((document.text for document in read_shards(corpus, "train")), 400).save(folder)

    def make_tokenizer(settings, parents, folder, progress):
        Tokenizer.train((document.text for document in read_shards(corpus, "train")), 400).save(folder)
        return {}

    tokenizer = run_step(make_tokenizer, None)
    return (
        corpus,
        tokenizer,
        run_step(pack_documents, PackSettings(shard_tokens=1_024), corpus=corpus, tokenizer=tokenizer),
    )


def test_packed_tokens_are_the_documents(packed):
    corpus, tokenizer_artifact, shards = packed
    tokenizer = Tokenizer.load(tokenizer_artifact.path)
    for split in ("train", "heldout"):
        tokens = TokenFiles(shards.path, split)
        documents = list(read_shards(corpus, split))
        assert tokens.documents == len(documents)
        for number, document in enumerate(documents):
            ids = tokens.read(int(tokens.starts_D[number]), int(tokens.starts_D[number + 1])).tolist()
            assert ids == [tokenizer.special["<|document|>"], *tokenizer.encode(document.text)]
            assert tokenizer.decode(ids[1:]) == document.text
            row = tokens.document_row(number)
            assert (row["source"], row["characters"]) == (document.source, len(document.text))
    assert shards.measurements["tokens"] == TokenFiles(shards.path).tokens
    assert shards.measurements["dtype"] == "uint16"
    assert json.loads(shards.file("funnel.json").read_text())[0]["stage"] == "train"


def test_every_token_leads_back_to_its_character(packed):
    corpus, tokenizer_artifact, shards = packed
    tokenizer, tokens = Tokenizer.load(tokenizer_artifact.path), TokenFiles(shards.path)
    documents = list(read_shards(corpus, "train"))
    table = tokenizer.token_bytes()
    for number in (0, 7, tokens.documents - 1):
        text, done = documents[number].text.encode(), 0
        for place in range(int(tokens.starts_D[number]) + 1, int(tokens.starts_D[number + 1])):
            row, offset = tokens.locate(place, tokenizer)
            assert row["source"] == documents[number].source
            assert offset == len(text[:done].decode(errors="ignore"))
            done += len(table[int(tokens.read(place, place + 1)[0])])


def test_a_document_is_found_at_the_steps_that_read_it(packed):
    tokens = TokenFiles(packed[2].path)
    batches = Batches(tokens, 64, 4, seed=1)
    for step in batches.steps_of(3, 20):
        assert (batches.batch(step).documents_BT == 3).any()


def test_the_published_rules_judge_when_asked(clean):
    """Short notes pass our rules and not Gopher's 50 words; the published limit can be set."""
    texts = {f"{number}.txt": story(number, 30) for number in range(6)}
    texts["note.txt"] = story(50, 3)
    texts["menu.txt"] = "Home\nLogin\nCart\nAbout us\nContact\n" * 40
    own, published = clean(texts), clean(texts, rules="published")
    assert "note.txt" in {name for part in texts_of(own).values() for name in part}
    kept = {name for part in texts_of(published).values() for name in part}
    assert kept == {f"{number}.txt" for number in range(6)}
    stage = next(row for row in read_json(published.file("funnel.json")) if row["stage"] == "quality")
    assert any("(minimum_words)" in reason for reason in stage["reasons"])
    relaxed = clean(texts, rules="published", published={"minimum_words": 20, "sentences": 1})
    assert "note.txt" in {name for part in texts_of(relaxed).values() for name in part}


def test_many_languages_are_told_apart_when_asked(clean):
    german = (
        "Der Hund lief über die Wiese, und die Kinder sahen ihm lange nach. Am Abend kam die Nachbarin mit einem Korb "
        "voller Äpfel vorbei und erzählte von der Stadt, in der sie als junges Mädchen gewohnt hatte. Niemand wusste, "
        "warum sie damals fortgegangen war, doch jeder hörte ihr gern zu. Später wurde es still im Haus."
    )
    texts = {f"{number}.txt": story(number, 20) for number in range(4)} | {"de.txt": german}
    assert "de" not in clean(texts).measurements["languages"]
    made = clean(texts, tell="many", filters={"stop_words": 0})
    assert made.measurements["languages"] == {"en": 4, "de": 1}
    with pytest.raises(ValueError, match="languages de are told apart with tell: many"):
        CleanSettings(languages=("de", "en"))


def test_limits_of_rules_that_do_not_judge_are_refused():
    with pytest.raises(ValueError, match="rules is own"):
        CleanSettings(published={"minimum_words": 20})


def test_when_nothing_passes_the_published_rules_the_setting_is_named(clean):
    with pytest.raises(AthanorError, match=r"relax the most frequent one: published\."):
        clean({"a.txt": story(1, 2), "b.txt": story(2, 2)}, rules="published")
