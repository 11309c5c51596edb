"""Lines of web sites go, lines of texts and programs stay."""

import gzip
import json
import sys

import pytest

from athanor.data.cleaning.boilerplate import drop_boilerplate, is_boilerplate
from athanor.data.cleaning.clean import CleanSettings, clean_documents
from athanor.data.reading.html import whole_text
from athanor.data.reading.read import ReadSettings, read_documents
from athanor.data.shards import read_shards
from tests.conftest import REAL_DATA, ROOT
from tests.data.cleaning.test_clean import story

SITE = """Home | News | Sport | Contact us
We use cookies to give you the best experience.
Accept all cookies
Leave a comment
Click here to subscribe to our weekly letter
Copyright © 2019 The Daily Bugle. All rights reserved.
Facebook Twitter Pinterest
Share this:
By continuing to use this site you agree to our use of cookies.
责任编辑：王小明
（编辑：李华）
当前位置：首页 > 新闻 > 国内
未经授权不得转载
扫一扫关注公众号
京ICP备12345678号-1
打印本页 | 关闭窗口
字体：【大 中 小】
上一篇：春天的花园
免责声明：本文仅代表作者个人观点，与本站无关。
更多精彩内容请关注我们的微信公众号“花园”""".splitlines()
TEXT = """The cookies were still warm when she took them home.
Home is where the heart is.
He wrote a comment on the margin and left.
Share the bread among them, he said.
Copyright law changed in that century, and printers suffered.
## Comments
print(home, menu)
"email",
return x
Next, we calculate the gradients
作者在这一章里写到了春天。
返回由给出了字符串形式规格描述的所有测试用例组成的测试套件。
关注环境是每个人的责任。
编辑部里的人都走了。
首页上的照片是他拍的。
他扫了一眼窗外，没有说话。""".splitlines()


@pytest.mark.parametrize("line", SITE[:7] + SITE[8:])
def test_a_line_of_the_site_goes(line):
    assert is_boilerplate(line) and is_boilerplate(f"  • {line} ")


@pytest.mark.parametrize("line", TEXT)
def test_a_line_of_the_text_stays(line):
    assert not is_boilerplate(line)


def test_the_step_drops_them_where_it_is_told_to(tmp_path, run_step):
    texts = ["\n".join(["Home | News | Sport", story(number, 12), "Leave a comment"]) for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    documents = run_step(read_documents, ReadSettings(path=str(tmp_path / "rows.jsonl")))
    for drop in (False, True):
        corpus = run_step(clean_documents, CleanSettings(drop_boilerplate=drop, heldout_share=0.3), documents=documents)
        cleaned = [document.text for document in read_shards(corpus, "train")]
        assert len(cleaned) >= 2
        for text in cleaned:
            assert ("Home | News" in text) is ("Leave a comment" in text) is not drop
        assert {text.split("\n")[not drop] for text in cleaned} <= {story(number, 12).strip() for number in range(4)}


@pytest.mark.skipif(not (REAL_DATA / "web" / "trafilatura_eval.tar.gz").exists(), reason="no real pages here")
def test_real_pages_lose_lines_of_the_site_and_none_of_the_text():
    """Trafilatura's annotated pages, all their text: strings that belong to it stay, a part of the others goes."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "corpus"))
    from pages import read_evaluation

    sys.path.pop(0)
    wanted, others = [0, 0], [0, 0]
    for page in read_evaluation(REAL_DATA / "web")[::5]:
        before = "\n".join(line.lstrip("# ") for line in whole_text(page["markup"]).split("\n"))
        texts = [" ".join(text.split()) for text in (before, drop_boilerplate(before)[0])]
        for counts, strings in ((wanted, page["with"]), (others, page["without"])):
            for place, text in enumerate(texts):
                counts[place] += sum(" ".join(string.split()) in text for string in strings)
    assert wanted[0] == wanted[1] > 300 and others[1] < 0.9 * others[0]


@pytest.mark.skipif(not (REAL_DATA / "text" / "zh_d2l_book.jsonl.gz").exists(), reason="no real text here")
@pytest.mark.parametrize("name", ["zh_d2l_book", "en_rust_book"])
def test_books_are_left_alone(name):
    lines = dropped = 0
    with gzip.open(REAL_DATA / "text" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in file:
            for text in json.loads(row).values():
                if isinstance(text, str):
                    lines += text.count("\n") + 1
                    dropped += drop_boilerplate(text)[1]
    assert dropped < lines / 5_000
