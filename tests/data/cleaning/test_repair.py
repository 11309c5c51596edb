import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from athanor.data.cleaning.language import guess_language
from athanor.data.cleaning.personal import is_identity_card, mask_personal
from athanor.data.cleaning.repair import repair_text


@given(
    st.text(
        alphabet=st.one_of(
            st.sampled_from("a \t\n\r\x0c\x00\u00a0\u200b\u3000e\u0301\u2028#"), st.characters(codec="utf-8")
        )
    )
)
def test_repairing_twice_changes_nothing_more(text):
    once = repair_text(text)
    assert repair_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert "\x00" not in once and "\r" not in once and " \n" not in once


def test_what_is_repaired_and_what_stays():
    assert repair_text("cafe\u0301\u200b \r\nnext\u00a0word\x07\f") == "café\nnext word\n"
    assert (
        repair_text("def f():\n    if x:\n\treturn 1   \n\n\n\n\n\nend") == "def f():\n    if x:\n\treturn 1\n\n\nend\n"
    )
    assert repair_text("family 👩\u200d👧 stays 汉字，也") == "family 👩\u200d👧 stays 汉字，也\n"
    assert repair_text(" \n\u200b\n") == ""


def test_long_runs_of_blanks_take_no_longer_than_their_length():
    import time

    begin = time.process_time()
    repair_text((" " * 300_000 + "x\n") * 3)
    mask_personal("a" * 500_000 + "@" * 1_000 + "1-" * 300_000)
    assert time.process_time() - begin < 2


def test_personal_data_is_masked_and_other_numbers_are_not():
    masked, counts = mask_personal(
        "Write to jane.doe+x@mail.example.co.uk or call (415) 555-2671, +44 20 7946 0958, 13812345678, 010-62345678; "
        "her card is 11010519491231002X, her machine 93.184.216.34."
    )
    assert masked == (
        "Write to [mail] or call [phone], [phone], [phone], [phone]; her card is [identity card], her machine [ip]."
    )
    assert counts == {"mail": 1, "phone": 4, "identity card": 1, "ip": 1}
    same = (
        "Version 1.2.3.4.5 of 2024-01-02, order 110105194912310021, 127.0.0.1 and 192.168.0.1, pi 3.14159265358, "
        "@decorator, name@example.com, 1234567890123456, 555-2671, 999.999.999.999"
    )
    assert mask_personal(same)[0] == same


def test_chinese_text_is_masked_inside_a_sentence():
    text = "请联系张先生，电话13912345678，邮箱zhang@qq.com，座机0571-87654321。"
    assert mask_personal(text)[0] == "请联系张先生，电话[phone]，邮箱[mail]，座机[phone]。"


def test_programs_keep_their_numbers():
    text = "HOST = '93.184.216.34'  # ask jane@mail.org, 13812345678"
    assert mask_personal(text, code=True)[0] == "HOST = '93.184.216.34'  # ask [mail], 13812345678"


def test_identity_cards_are_checked_by_their_checksum():
    assert is_identity_card("11010519491231002X")
    assert not any(is_identity_card(f"11010519491231002{digit}") for digit in range(10))


def test_languages_by_script_and_words():
    samples = {
        "en": "The weather is fine today and we went to the park with all of the children.",
        "zh": "今天天气很好，我们和孩子们去公园看花。Python 很好用。",
        "ja": "今日はとても良い天気ですから、公園まで散歩に行きましょう。",
        "ko": "오늘은 날씨가 매우 좋아서 공원으로 산책을 나갔습니다.",
        "und": "Сегодня прекрасная погода, и мы решили пойти в парк.",
    }
    assert {text: guess_language(text) for text in samples.values()} == {text: code for code, text in samples.items()}
    assert guess_language("Heute ist das Wetter sehr schön und wir gehen mit den Kindern in den Park.") == "und"
    assert guess_language("") == guess_language("12 + 30 = 42") == "und"
