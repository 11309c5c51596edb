"""The budget of one rendering of a stranger's chat template: counted, not timed, so that it is the same every time."""

from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

from jinja2.runtime import Undefined

from athanor.base.errors import AthanorError

ITEM = 16  # characters that one item of a list costs
NESTING = 64  # lists within lists
BOXES: tuple[Any, ...] = (list, tuple, dict, range, type({}.keys()), type({}.values()), type({}.items()))


@dataclass(frozen=True)
class Limits:
    """How much one rendering may spend; what is given to the template raises `characters` and `output`.

    Attributes:
        source: characters of the template.
        steps: parts of the template that are executed, loops and macros counted each time.
        characters: read, compared or written in all; an item of a list counts as 16.
        characters_per_given: the same for each character of the conversation.
        output, output_per_given: characters of the result.
        macros: calls within calls.
        bits: of a whole number.
    """

    source: int = 100_000
    steps: int = 5_000_000
    characters: int = 20_000_000
    characters_per_given: int = 100
    output: int = 1_000_000
    output_per_given: int = 20
    macros: int = 40
    bits: int = 128


def refuse(what: str, allowed: str = "") -> NoReturn:
    """Stop the rendering."""
    raise AthanorError(f"the chat template {what}", allowed=allowed, fix="use another template, or repair this one")


class Meter:
    """What is left of one rendering's budget."""

    def __init__(self, limits: Limits, given: int):
        self.limits = limits
        self.steps, self.macros, self.position = limits.steps, 0, 0
        self.allowed = limits.characters + limits.characters_per_given * given
        self.characters = self.allowed
        self.output = limits.output + limits.output_per_given * given
        self.begun: list[int] = []
        self.generated: list[tuple[int, int]] = []

    def step(self, count: int) -> None:
        """Pay for executed parts of the template."""
        self.steps -= count
        if self.steps < 0:
            refuse("takes too many steps: a loop or macro runs too often", f"{self.limits.steps} steps")

    def pay(self, characters: int) -> None:
        """Pay for characters."""
        self.characters -= characters
        if self.characters < 0:
            refuse("reads and writes too much text", f"{self.allowed} characters for this conversation")

    def count(self, value: Any) -> None:
        """Pay for a text, or for a list or mapping without what its items hold."""
        if isinstance(value, str):
            self.pay(len(value) + 1)
        else:
            self.pay(ITEM * (len(value) + 1) if isinstance(value, BOXES) else 1)

    def weigh(self, value: Any, iterator: bool = False) -> None:
        """Pay for a value, all of it; `iterator` allows one, whose items are paid for already.

        Raises:
            AthanorError: it is none of the plain values that a template may write, compare or filter.
        """
        waiting: list[tuple[Any, int]] = [(value, 0)]
        while waiting:
            one, depth = waiting.pop()
            if isinstance(one, str):
                self.pay(len(one) + 1)
            elif one is None or isinstance(one, bool | float | Undefined):
                self.pay(1)
            elif isinstance(one, int):
                self.pay(1)
                self.check_number(one)
            elif isinstance(one, BOXES):
                self.pay(ITEM * (len(one) + 1))
                if isinstance(one, range):
                    continue
                if depth > NESTING:
                    refuse("nests lists too deeply", f"{NESTING} levels")
                waiting += [(item, depth + 1) for item in self._items(one)]
            elif not (iterator and isinstance(one, Iterator)):
                refuse(f"uses a {type(one).__name__} as a value", "texts, numbers, lists and mappings")

    def _items(self, box: Any) -> list[Any]:
        if not isinstance(box, dict):
            return list(box)
        if not all(isinstance(key, str) for key in box):
            self.pay(len(box) ** 2)  # numbers can be chosen so that they collide
        return [*box, *box.values()]

    def check_number(self, number: int) -> None:
        """Refuse a whole number that is too large."""
        if number.bit_length() > self.limits.bits:
            refuse("computes a number that is too large", f"{self.limits.bits} bits")


METER: ContextVar[Meter] = ContextVar("meter")
