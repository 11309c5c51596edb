"""The document index against plain `str.find`."""

import random
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from athanor.base.errors import AthanorError
from athanor.store import index as index_module
from athanor.store import index_build
from athanor.store.index import DocumentIndex
from athanor.store.index_build import build_index

LETTERS = st.text(alphabet="ab\n中é😀\0", max_size=12)


def naive_spans(texts: list[str], query: str, minimum_bytes: int) -> list[tuple[int, int]]:
    """All maximal stretches by trying everything, longest (in bytes) first."""

    def occurs(start, end):
        return any(query[start:end] in text for text in texts)

    def size(span):
        return len(query[span[0] : span[1]].encode())

    every = [(i, j) for i in range(len(query)) for j in range(i + 1, len(query) + 1) if occurs(i, j)]
    maximal = [s for s in every if not any(o != s and o[0] <= s[0] and s[1] <= o[1] for o in every)]
    return sorted((s for s in maximal if size(s) >= minimum_bytes), key=lambda s: (-size(s), s[0]))


def naive_places(texts: list[str], part: str) -> list[tuple[int, int]]:
    """(document, character offset) of every occurrence, overlapping ones too."""
    return [(n, i) for n, text in enumerate(texts) for i in range(len(text)) if text.startswith(part, i)]


def built(folder: Path, texts: list[str], **settings) -> DocumentIndex:
    folder.mkdir(parents=True, exist_ok=True)
    build_index(folder, ((f"document {n}", text) for n, text in enumerate(texts)), **settings)
    return DocumentIndex(folder)


def check_against_naive(index: DocumentIndex, texts: list[str], query: str, minimum: int) -> None:
    spans = index.longest_spans(query, minimum_bytes=minimum, limit=10_000, occurrences=2, context=5)
    assert [(span.start, span.end) for span in spans] == naive_spans(texts, query, minimum)
    for span in spans:
        places = naive_places(texts, span.text)
        assert span.text == query[span.start : span.end] and span.count == len(places) == index.count(span.text)
        assert [(o.number, o.character_offset) for o in span.occurrences] == places[:2]
        for o in span.occurrences:
            text, at = texts[o.number], o.character_offset
            assert o.document == f"document {o.number}"
            assert o.byte_offset == len(text[:at].encode()) and o.line == text[:at].count("\n") + 1
            assert (o.before, o.after) == (text[max(0, at - 5) : at], text[at + len(span.text) :][:5])


@settings(max_examples=150, deadline=None)
@example(["aé"], "aaé", 3, 1, 1024, 24)  # a match that begins in one shard and ends in the next
@given(
    st.lists(LETTERS, max_size=5),
    LETTERS,
    st.integers(1, 6),
    st.sampled_from([1, 5, 17, 1000]),
    st.sampled_from([1, 2, 5, 1024]),
    st.sampled_from([1, 4, 24]),
)
def test_equals_the_naive_search_whatever_the_sharding(
    tmp_path_factory, texts, query, minimum, shard_bytes, sampled, sample
):
    with pytest.MonkeyPatch.context() as patch:
        for module in (index_build, index_module):
            patch.setattr(module, "SAMPLED", sampled)
            patch.setattr(module, "SAMPLE", sample)
        index = built(tmp_path_factory.mktemp("index"), texts, shard_bytes=shard_bytes, longest_query=64)
        check_against_naive(index, texts, query, minimum)


def test_a_planted_sentence_is_found_in_its_document(tmp_path):
    generator = random.Random(0)
    words = ["river", "stone", "光", "quiet", "lantern", "über", "seven"]
    texts = ["\n".join(" ".join(generator.choices(words, k=9)) for _ in range(200)) for _ in range(20)]
    sentence = "An athanor keeps an even heat; 炼金炉保持均匀的热。"
    texts[13] += "\nbefore " + sentence + " after\n" + texts[0]
    index = built(tmp_path, texts, shard_bytes=40_000)
    assert index.documents == 20 and len(index.shards) > 3
    span = index.longest_spans("He wrote: " + sentence + "?!")[0]
    assert sentence in span.text and span.count == 1
    place = span.occurrences[0]
    assert place.document == "document 13" and place.line == 201 and place.before.endswith("before")


def test_nothing_crosses_documents(tmp_path):
    index = built(tmp_path, ["abcd", "efgh"])
    assert [span.text for span in index.longest_spans("abcdefgh", 1)] == ["abcd", "efgh"]


