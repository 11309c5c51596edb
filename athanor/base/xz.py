"""XZ streams to their true end, in bounded memory: a file may ask for gigabytes to be decompressed with."""

import io
import lzma
from typing import IO, Any, cast

BLOCK = 1 << 16  # bytes of a compressed file read at once
PADDING = b"\0"  # may stand between and behind streams


def open_xz(source: IO[bytes], most_memory: int) -> IO[bytes]:
    """The data of all streams of an .xz file; closing it closes the source.

    Errors while reading:
        lzma.LZMAError: it is no XZ, damaged, or asks for more memory than this.
        EOFError: it ends inside a stream.
    """
    return cast(IO[bytes], io.BufferedReader(_Streams(source, most_memory), 1 << 17))


class _Streams(io.RawIOBase):
    def __init__(self, source: IO[bytes], most_memory: int):
        self.source, self.most = source, most_memory
        self.decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=most_memory)
        self.begun = False  # whether a stream is being read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            waiting = b""
            if self.decoder.eof:
                waiting = self.decoder.unused_data.lstrip(PADDING)
                self.decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=self.most)
                self.begun = bool(waiting)
            if self.decoder.needs_input and not waiting:
                waiting = self.source.read(BLOCK)
                if not waiting:
                    if self.begun:
                        raise EOFError("the compressed data ends inside a stream")
                    return 0
                waiting = waiting if self.begun else waiting.lstrip(PADDING)
                self.begun = self.begun or bool(waiting)
                if not waiting:
                    continue
            data = self.decoder.decompress(waiting, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def close(self) -> None:
        if not self.closed:
            self.source.close()
        super().close()
