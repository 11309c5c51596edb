"""Pictures and sounds with their words, in folders as people have them."""

import csv
import json
import tarfile

import pytest

from athanor.data.reading.read import ReadSettings, fingerprint
from tests.conftest import REAL_DATA
from tests.data.reading.tiny_media import jpeg_header, png, wav


def by_source(documents):
    return {document.source: document for document in documents}


def test_the_words_beside_a_picture_or_sound_are_its_text(folder, read_all):
    (folder / "deep").mkdir()
    (folder / "cat.png").write_bytes(png(3, 2))
    (folder / "cat.txt").write_text("A cat.\n")
    (folder / "deep" / "dog.jpg").write_bytes(jpeg_header(640, 480))
    (folder / "deep" / "dog.json").write_text(json.dumps({"caption": "一只狗", "id": 7}))
    (folder / "deep" / "hello.wav").write_bytes(wav(0.5))
    (folder / "deep" / "hello.lab").write_text("hello there")
    (folder / "notes.txt").write_text("A text of its own.")
    documents, aside = read_all(folder)
    found = by_source(documents)
    assert aside == {} and list(found) == ["cat.png", "deep/dog.jpg", "deep/hello.wav", "notes.txt"]
    assert [document.text for document in documents] == ["A cat.", "一只狗", "hello there", "A text of its own."]
    path = str(folder / "cat.png")
    assert found["cat.png"].media == (
        {"kind": "picture", "path": path, "bytes": len(png(3, 2)), "width": 3, "height": 2},
    )
    assert (found["deep/dog.jpg"].media[0]["width"], found["deep/dog.jpg"].media[0]["height"]) == (640, 480)
    sound = found["deep/hello.wav"].media[0]
    assert (sound["seconds"], sound["sample_rate"], sound["kind"]) == (0.5, 8_000, "sound")
    assert found["cat.png"].kind == "caption" and found["notes.txt"].media == ()


def test_one_named_picture_finds_its_words_too(folder, read_all):
    (folder / "cat.png").write_bytes(png())
    (folder / "cat.txt").write_text("A cat.")
    for path in (folder / "cat.png", folder / "*.png"):
        documents, _ = read_all(path)
        assert [(document.source, document.text) for document in documents] == [("cat.png", "A cat.")]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_a_table_names_pictures_in_its_folder(folder, read_all, kind):
    (folder / "train" / "a").mkdir(parents=True)
    for name in ("train/one.png", "train/a/two.png", "train/three.png", "train/a/own.png"):
        (folder / name).write_bytes(png())
    (folder / "train" / "a" / "own.txt").write_text("Words of its own.")
    rows = [
        ("one.png", "The first."),
        ("a/two.png", "The second."),
        ("gone.png", "?"),
        ("../x.png", "?"),
        ("one.png", " "),
    ]
    with open(folder / "train" / f"metadata.{kind}", "w", newline="") as file:
        if kind == "jsonl":
            file.writelines(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in rows)
        else:
            csv.writer(file, delimiter="\t" if kind == "tsv" else ",").writerows([("file_name", "text"), *rows])
    documents, aside = read_all(folder)
    first = 1 if kind == "jsonl" else 2
    table = f"train/metadata.{kind}#"
    assert {document.source: document.text for document in documents} == {
        "train/a/own.png": "Words of its own.", f"{table}{first}": "The first.", f"{table}{first + 1}": "The second.",
    }  # fmt: skip
    assert documents[-1].media[0]["path"] == str(folder / "train" / "a" / "two.png")
    assert aside == {
        f"{table}{first + 2}": "vanished", f"{table}{first + 3}": "a path that leads out of the folder",
        f"{table}{first + 4}": "a picture without words", "three.png": "a picture without words",
    }  # fmt: skip


def test_a_table_that_names_no_pictures_is_read_as_rows(folder, read_all):
    (folder / "metadata.jsonl").write_text('{"text": "a row"}\n{"text": "another"}\n')
    documents, aside = read_all(folder)
    assert [document.text for document in documents] == ["a row", "another"] and aside == {}


def test_what_is_no_picture_or_has_no_words_is_set_aside(folder, read_all):
    (folder / "good.png").write_bytes(png())
    (folder / "good.txt").write_text("Good.")
    (folder / "alone.png").write_bytes(png())
    for name in ("text.png", "noise.wav", "empty.txt.png"):
        (folder / name).write_text("no picture, no sound")
        (folder / (name.rpartition(".")[0] + ".txt")).write_text("words")
    (folder / "cut.mp3").write_bytes(b"\xff\xfb\x90")
    (folder / "cut.txt").write_text("words")
    (folder / "long.png").write_bytes(png())
    (folder / "long.txt").write_text("word " * 1_000)
    (folder / "half.png").write_bytes(png())
    (folder / "half.json").write_text('{"text": ')
    documents, aside = read_all(folder, max_document_bytes=2_000)
    assert [document.source for document in documents] == ["good.png"]
    assert aside == {
        "alone.png": "a picture without words", "text.png": "broken picture", "empty.txt.png": "broken picture",
        "noise.wav": "broken sound", "cut.mp3": "broken sound", "long.png": "words too long for one document",
        "half.png": "words that are not JSON",
    }  # fmt: skip


def test_the_fingerprint_follows_words_and_pictures(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}')
    (folder / "sub" / "a.png").write_bytes(png())
    (folder / "cat.png").write_bytes(png())
    (folder / "cat.txt").write_text("one")
    seen = {fingerprint(ReadSettings(path=str(folder)))}
    (folder / "cat.txt").write_text("two")
    seen.add(fingerprint(ReadSettings(path=str(folder))))
    (folder / "sub" / "a.png").write_bytes(png(5, 5))
    seen.add(fingerprint(ReadSettings(path=str(folder))))
    assert len(seen) == 3


@pytest.mark.skipif(not (REAL_DATA / "multimodal" / "llamafactory_mllm_demo.tar").exists(), reason="no real media here")
def test_real_pictures_and_sounds(folder, read_all):
    """Sizes and lengths as `file` and `ffprobe` state them."""
    with tarfile.open(REAL_DATA / "multimodal" / "llamafactory_mllm_demo.tar") as archive:
        for member in archive:
            if member.name.endswith((".jpg", ".mp3", ".wav", ".flac")):
                archive.extract(member, folder, filter="data")
                stem = member.name.replace(".", "-")
                (folder / member.name).rename(folder / f"{stem}.{member.name.split('.')[1]}")
                (folder / f"{stem}.txt").write_text(f"words for {member.name}")
    documents, aside = read_all(folder)
    assert aside == {}
    media = {document.source: document.media[0] for document in documents}
    assert all(item["width"] > 100 and item["height"] > 100 for item in media.values() if item["kind"] == "picture")
    assert all(1 < item["seconds"] < 120 for item in media.values() if item["kind"] == "sound")
    assert len(media) == 7
