"""Rules for Chinese pages: good texts stay, planted junk goes for its own reason."""

import gzip
import json
import random

import pytest

from athanor.base.errors import AthanorError
from athanor.data.rules.chinese import RULES, ChineseLimits, chinese_script, is_classical, judge_chinese
from athanor.data.rules.languages import LIMITS, derive_limits, judge_by_language, measure
from tests.conftest import REAL_DATA

MODERN = (
    "夜里河水慢慢地涨了起来，到了早晨，低处的草地已经被水淹没。村里的人划着船下来，把羊群赶到山上去，下雨之前谁也"
    "没有想到要这样做。一位老人说，他小时候见过更大的水，可是那天相信他的人不多。孩子们站在桥上看，觉得这是很有意思"
    "的事情。过了两天，水退下去了，田里留下了一层厚厚的泥。"
)
TRADITIONAL = (
    "夜裡河水慢慢地漲了起來，到了早晨，低處的草地已經被水淹沒。村裡的人划著船下來，把羊群趕到山上去，下雨之前誰也"
    "沒有想到要這樣做。一位老人說，他小時候見過更大的水，可是那天相信他的人不多。"
)
CLASSICAL = (
    "子曰：「學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？"
    "人不知而不慍，不亦君子乎？」有子曰：「其為人也孝弟，而好犯上者，鮮矣。」"
)
POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"
MENU = "首页\n关于我们\n产品中心\n新闻动态\n人才招聘\n联系我们\n网站地图\n友情链接\n收藏本站"
KEYWORDS = (
    "手机 电脑 相机 耳机 键盘 鼠标 平板 手表 音箱 电视 "
    "冰箱 空调 洗衣机 微波炉 热水器 路由器 打印机 显示器 充电器 数据线 "
) * 3  # fmt: skip
FOLDER = REAL_DATA


@pytest.mark.parametrize("text", [MODERN, TRADITIONAL, CLASSICAL, POEM])
def test_good_chinese_stays(text):
    assert judge_chinese(text) is None


JUNK = [
    (MENU, "bare_lines"),
    (KEYWORDS, "bare_lines|punctuation|stops"),
    (KEYWORDS.replace(" ", "、"), "stops"),
    (MODERN.encode().decode("gbk", "ignore"), "common_characters"),
    (MODERN.encode().decode("latin-1"), "han_share"),
    (MODERN.replace("了", "锟斤拷"), "damaged_characters"),
    ("\n".join([MODERN[:40]] * 9), "repeated_lines"),
    (MODERN + "买表就来我们店" * 40, "most_frequent_run"),
    (MODERN + MODERN[:90], "repeated_runs"),
    ("".join(mark + character for mark, character in zip("。，！？" * 60, MODERN * 2, strict=False)), "punctuation"),
    (MODERN.replace("，", "").replace("。", "") * 2, "punctuation"),
    ("Read more about our products. " * 20 + MODERN[:20], "han_share"),
    ("你好。", "minimum_characters"),
]


@pytest.mark.parametrize("text,setting", JUNK, ids=[f"{number}-{name}" for number, (_, name) in enumerate(JUNK)])
def test_planted_junk_goes_for_its_own_reason(text, setting):
    reason = judge_chinese(text)
    assert reason is not None and any(f"({name})" in reason for name in setting.split("|")), reason


def test_every_limit_has_a_rule():
    reasons = " ".join(reason for reason, _ in RULES)
    for name in ChineseLimits.model_fields:
        assert f"({name})" in reasons


def test_scripts_are_told_apart():
    assert chinese_script(MODERN) == "simplified"
    assert chinese_script(TRADITIONAL) == "traditional"
    assert chinese_script("人山水火") == chinese_script(MODERN + TRADITIONAL) == "both"
    wanted = ChineseLimits(scripts=("simplified", "both"))
    assert judge_chinese(MODERN, wanted) is None
    assert judge_chinese(TRADITIONAL, wanted) == "unwanted script (scripts)"


def test_classical_chinese_goes_only_where_it_is_not_wanted():
    assert is_classical(CLASSICAL) and not is_classical(MODERN)
    without = ChineseLimits(keep_classical=False)
    assert judge_chinese(CLASSICAL, without) == "classical Chinese (keep_classical)"
    assert judge_chinese(MODERN, without) is None


def test_a_program_in_a_manual_does_not_count():
    program = "\n```python\n" + "value = compute(value, 10)\n" * 60 + "```\n"
    assert judge_chinese(MODERN + program + MODERN[60:110]) is None


def read_rows(name):
    path = FOLDER / "text" / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def chapters(rows, key, field):
    found = {}
    for row in rows:
        found.setdefault(row[key], []).append(row[field])
    return ["\n".join(parts)[:1_500] for parts in found.values() if sum(map(len, parts)) > 100]


@pytest.mark.parametrize("kind", ["book", "modern", "classical", "verse", "manual"])
def test_nineteen_of_twenty_published_texts_stay(kind):
    if kind == "book":
        texts = [row["zh"] for row in read_rows("zh_d2l_book") if len(row["zh"]) > 200]
    elif kind == "verse":
        texts = [row["title"] + "\n" + row["text"] for row in read_rows("zh_poetry")[::60] if len(row["text"]) >= 24]
    elif kind == "manual":
        texts = ["\n\n".join(part.split("\n")) for part in chapters(read_rows("en_zh_python_docs"), "file", "zh")]
    else:
        texts = chapters(read_rows("zh_classical_modern"), "chapter", kind)
    random.Random(1).shuffle(texts)
    texts = texts[:400]
    assert sum(judge_chinese(text) is None for text in texts) >= 0.95 * len(texts)
    if kind in ("modern", "classical"):
        assert sum(is_classical(text) == (kind == "classical") for text in texts) >= 0.93 * len(texts)


def test_measures_are_what_they_say():
    found = measure("One two 34.\nOne two 34.\n")
    assert found.repeated_line_characters == 0.5 and found.closed_lines == 1.0 and found.short_lines == 1.0
    assert found.letters == pytest.approx(12 / 18) and found.digits == pytest.approx(4 / 18)
    assert found.word_length == pytest.approx(16 / 6) and found.line_feeds_per_word == pytest.approx(2 / 6)
    assert measure("").letters == 0.0


def test_limits_follow_from_good_texts():
    chance = random.Random(4)
    words = [f"w{chance.choice('aeiou')}{chance.choice('bdfglmnrst')}{chance.choice('aeiou')}" for _ in range(400)]
    texts = [" ".join(chance.choices(words, k=chance.randint(60, 90))) + "." for _ in range(200)]
    table = {"xx": derive_limits(texts)}
    assert sum(judge_by_language(text, "xx", table) is None for text in texts) >= 0.95 * len(texts)
    assert judge_by_language(texts[0][:30] * 9, "xx", table) is not None
    assert judge_by_language("123 456 789 " * 9, "xx", table) == "few letters (letters)"
    with pytest.raises(AthanorError, match="too few"):
        derive_limits(texts[:5])


def test_each_language_has_its_own_limits():
    assert set(LIMITS) == {"en", "zh"}
    assert judge_by_language(MODERN, "zh") is None
    assert judge_by_language(MODERN, "en") is not None
    with pytest.raises(AthanorError, match="no limits are known"):
        judge_by_language("Guten Tag", "de")
