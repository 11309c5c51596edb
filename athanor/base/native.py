"""The C library of athanor/native: opened once, and how to call it.

It does what Python beside it does, faster, with the same results (tests compare them), so nothing depends on whether it
is there: an installation without a C compiler works. ATHANOR_NATIVE=0 leaves it alone; ATHANOR_NATIVE=1 refuses to work
without it. Why C and why this way: docs/design/006-native.md.
"""

import ctypes
import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from athanor.base.errors import AthanorError

FOLDER = Path(__file__).parent.parent / "native"
SWITCH = "ATHANOR_NATIVE"
OUT_OF_MEMORY = -1
BUILD = "run `make setup`, or `pip install -e .`, where a C compiler is installed"


@cache
def _open() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None; and which one, or why none."""
    wanted = os.environ.get(SWITCH, "")
    if wanted not in ("", "0", "1"):
        raise AthanorError(f"{SWITCH}={wanted!r}", allowed="0 (never), 1 (always), or unset (where it was built)")
    library, told = (None, f"{SWITCH}=0") if wanted == "0" else _find()
    if library is None and wanted == "1":
        raise AthanorError(f"{SWITCH}=1, but the C library cannot be used: {told}", fix=BUILD)
    return library, told


def _find() -> tuple[ctypes.CDLL | None, str]:
    if sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None, "this processor is not a 64-bit little-endian one"
    found = [path for path in sorted(FOLDER.glob("library*")) if path.suffix in (".so", ".pyd", ".dylib")]
    if not found:
        return None, "it was not built"
    try:
        library = ctypes.CDLL(str(found[0]))
        library.athanor_sources.restype = ctypes.c_char_p
        built_from = library.athanor_sources().decode()
    except (OSError, AttributeError) as problem:
        return None, f"{found[0].name} cannot be opened ({problem})"
    if built_from != hash_sources():
        return None, f"{found[0].name} was built from other sources"
    return library, found[0].name


def hash_sources() -> str:
    """The hash that setup.py builds into the library; a wheel brings the sources, too."""
    digest = hashlib.sha256()
    for path in sorted([*FOLDER.glob("*.c"), *FOLDER.glob("*.h")], key=lambda path: path.name):
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


def available() -> bool:
    """Whether the C library is in use."""
    return _open()[0] is not None


def describe() -> str:
    """The library's file, or why it is not in use."""
    return _open()[1]


@cache
def function(name: str) -> Callable[..., int]:
    """A function of the library: takes whole numbers, c_double, pointers (`pointer`) and bytes, gives a whole number.

    Raises:
        MemoryError: from the function, when the library got no memory.
    """
    library = _open()[0]
    assert library is not None, "callers ask `available` first"
    called = library[name]
    called.restype = ctypes.c_int64
    as_it_is = (ctypes.c_void_p, ctypes.c_double, bytes)

    def call(*arguments: Any) -> int:
        result = called(*[value if isinstance(value, as_it_is) else ctypes.c_int64(value) for value in arguments])
        if result == OUT_OF_MEMORY:
            raise MemoryError(f"{name} of the C library got no memory")
        return int(result)

    return call


def pointer(values: NDArray[Any], dtype: DTypeLike) -> ctypes.c_void_p:
    """Where the numbers of an array are; it must stay alive as long as the library uses them."""
    assert values.dtype == dtype and values.flags.c_contiguous, f"{values.dtype} instead of {np.dtype(dtype)}"
    return ctypes.c_void_p(values.ctypes.data)
