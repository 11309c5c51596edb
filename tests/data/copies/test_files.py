import gzip
import json

import pytest
import zstandard

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.base.records import read_records
from athanor.data.copies.files import CopySettings, remove_copies

STORY = [f"w{number}" for number in range(60)]


def page(change=None, extra=0):
    """The same story; with a changed word, or longer."""
    words = list(STORY)
    if change is not None:
        words[change] = "another"
    return " ".join([*words, *(f"more{number}" for number in range(extra))])


def other(number):
    return " ".join(f"v{number}x{place}" for place in range(50))


def lines_of(rows):
    return [json.dumps(row, ensure_ascii=False).encode() for row in rows]


def row(name, text, **more):
    return {"id": name, "text": text, "source": f"{name}.txt", **more}


@pytest.fixture
def rows():
    return [
        row("a", page(), meta={"score": 1}), row("b", other(1), meta={"score": 1}),
        row("c", page(extra=4), meta={"score": 2}), row("d", page(change=3), meta={"score": 9}),
        row("e", page(), meta={"score": 0}), row("f", other(2), meta={"score": 3}),
    ]  # fmt: skip


def names(folder):
    return [json.loads(line)["id"] for line in (folder / "documents.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({}, "abf"), ({"keep": "longest"}, "bcf"), ({"keep": "best", "score": "score"}, "bdf")],
)
def test_which_copy_stays_is_a_setting(tmp_path, rows, settings, kept):
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines_of(rows)) + b"\n")
    result = remove_copies([tmp_path / "in.jsonl"], tmp_path / "out", CopySettings(**settings))
    assert names(tmp_path / "out") == list(kept)
    assert (result["documents"], result["kept"], result["clusters"], result["largest_cluster"]) == (6, 3, 1, 4)


def test_clusters_and_the_funnel_say_what_went_and_why(tmp_path, rows):
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines_of(rows)))
    result = remove_copies([tmp_path / "in.jsonl"], tmp_path / "out", CopySettings())
    found = list(read_records(tmp_path / "out" / "duplicates.jsonl"))
    assert [(item["removed"], item["kept"], item["kind"]) for item in found] == [
        ("c", "a", "near"), ("d", "a", "near"), ("e", "a", "exact"),
    ]  # fmt: skip
    assert found[0]["similarity"] == pytest.approx(56 / 60, abs=1e-4)  # 4 of 60 runs are new
    assert found[1]["similarity"] == pytest.approx(52 / 60, abs=1e-4)  # the changed word stands in 4 of 56 runs
    stage = read_json(tmp_path / "out" / "funnel.json")[0]
    assert (stage["in"], stage["out"]) == (6, 3)
    assert stage["bytes_in"] == sum(len(item["text"].encode()) for item in rows)
    dropped = sum(reason["bytes"] for reason in stage["reasons"].values())
    assert stage["bytes_in"] - stage["bytes_out"] == dropped
    assert {name: reason["count"] for name, reason in stage["reasons"].items()} == {"near copy": 2, "exact copy": 1}
    assert (result["exact_copies"], result["near_copies"]) == (1, 2)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("last_newline", [b"", b"\n"])
def test_lines_stay_byte_for_byte_whatever_the_file(tmp_path, rows, suffix, last_newline):
    odd = [b'{"text":"\\u6c49\\u5b57 x",  "id": "g"}', b"", '{"text": "雪\\n", "id": "h", "n": 1.0}'.encode()]
    lines = [*lines_of(rows), *odd, json.dumps({"text": "long " * 300_000, "id": "i"}).encode()]
    data = b"\n".join(lines) + last_newline
    packed = {"": data, ".gz": gzip.compress(data), ".zst": zstandard.compress(data)}[suffix]
    (tmp_path / f"one.jsonl{suffix}").write_bytes(packed)
    (tmp_path / "two.jsonl").write_bytes(b"\n".join(lines_of(rows[:2])) + b"\n")
    paths = [tmp_path / f"one.jsonl{suffix}", tmp_path / "two.jsonl"]
    remove_copies(paths, tmp_path / "out", CopySettings())
    expected = [lines[0], lines[1], lines[5], odd[0], odd[2], lines[-1]]
    assert (tmp_path / "out" / "documents.jsonl").read_bytes() == b"\n".join(expected) + b"\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "documents.jsonl", "duplicates.jsonl", "funnel.json",
    ]  # fmt: skip


def test_nothing_in_nothing_out(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b"")
    result = remove_copies([tmp_path / "in.jsonl"], tmp_path / "out", CopySettings())
    assert result["documents"] == result["kept"] == 0
    assert (tmp_path / "out" / "documents.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("line", "said"),
    [(b'{"text": 3}', "line 3"), (b"{", "line 3: not JSON"), (b'["text"]', "line 3"), (b"\xff", "line 3")],
)
def test_a_wrong_line_is_named(tmp_path, line, said):
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "a"}\n\n' + line + b"\n")
    with pytest.raises(AthanorError, match=said):
        remove_copies([tmp_path / "in.jsonl"], tmp_path / "out", CopySettings())


def test_scores_are_asked_for_and_checked(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "a"}\n')
    with pytest.raises(AthanorError, match="keep"):
        remove_copies([tmp_path / "in.jsonl"], tmp_path / "out", CopySettings(keep="best"))
    with pytest.raises(AthanorError, match="keep"):
        remove_copies([tmp_path / "in.jsonl"], tmp_path / "out", CopySettings(score="quality"))
    with pytest.raises(AthanorError, match="quality=None"):
        remove_copies([tmp_path / "in.jsonl"], tmp_path / "out", CopySettings(keep="best", score="quality"))