def test_a_document_longer_than_a_shard_is_searched_across_its_pieces(tmp_path):
    text = "".join(random.Random(1).choices("abcde 中\n", k=3000))
    index = built(tmp_path, ["x", text, "y"], shard_bytes=256, longest_query=1000)
    assert len(index.shards) > 10
    check_against_naive(index, ["x", text, "y"], text[700:900], 20)
    assert index.read(1, 0, 1 << 20) == text.encode() and index.read(0, 0, 9) == b"x"


def test_two_builds_are_equal_to_the_byte(tmp_path):
    for name in ("one", "two"):
        built(tmp_path / name, ["some text", "some other text\0", ""], shard_bytes=10)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_empty_queries_and_empty_indexes_answer(tmp_path):
    index = built(tmp_path / "full", ["abc"])
    assert index.longest_spans("") == [] and index.count("") == 0
    assert [s.text for s in index.longest_spans("zbz", 1)] == ["b"]
    for texts in ([], ["", ""]):
        empty = built(tmp_path / f"empty{len(texts)}", texts)
        assert empty.longest_spans("abc", 1) == [] and empty.count("a") == 0


def test_half_a_surrogate_pair_is_text_too(tmp_path):
    index = built(tmp_path, ["broken \ud83d here"])
    assert index.longest_spans("a broken \ud83d here", 3)[0].text == "broken \ud83d here"
    assert index.longest_spans("broken \ud83d", 3)[0].occurrences[0].after == " here"


@pytest.mark.parametrize(
    "query", ["ab" * 5_000, "abcde " * 4_000, "".join(random.Random(2).choices("abc 中", k=60_000))], ids=len
)
def test_a_long_query_takes_bounded_time(tmp_path, query):
    index = built(tmp_path, ["ab" * 2_000, query[:2_000], "".join(random.Random(3).choices("abc 中", k=50_000))])
    assert index.longest_spans(query, limit=3)[0].count >= 1  # a pytest-wide time limit guards it


def test_what_cannot_be_used_is_named(tmp_path):
    index = built(tmp_path / "index", ["abc"], longest_query=100)
    with pytest.raises(AthanorError, match="101 bytes"):
        index.longest_spans("a" * 101)
    with pytest.raises(AthanorError, match="minimum_bytes=0"):
        index.longest_spans("a", minimum_bytes=0)
    with pytest.raises(AthanorError, match="shard_bytes=0"):
        built(tmp_path / "other", [], shard_bytes=0)
    with pytest.raises(AthanorError, match="holds no document index"):
        DocumentIndex(tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_never_changes_an_answer_unnoticed(pages, data):
    """A byte of any file is changed, or its end cut off: the answer is the same as before, or an error says so."""
    folder, queries, answers = pages
    query = data.draw(st.sampled_from(range(len(queries))))
    path = data.draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.name != "index.json")))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    else:
        damaged = whole[:place]
    try:
        path.write_bytes(damaged)
        assert DocumentIndex(folder).longest_spans(queries[query], 5) == answers[query]
    except AthanorError as problem:
        assert path.name.removesuffix(".checks") in str(problem) and "damaged" in str(problem)
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """An index of several pages in three shards, with queries and their answers."""
    folder, generator = tmp_path_factory.mktemp("pages"), random.Random(5)
    texts = ["".join(generator.choices("abcd 中é", k=3_000)) for _ in range(12)]
    queries = [texts[3][500:560] + texts[9][100:140], "dabc ab中a", "é" * 9]
    index = built(folder, texts, shard_bytes=20_000, longest_query=200)
    return folder, queries, [index.longest_spans(query, 5) for query in queries]


@pytest.mark.parametrize("name", ["00001.text", "00001.suffixes", "00001.prefixes", "names", "pieces", "name_ends"])
def test_the_damaged_file_is_named(name, pages, tmp_path):
    folder, queries, _ = pages
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(bytes(byte ^ 1 for byte in whole))
    with pytest.raises(AthanorError, match=rf"{name} has changed since it was written"):
        DocumentIndex(copy).longest_spans(queries[0])
    (copy / name).unlink()
    with pytest.raises(AthanorError, match=rf"{name} is missing"):
        DocumentIndex(copy)


def test_a_folder_named_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert built(Path("here"), ["abcd"]).count("bc") == 1
