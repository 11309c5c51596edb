"""What users of other tools complain of: out of memory (test_deduplicate), damage found late, English thresholds on
other languages without a word, a deduplication that does nothing and says nothing."""

import json

import pytest
from click.testing import CliRunner

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.data.cleaning.clean import CleanSettings, clean_documents
from athanor.data.cleaning.filters import judge_pages
from athanor.data.copies.corpora import CorpusCopySettings, remove_corpus_copies
from athanor.data.document import make_document
from athanor.data.reading.read import ReadSettings, read_documents
from athanor.data.shards import shard_names
from athanor.store.artifact import Artifact
from athanor.verbs.data import command
from tests.data.cleaning.test_clean import story

CHINESE = (
    "清晨的河边有人在洗衣服，孩子们沿着小路跑来跑去。老人坐在门前，说今年的雨水比去年多，庄稼长得很好。"
    "到了傍晚，村里的灯一盏一盏亮起来，大家围着桌子吃饭，谈论白天看见的事情。"
)
RUSSIAN = "Утром у реки люди стирали бельё, а дети бегали по тропинке. Старик сидел у двери и говорил о дожде. " * 8


@pytest.fixture
def documents(tmp_path, run_step):
    """Forty stories as an artifact."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(story(number))
    return run_step(read_documents, ReadSettings(path=str(folder)))


def damage(artifact, prefix):
    """Change one byte in the middle of an artifact's first shard."""
    path = artifact.path / shard_names(artifact, prefix)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    return path.name


def test_a_changed_byte_between_steps_is_found_before_anything_is_read(run_step, documents):
    corpus = run_step(clean_documents, CleanSettings(), documents=documents)
    for artifact, prefix, step, settings, role in (
        (documents, "documents", clean_documents, CleanSettings(), "documents"),
        (corpus, "train", remove_corpus_copies, CorpusCopySettings(), "corpus"),
    ):
        name = damage(artifact, prefix)
        fresh = Artifact(artifact.path)  # as another process finds it
        with pytest.raises(AthanorError, match=name):
            run_step(step, settings, **{role: fresh})


def test_chinese_is_not_judged_by_english_rules_and_other_languages_not_without_a_word():
    judged = judge_pages(
        [
            make_document(CHINESE, "zh", language="zh"),
            make_document(RUSSIAN, "ru", language="ru"),
            make_document("a b c", "en", language="en"),
        ]
    )
    assert judged[0] is None
    assert judged[1].startswith("ru as English: ") and not judged[2].startswith("en as")


def test_removing_copies_of_nothing_is_an_error_and_of_something_tells_what_it_did(tmp_path):
    empty, rows = tmp_path / "empty.jsonl", tmp_path / "rows.jsonl"
    empty.write_text("\n\n")
    rows.write_text("".join(json.dumps({"text": story(number % 5)}) + "\n" for number in range(15)))
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"content": "no field called text"}\n')
    for source, told in ((empty, "no document in"), (wrong, "line 1")):
        failed = CliRunner().invoke(command, ["copies", str(source), "--out", str(tmp_path / "out")])
        assert isinstance(failed.exception, AthanorError) and told in str(failed.exception)
        assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(command, ["copies", str(rows), "--out", str(tmp_path / "out"), "--workers", "2"])
    assert done.exit_code == 0, done.output
    assert "10" in done.output and read_json(tmp_path / "out" / "funnel.json")[0]["out"] == 5
