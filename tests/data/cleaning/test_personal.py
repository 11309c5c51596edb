"""Personal data planted in English and Chinese sentences is found, and what only looks like it stays."""

import gzip
import json
import random
import re

import pytest

from athanor.data.cleaning.personal import CARD_CHECKS, CARD_WEIGHTS, is_bank_card, is_identity_card, mask_personal
from tests.conftest import REAL_DATA

SENTENCES = {
    "mail": [
        "Write to {} before Friday.",
        "请发邮件至{}，谢谢。",
        "联系人：王先生（{}）",
        "<{}> wrote:",
        "Contact: {}",
    ],
    "phone": [
        "Call {} after six.",
        "She can be reached at {}, he said.",
        "请拨打{}联系我们。",
        "手机：{}",
        "联系人李女士{}，",
        "Phone: {} (office)",
    ],
    "identity card": ["她的身份证号是{}，请核对。", "身份证：{}", "ID card no. {} was found."],
    "bank card": ["请转账到{}，户名张三。", "My card {} expires in May.", "银行卡号：{}"],
    "ip": ["Last login from {} at noon.", "来自{}的访问被拒绝。", "The host {} answered.", "[{}] GET /index.html"],
}


def luhn(digits: str) -> str:
    """The digit that makes a number pass; the plain definition, from the right."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (2 if place % 2 == 0 else 1)
        total += number // 10 + number % 10
    return str(-total % 10)


class Maker:
    """Values as people write them."""

    def __init__(self, seed: int):
        self.chance = random.Random(seed)

    def digits(self, count: int, first: str = "0123456789") -> str:
        return self.chance.choice(first) + "".join(self.chance.choices("0123456789", k=count - 1))

    def make(self, kind: str) -> str:
        return getattr(self, kind.replace(" ", "_"))()

    def mail(self) -> str:
        name = self.chance.choice(["jane.doe", "zhang_wei", "li.na88", "j-smith+news", "12345678", "bob"])
        host = self.chance.choice(
            ["gmail.com", "qq.com", "163.com", "mail.example.co.uk", "cs.tsinghua.edu.cn", "web.de"]
        )
        veiled = f"{name} [at] {host.replace('.', ' [dot] ')}"
        return self.chance.choice([f"{name}@{host}"] * 6 + [f"{name}(at){host}", veiled])

    def phone(self) -> str:
        pick, digits = self.chance.choice, self.digits
        area, exchange, line = digits(3, "23456789"), digits(3, "23456789"), digits(4)
        mobile = "1" + digits(2, "3456789") + digits(8)
        home = pick(["010", "021", "0571", "0755", "028"])
        number = digits(8, "2345678")
        return pick(
            [
                mobile,
                f"{mobile[:3]}-{mobile[3:7]}-{mobile[7:]}",
                f"{mobile[:3]} {mobile[3:7]} {mobile[7:]}",
                f"+86 {mobile}",
                f"+86-{mobile}",
                f"86{mobile}",
                f"(+86){mobile}",
                f"{home}-{number}",
                f"({home}){number}",
                f"（{home}）{number}",
                f"{home}-{number[:4]} {number[4:]}",
                f"{home}－{number}",
                f"{home}-{number}-{digits(3, '12345678')}",
                f"+86 {home[1:]} {number[:4]} {number[4:]}",
                f"({area}) {exchange}-{line}",
                f"{area}-{exchange}-{line}",
                f"{area}.{exchange}.{line}",
                f"+1 {area} {exchange} {line}",
                f"1-{area}-{exchange}-{line}",
                f"+1{area}{exchange}{line}",
                f"+1 ({area}) {exchange}-{line}",
                f"+44 20 {digits(4)} {digits(4)}",
                f"020 {digits(4)} {digits(4)}",
                f"07{digits(3)} {digits(6)}",
                f"+447{digits(9)}",
                f"+33 1 42 68 {digits(2)} {digits(2)}",
                f"+49 30 {digits(8, '23456789')}",
                f"+852 {digits(4, '2359')} {digits(4)}",
            ]
        )

    def identity_card(self) -> str:
        place = self.chance.choice(["110105", "310101", "440305", "620102", "330106", "510107"])
        day = f"{self.chance.randint(1940, 2015)}{self.chance.randint(1, 12):02}{self.chance.randint(1, 28):02}"
        body = place + day + self.digits(3)
        check = CARD_CHECKS[sum(int(d) * w for d, w in zip(body, CARD_WEIGHTS, strict=True)) % 11]
        spaced = f"{body[:6]} {body[6:14]} {body[14:]}{check}"
        return self.chance.choice([body + check, body + check, body + check.lower(), spaced])

    def bank_card(self) -> str:
        begin, size = self.chance.choice(
            [("62", 19), ("62", 16), ("4", 16), ("53", 16), ("2720", 16), ("37", 15), ("6011", 16), ("3528", 16)]
        )
        body = begin + self.digits(size - 1 - len(begin))
        number = body + luhn(body)
        mark = self.chance.choice(["", " ", "-"])
        if size == 15:
            return mark.join([number[:4], number[4:10], number[10:]])
        return mark.join(number[start : start + 4] for start in range(0, size, 4))

    def ip(self) -> str:
        first = self.chance.choice([58, 61, 93, 114, 123, 180, 202, 218])
        rest = ".".join(str(self.chance.randint(0, 255)) for _ in range(3))
        group = self.digits(3)
        return self.chance.choice(
            [f"{first}.{rest}"] * 3
            + [f"2400:3200:{group}::1", f"2a02:26f0:ff:1:0:0:{group}:8a2e", f"240e:{group}::abcd"]
        )


def test_planted_data_is_found():
    """Of 5,000 planted values at least 98 of 100 of each kind are masked whole, and as what they are."""
    maker = Maker(seed=1)
    for kind, sentences in SENTENCES.items():
        missed = []
        for _ in range(1_000):
            value, sentence = maker.make(kind), maker.chance.choice(sentences)
            if mask_personal(sentence.format(value))[0] != sentence.format(f"[{kind}]"):
                missed.append(sentence.format(value))
        assert len(missed) <= 20, f"{kind}: {len(missed)} of 1000 missed, such as {missed[:5]}"


def wrong_checksum(card: str) -> str:
    place = len(card) - 2
    return card[:place] + str((int(card[place]) + 1) % 10) + card[place + 1 :]


def test_numbers_that_fail_their_checksum_stay():
    maker = Maker(seed=2)
    for _ in range(300):
        for kind in ("identity card", "bank card"):
            text = f"编号{wrong_checksum(maker.make(kind))}。"
            assert f"[{kind}]" not in mask_personal(text)[0]


@pytest.mark.parametrize(
    "text",
    [
        "Version 1.2.3.4 of 2024-01-02 follows 10.0.19045.3 and 4.0.30319.42000.",
        "见第3.1.2.4节与图2.1.1.3。",
        "ISBN 978-7-04-050694-5, ISBN 0-13-110362-8, ISSN 1050-124X, 9787040506945",
        "doi:10.1145/3292500.3330701",
        "pi 3.14159265358979323846, e 2.718281828459045, 6.02214076e23, 299792458 m/s",
        "2024-01-02T03:04:05.678901+08:00",
        "order 110105194912310021, 订单号2024010212345678901, EAN 4006381333931",
        "127.0.0.1, 192.168.0.1, ::1, fe80::1, 2001:db8::1",
        "@decorator, name@example.com, foo@localhost, a@b, @user on GitHub, icon@2x.png",
        "12:34:56, 00:1A:2B:3C:4D:5E, std::add::face",
        "1234567890123456, 0123456789, 1111111111111111, 0000000000000000",
        "人口1400000000，增长+10 000 000人，共123,456,789元",
        "In 1999-2003 some 2000 3000 4000 words, pages 130-1400, 1998.2003",
        "QQ 12345678, RFC 2822, 100-200-300, 555-2671, 12345-6789",
        "git 3f786850e387550fdab836ed7e6dc881de23001b, uuid 123e4567-e89b-12d3-a456-426614174000",
        "电话会议于2024-01-02 10:00:00召开",
        "telephone 1876 by Bell; mobile 2007",
        "0x7fffffffffff 18446744073709551615 6364136223846793005",
        "the fax of 2019/12/31",
        "%+f: +3.140000; -3.140000",
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert mask_personal(text)[0] == text


def test_programs_keep_their_numbers_and_lose_their_authors():
    text = "HOST = '93.184.216.34'  # ask jane@mail.org, 13812345678, card = 4111111111111111"
    assert mask_personal(text, code=True)[0] == text.replace("jane@mail.org", "[mail]")


def test_checksums():
    assert is_identity_card("11010519491231002X") and not is_identity_card("110105194912310021")
    assert is_bank_card("4111 1111 1111 1111") and not is_bank_card("4111 1111 1111 1112")
    assert is_bank_card("378282246310005") and not is_bank_card("9111111111111111")


def test_several_in_a_sentence():
    masked, counts = mask_personal("王芳，13912345678，wang@163.com，卡号4111111111111111；她的地址 58.30.1.2 已停用。")
    assert masked == "王芳，[phone]，[mail]，卡号[bank card]；她的地址 [ip] 已停用。"
    assert counts == {"phone": 1, "mail": 1, "bank card": 1, "ip": 1}


def rows(name: str):
    with gzip.open(REAL_DATA / "text" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            yield from (value for value in json.loads(line).values() if isinstance(value, str))


@pytest.mark.skipif(not (REAL_DATA / "text" / "zh_d2l_book.jsonl.gz").exists(), reason="no real text here")
@pytest.mark.parametrize("name, most", [("zh_d2l_book", 0), ("en_rust_book", 3), ("en_wikipedia_sample", 2)])
def test_technical_text_is_left_alone(name, most):
    """Books and encyclopaedia without personal numbers: counted by reading every masked place."""
    found = [
        match
        for text in rows(name)
        for match in re.findall(r"\[(?:phone|bank card|identity card|ip)\]", mask_personal(text)[0])
    ]
    assert len(found) <= most
