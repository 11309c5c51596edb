"""`athanor data`: files of documents in, a folder with its reasons out, whole or not at all."""

import gzip
import json
from pathlib import Path

import pytest

from tests.data.cleaning.test_clean import story
from tests.data.rules.test_chinese import MODERN
from tests.verbs.conftest import Verb


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Twenty stories; one stands there twice, one nearly so, and two share a long paragraph."""
    texts = [story(number, 20) for number in range(20)]
    texts[7] = texts[3]
    texts[9] = texts[4].replace("river", "stream", 1)
    texts[11] += texts[12][:900]
    path = tmp_path / "raw.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


def ids(folder: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / "documents.jsonl").read_text().splitlines()]


def test_copies_go_and_say_why(raw: Path, verb: Verb, tmp_path: Path) -> None:
    said = verb("data", "copies", raw, "--out", "unique")
    assert "20 documents, 18 stay: 1 exact and 1 near copies removed" in said
    assert ids(tmp_path / "unique") == [str(n) for n in range(20) if n not in (7, 9)]
    rows = [json.loads(line) for line in (tmp_path / "unique" / "duplicates.jsonl").read_text().splitlines()]
    assert {(row["removed"], row["kept"]) for row in rows} == {("7", "3"), ("9", "4")}
    assert all(0.7 <= row["similarity"] <= 1 for row in rows)
    told = json.loads(verb("data", "copies", raw, "--threshold", "1", "--out", "exact", "--json"))
    assert told["kept"] == 19 and Path(told["out"]).name == "exact"


def test_files_are_cleaned_and_every_drop_has_its_reason(verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    english = "".join(f"{story(number, 12)} Write to anna.smith{number}@lighthouse.net.\n\n" for number in range(4))
    chinese = MODERN
    rows = [{"text": english}, {"text": "Home | News | Sport"}, {"text": "£$% " * 80}, {"title": "no text"}]
    (tmp_path / "given" / "a.json").write_text(json.dumps(rows))
    (tmp_path / "given" / "b.txt").write_text(chinese, encoding="gb18030")
    said = verb("data", "clean", "given", "--out", "clean")
    assert "4 documents, 2 stay; dropped: " in said and "1 not read" in said and "--rules own" not in said
    made = [json.loads(line) for line in (tmp_path / "clean" / "documents.jsonl").read_text().splitlines()]
    assert [(row["source"], row["language"]) for row in made] == [("a.json#1", "en"), ("b.txt", "zh")]
    assert "[mail]" in made[0]["text"] and "@" not in made[0]["text"] and made[1]["text"].strip() == chinese.strip()
    dropped = [stage for stage in json.loads((tmp_path / "clean" / "funnel.json").read_text()) if stage["reasons"]]
    assert {one["source"] for stage in dropped for why in stage["reasons"].values() for one in why["examples"]} == {
        "a.json#2", "a.json#3",
    }  # fmt: skip
    assert "a.json#4" in (tmp_path / "clean" / "set_aside.jsonl").read_text()
    assert "not wanted" not in verb("data", "show", "clean")
    told = json.loads(verb("data", "clean", "given", "--language", "zh", "--keep-personal-data", "--workers", "2",
                           "--out", "zh", "--json"))  # fmt: skip
    assert told["kept"] == 1 and told["languages"] == {"zh": 1}
    assert "none of 4 documents passed" in verb("data", "clean", "given", "--language", "de", "--out", "de", code=2)
    assert not (tmp_path / "de").exists()
    (tmp_path / "given" / "list.txt").write_text("\n".join(["bread", "milk", "a dozen of eggs"] * 20))
    said = verb("data", "clean", "given", "--language", "en", "--out", "en")
    assert "5 documents, 1 stay" in said and "--rules own is patient" in said


def test_what_tests_ask_is_taken_out_of_files(verb: Verb, tmp_path: Path) -> None:
    """Items in a .json list, and a file of lines in GB18030; one stands in a text, one in other case and wrapped."""
    asked = ["Which of the seven lighthouses on the northern shore did the keeper paint green in that wet year?"]
    chinese = "一个农夫有十七只羊，除了九只以外都死了，请问他现在还剩下多少只活着的羊？"
    (tmp_path / "exam.json").write_text(json.dumps([{"question": text} for text in asked]))
    (tmp_path / "quiz.txt").write_text(chinese + "\n", encoding="gb18030")
    (tmp_path / "given").mkdir()
    before, behind = story(1, 20), story(2, 20)
    texts = [before + asked[0].upper().replace(" ", "\n", 3) + behind, story(3, 20), MODERN * 4 + chinese + MODERN * 4]
    (tmp_path / "given" / "a.json").write_text(json.dumps([{"text": text} for text in texts]))
    words = ("data", "decontaminate", "given", "--tasks", "exam.json", "--tasks", "quiz.txt")
    said = verb(*words, "--out", "tested")
    assert "2 of 2 items stand in 2 of 3 documents (cut)" in said
    rows = [json.loads(line) for line in (tmp_path / "tested" / "documents.jsonl").read_text().splitlines()]
    whole = " ".join(row["text"] for row in rows)
    assert "lighthouses on" not in whole.lower() and "十七只羊" not in whole
    assert before[:200] in whole and texts[1] in whole and MODERN[:60] in whole
    verdicts = [json.loads(line)["verdict"] for line in (tmp_path / "tested" / "items.jsonl").read_text().splitlines()]
    assert verdicts == ["found", "found"]
    told = json.loads(verb(*words, "--action", "report", "--out", "found", "--json"))
    assert told["kept"] == 3 and told["items_found"] == 2
    assert "no file of test items" in verb("data", "decontaminate", "given", "--tasks", "x", "--out", "y", code=2)
    (tmp_path / "quiz.txt").write_bytes(b"\xff\xfe\x00")
    assert "quiz.txt cannot be read" in verb(*words, "--out", "y", code=2)


def test_repeats_are_cut(raw: Path, verb: Verb, tmp_path: Path) -> None:
    verb("data", "copies", raw, "--out", "unique")
    said = verb("data", "repeats", "unique/documents.jsonl", "--out", "clean")
    assert "18 documents, 18 stay, 1 of them shorter" in said
    before, after = (
        [json.loads(line)["text"] for line in (tmp_path / name / "documents.jsonl").read_text().splitlines()]
        for name in ("unique", "clean")
    )
    changed = [number for number, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
    assert len(changed) == 1 and len(after[changed[0]]) < len(before[changed[0]]) - 700


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("copies", "nowhere.jsonl", "--out", "x"), "there is no file nowhere.jsonl"),
        (("copies", "raw.jsonl.gz", "--out", "there"), "exists already"),
        (("copies", "raw.jsonl.gz", "--out", "no/x"), "there is no folder no"),
        (("copies", "raw.jsonl.gz", "--threshold", "2", "--out", "x"), "threshold"),
        (("copies", "raw.jsonl.gz", "--keep", "best", "--out", "x"), "score"),
        (("copies", "raw.jsonl.gz", "--keep", "best", "--score", "rank", "--out", "x"), "rank"),
        (("copies", "bad.jsonl", "--out", "x"), "bad.jsonl"),
        (("repeats", "raw.jsonl.gz", "--shortest", "0", "--out", "x"), "shortest"),
        (("repeats", "bad.jsonl", "--out", "x"), "athanor data convert bad.jsonl OUT.jsonl"),
        (("clean", "nowhere", "--out", "x"), "there is nothing at nowhere"),
        (("copis", "raw.jsonl.gz"), "copies"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    words: tuple[str, ...], said: str, raw: Path, verb: Verb, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": 7}\n')
    before = sorted(tmp_path.rglob("*"))
    assert said in verb("data", *words, code=2)
    assert sorted(tmp_path.rglob("*")) == before


def test_instruction_data_is_written_in_another_form(verb: Verb, tmp_path: Path) -> None:
    rows = [{"instruction": f"{n}+1?", "input": "", "output": str(n + 1)} for n in range(5)]
    rows += [{"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, {"nothing": 1}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n")
    said = verb("data", "instruct", "mine.jsonl", "--to", "openai", "--out", "messages")
    assert "8 rows read, 6 written as openai, 2 refused" in said
    written = [json.loads(line) for line in (tmp_path / "messages" / "lessons.jsonl").read_text().splitlines()]
    assert written[0]["messages"][1] == {"role": "assistant", "content": "1"}
    assert written[5]["preferred_output"] == [{"role": "assistant", "content": "Hello"}]
    told = json.loads(verb("data", "instruct", "mine.jsonl", "--to", "kto", "--out", "kto", "--json"))
    assert (told["written"], told["refused"]) == (2, 7)  # five conversations judge nothing
    reasons = [json.loads(line) for line in (tmp_path / "kto" / "refused.jsonl").read_text().splitlines()]
    assert reasons[0] == {"row": "mine.jsonl line 1", "reason": "is a conversation: kto says a judgement, a preference"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "openai", "--strict"), "mine.jsonl line 2 has the keys nothing"),
        (("--to", "hh"), "nothing can be written as hh"),
        (("--to", "openai", "--from", "sharegpt", "--strict"), "has no conversations"),
        (("--to", "parquet"), "parquet"),
    ],
)
def test_what_cannot_be_converted_leaves_nothing(words: tuple[str, ...], said: str, verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"nothing": 1}\n')
    assert said in verb("data", "instruct", "mine.jsonl", *words, "--out", "x", code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.jsonl"]
