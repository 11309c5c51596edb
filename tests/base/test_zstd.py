"""Zstandard streams: what the library writes is read back, and a stream cut anywhere says so."""

import io
import os

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base.zstd import open_zstd

TEXT = b"The same words, and again the same words. " * 9_000  # several blocks


def compress(data: bytes, **how: object) -> bytes:
    return zstandard.ZstdCompressor(**how).compress(data)


FRAMES = [
    compress(TEXT), compress(TEXT, write_checksum=True), compress(b""), compress(b"x" * 300_000), compress(TEXT[:100]),
    compress(os.urandom(300_000)), zstandard.ZstdCompressor(write_content_size=False).compress(TEXT),
    b"\x5a\x2a\x4d\x18\x05\0\0\0skip!", compress(b"y" * 70_000, write_content_size=False, write_checksum=True),
]  # fmt: skip


def test_frames_of_every_kind_are_read_to_their_end():
    packed = b"".join(FRAMES)
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed), read_across_frames=True)
    assert open_zstd(io.BytesIO(packed)).read() == reader.read()


@pytest.mark.parametrize("frame", FRAMES, ids=range(len(FRAMES)))
def test_a_frame_cut_anywhere_is_no_whole_one(frame):
    for end in {1, 3, 4, 5, 6, 7, 8, 9, len(frame) // 2, len(frame) - 5, len(frame) - 4, len(frame) - 1} - {0}:
        if 0 < end < len(frame):
            with pytest.raises((EOFError, zstandard.ZstdError)):
                open_zstd(io.BytesIO(FRAMES[0] + frame[:end])).read()


@given(st.lists(st.binary(max_size=300), max_size=5), st.data())
@settings(max_examples=40, deadline=None)
def test_reading_in_pieces_of_any_size(texts, data):
    packed = b"".join(compress(text, write_checksum=len(text) % 2 == 1) for text in texts)

    class Dribble(io.BytesIO):
        def read(self, size=-1):
            return super().read(data.draw(st.integers(1, 9)))

    assert open_zstd(Dribble(packed)).read() == b"".join(texts)


def test_what_is_no_zstd_is_refused():
    with pytest.raises(zstandard.ZstdError):
        open_zstd(io.BytesIO(b"plain text")).read()
