"""What a mutation is: where, what stands there, what it becomes, and who must notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A mutation of one line.

    Attributes:
        name: what is broken.
        file: inside the package.
        old: the piece of the line that is replaced; it stands in the file exactly once.
        new: what it becomes.
        tests: file of the tests that must notice.
        only: pytest's -k for them; empty: all of the file.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    only: str = ""
