import io

import pytest

from athanor.data.reading.decode import Unreadable, decode_stream, find_encoding

ENGLISH = (
    "The café was naïve about its résumé. It rained — and rained — until the streets of the old town shone.\n" * 20
)
CHINESE = (
    "北京的春天来得很快，街上的人们都在谈论今年的天气。我们去公园看花，孩子们在草地上跑来跑去，大家都很高兴。\n" * 20
)
JAPANESE = "今日はとても良い天気ですから、公園まで散歩に行きましょう。子どもたちが楽しそうに遊んでいます。\n" * 20
KOREAN = "오늘은 날씨가 매우 좋아서 공원으로 산책을 나갔습니다. 아이들이 즐겁게 뛰어놀고 있었습니다.\n" * 20
RUSSIAN = "Сегодня прекрасная погода, и мы решили пойти в парк, чтобы посмотреть на цветы и послушать птиц.\n" * 20


def opener(data):
    return lambda: io.BytesIO(data)


def text_of(data):
    return "".join(decode_stream(opener(data), find_encoding(opener(data))))


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, JAPANESE, KOREAN, RUSSIAN, "短", "hello"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_comes_back(text, encoding):
    assert text_of(text.encode(encoding)) == text


@pytest.mark.parametrize("mark,encoding", [(b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")])
def test_both_byte_orders(mark, encoding):
    assert text_of(mark + CHINESE.encode(encoding)) == CHINESE


@pytest.mark.parametrize(
    "text,encoding",
    [
        (CHINESE, "gb18030"), (CHINESE, "gbk"), (CHINESE[:40], "gbk"), (JAPANESE, "euc-jp"), (JAPANESE, "shift-jis"),
        (KOREAN, "euc-kr"), (RUSSIAN, "cp1251"), ("中文 and English 混在一起的一句话。\n" * 9, "gbk"),
    ],
)  # fmt: skip
def test_older_encodings_come_back(text, encoding):
    assert text_of(text.encode(encoding)) == text


def test_traditional_chinese_in_big5_is_never_read_as_simplified():
    data = ("今天天氣很好，我們決定去公園散步，看見許多孩子在草地上玩耍。\n" * 20).encode("big5")
    try:
        assert text_of(data).startswith("今天天氣")
    except Unreadable as problem:
        assert problem.reason == "unknown encoding"


@pytest.mark.parametrize("place", [0, 100, 1 << 20, (1 << 20) + 700])
def test_one_broken_byte_of_utf8_is_named_and_not_guessed_around(place):
    data = (CHINESE * 20).encode()[:200_000] * 7
    cut = data[:place].decode(errors="ignore").encode()
    with pytest.raises(Unreadable, match="broken UTF-8") as caught:
        find_encoding(opener(cut + b"\xff" + data[len(cut) :]))
    assert f"byte {len(cut)}" in caught.value.detail


def test_a_truncated_character_at_the_end_is_broken():
    with pytest.raises(Unreadable, match="broken UTF-8"):
        find_encoding(opener(CHINESE.encode()[:-2]))


def test_truncated_utf16_is_broken():
    with pytest.raises(Unreadable, match="broken UTF-16"):
        find_encoding(opener(CHINESE.encode("utf-16")[:-1]))


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\x7fELF\x02\x01\x01\0", b"text and then \0 nothing"]
)
def test_binary_files_are_refused(data):
    with pytest.raises(Unreadable, match="binary file"):
        find_encoding(opener(data))


def test_random_bytes_are_not_read_as_any_encoding():
    import random

    for seed in range(8):
        data = bytes(byte for byte in random.Random(seed).randbytes(5_000) if byte)
        with pytest.raises(Unreadable):
            find_encoding(opener(data))


def test_an_empty_file_says_so():
    with pytest.raises(Unreadable, match="empty file"):
        find_encoding(opener(b""))


def test_a_file_that_changed_under_the_reader_is_noticed():
    with pytest.raises(Unreadable, match="changed while it was read"):
        list(decode_stream(opener(b"fine \xff\xfe not"), "utf-8"))
