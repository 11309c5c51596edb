"""Pieces of text: whole characters, and no part of a stop string, whatever the tokens."""

from hypothesis import given
from hypothesis import strategies as st

from athanor.inference.stream import TextStream, decode_so_far

BYTES = [bytes((byte,)) for byte in range(256)]


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """The bytes in pieces of these sizes, over and over."""
    pieces, at = [], 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    return pieces


@given(
    st.text(alphabet="ab<|é中😀", max_size=30),
    st.lists(st.text(alphabet="ab<|é", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_text_ends_before_the_first_stop_string(text, stop, sizes):
    tokens = cut(text.encode(), sizes)
    stream = TextStream(tokens, stop)
    pieces = []
    for token in range(len(tokens)):
        pieces.append(stream.push(token))
        assert "\ufffd" not in pieces[-1]
        if stream.stopped:
            break
    pieces.append(stream.finish())
    ends = [text.find(one) for one in stop if one in text]
    assert bool(ends) == stream.stopped
    assert stream.text == "".join(pieces)
    seen = b"".join(tokens[: len(pieces) - 1]).decode("utf-8", "ignore")  # tokens after the stop do not count
    ends = [seen.find(one) for one in stop if one in seen]
    assert stream.text == (seen[: min(ends)] if ends else text)


@given(st.binary(max_size=20))
def test_broken_bytes_give_what_python_gives(data):
    stream = TextStream(BYTES)
    pieces = [stream.push(byte) for byte in data]
    assert "".join([*pieces, stream.finish()]) == data.decode("utf-8", "replace") == stream.text
    assert decode_so_far(BYTES, list(data), final=True) == stream.text


def test_a_half_shown_stop_string_is_held_back():
    stream = TextStream(BYTES, ["<end>"])
    assert [stream.push(byte) for byte in b"a<en"] == ["a", "", "", ""]
    assert stream.push(ord("x")) == "<enx"
    assert [stream.push(byte) for byte in b"<end>"] == [""] * 5
    assert stream.stopped and stream.push(65) == "" and stream.finish() == "" and stream.text == "a<enx"


def test_what_is_held_back_comes_at_the_end():
    stream = TextStream(BYTES, ["<end>"])
    assert [stream.push(byte) for byte in b"<e\xe4"] == ["", "", ""]
    assert stream.finish() == "<e\ufffd"
