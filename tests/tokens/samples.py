"""Texts for the tests of tokenizers: some to learn from, and some on which tokenizers are known to disagree."""

import gzip
import json
import random
import unicodedata

import pytest

from tests.conftest import REAL_DATA

# Public texts, where the machine has them: gzipped JSON lines with a field "text".
REAL = REAL_DATA / "text"

LEARN = [
    "The quick brown fox jumps over the lazy dog. It's what they'd say: we'll see, won't we? I'm sure you've heard it.",
    "def add(a, b):\n    return a + b\n\n\nfor i in range(10):\n\tprint(i, add(i, 2))\n",
    "你好，世界！今天天气很好，我们一起去公园散步吧。人工智能正在改变世界。",
    "Numbers: 1234567890, 3.14159, 2024-11-22, 1,000,000; café naïve Ångström straße.",
    "the cat sat on the mat and the dog ate the cat's food while the other cats slept on the other mats",
    "日本語のテキスト 한국어 문장 Русский текст العربية हिन्दी ไทย 🙂 emoji 👩‍👩‍👧",
] * 12

NASTY = [
    "", " ", "  ", "\n", "\n\n", "\t", " \n", "\n ", "a", " a", "a ", "  a  b  ", "\r\n\r\n",
    "\u00a0x\u3000y\u200bz\ufeff",
    "It's I'LL we'Ve 'S 'ſ 'K don't''s", "2024-11-22 12:34 ½ ²³ Ⅷ ٣ 1234567", "    indented\n\tx = {'a': [1, 2]}\n",
    "你好，世界！ 全角：ＡＢＣ１２３", "e\u0301 é \ufb01 ß ﷺ Å \u212b", "🙂👩‍👩‍👧🇨🇳❤️ 1️⃣", "\u202eright to left",
    "\x00\x01\x7f\x85\u2028\u2029", "a" * 300, "=" * 200, " " * 100 + "x", "x" + "\n" * 50, " \n" * 40 + "y",
    "\U00020000\U0002f800\U0010ffff\ue000", "<|user|>text<|end|><|document|>", "<|us<|user|>er|>",
    "</s><s><unk>[SEP][CLS]",
    "<|endoftext|><|im_start|>user", "<0x0A><0xff>", "▁▁x ▁", "Ġthe Ċ", "##ing", "the</w>", "\u0378\U0003fffd",
]  # fmt: skip


def random_texts(count: int, seed: int = 5) -> list[str]:
    """Texts of random characters of all of Unicode (no surrogates), with much white space and punctuation."""
    draw = random.Random(seed)
    space = " \n\t\r\u00a0\u3000\u2003\u0085\x0b"
    common = "abcdeABCDE0123'’.,!?-_()[]{}你好世界和한éèß"
    texts = []
    for _ in range(count):
        letters = []
        for _ in range(draw.randint(1, 60)):
            kind = draw.random()
            if kind < 0.35:
                letters.append(draw.choice(common))
            elif kind < 0.6:
                letters.append(draw.choice(space) * draw.choice((1, 1, 1, 2, 3, 7)))
            elif kind < 0.7:
                letters.append(draw.choice(("'s", "'LL", "'ve", "  ", "\r\n", "123", "the", " the", "ſ")))
            else:
                code = draw.randrange(0x110000)
                letters.append("x" if 0xD800 <= code <= 0xDFFF else chr(code))
        texts.append("".join(letters))
    return texts


def random_words(count: int, seed: int = 6) -> list[str]:
    """Texts of letters only, of one script at a time."""
    draw = random.Random(seed)
    blocks = [(0x61, 0x7A), (0xC0, 0x24F), (0x400, 0x4FF), (0x900, 0x97F), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3)]
    texts = []
    for _ in range(count):
        first, last = draw.choice(blocks)
        letters = [chr(draw.randint(first, last)) for _ in range(draw.randint(1, 30))]
        texts.append("".join(letter if unicodedata.category(letter) != "Cn" else " " for letter in letters))
    return texts


def real_texts(name: str, most: int, letters: int = 20_000) -> list[str]:
    """The first texts of a public data set, or skip the test where the machine has none."""
    path = REAL / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not on this machine")
    texts: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            text = row.get("text") or " ".join(value for value in row.values() if isinstance(value, str))
            texts.append(text[:letters])
            if len(texts) == most:
                break
    return texts
