"""Builds the C library in athanor/native. It is for speed alone: without it, Python does the same work."""

import hashlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path(__file__).parent / "athanor" / "native"
SOURCES = sorted(path.relative_to(FOLDER.parent.parent).as_posix() for path in FOLDER.glob("*.c"))
HEADERS = sorted(path.relative_to(FOLDER.parent.parent).as_posix() for path in FOLDER.glob("*.h"))


def hash_sources() -> str:
    """What the loader compares with the sources beside the library (athanor/base/native.py)."""
    digest = hashlib.sha256()
    for name in sorted([*SOURCES, *HEADERS]):
        digest.update(Path(FOLDER.parent.parent, name).read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


class BuildLibrary(build_ext):
    """A plain shared library that Python opens with ctypes, no module of Python: it needs no headers of Python."""

    def build_extension(self, extension: Extension) -> None:
        plain = self.compiler.compiler_type == "msvc"
        # fp-contract: a product and a sum may be one operation, which halves the time of layers.c
        options = ["-O3", "-std=c11", "-ffp-contract=fast", "-fvisibility=hidden", "-g0"]
        extension.extra_compile_args = ["/O2"] if plain else options
        super().build_extension(extension)

    def get_export_symbols(self, extension: Extension) -> list[str]:
        """No PyInit function: the sources name what they export."""
        return []


setup(
    ext_modules=[
        Extension(
            "athanor.native.library",
            SOURCES,
            depends=HEADERS,
            define_macros=[("ATHANOR_SOURCES", f'"{hash_sources()}"')],
            py_limited_api=True,  # of no version of Python in particular
            optional=True,  # without a compiler: a warning, and Python does the work
        )
    ],
    cmdclass={"build_ext": BuildLibrary},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
