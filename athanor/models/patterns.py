"""Regular expressions that came with a file, matched without ever taking long.

Python's own matcher can be made to run for years by a pattern of thirty letters. This one keeps the set of places that
a part of the pattern can end at, so that no place is tried twice, and it counts its steps. Known are letters, `.`,
classes, groups, `|`, repetition and `^ $ \\b`: what is written to name layers. The rest is refused.
"""

from collections.abc import Set
from dataclasses import dataclass

from athanor.base.errors import AthanorError

LONGEST, DEEPEST, MOST_REPEATS, MOST_STEPS = 20_000, 40, 1_000, 200_000
DIGITS = frozenset("0123456789")
WORD = DIGITS | frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
CLASSES = {"d": DIGITS, "w": WORD}


class Work:
    """A text to be matched, and the steps that are left for it."""

    def __init__(self, text: str):
        self.text, self.left = text, MOST_STEPS

    def step(self, places: int) -> None:
        """Count one part of a pattern tried at some places."""
        self.left -= 1 + places
        if self.left < 0:
            raise AthanorError(f"a pattern takes more than {MOST_STEPS:,} steps on {self.text!r}")


@dataclass(frozen=True)
class Letter:
    """One character of a set, or one outside it."""

    allowed: frozenset[str]
    outside: bool = False

    def ends(self, work: Work, starts: Set[int]) -> set[int]:
        work.step(len(starts))
        text = work.text
        return {at + 1 for at in starts if at < len(text) and (text[at] in self.allowed) != self.outside}


@dataclass(frozen=True)
class Edge:
    """A place and no character: the start (^), the end ($), or a border of a word (b)."""

    kind: str

    def ends(self, work: Work, starts: Set[int]) -> set[int]:
        work.step(len(starts))
        return {at for at in starts if self.holds(work.text, at)}

    def holds(self, text: str, at: int) -> bool:
        if self.kind == "b":
            before, after = at > 0 and text[at - 1] in WORD, at < len(text) and text[at] in WORD
            return before != after
        return at == (0 if self.kind == "^" else len(text))


@dataclass(frozen=True)
class Chain:
    """Parts that follow one another."""

    parts: tuple["Part", ...]

    def ends(self, work: Work, starts: Set[int]) -> set[int]:
        places = set(starts)
        for part in self.parts:
            places = part.ends(work, places)
        return places


@dataclass(frozen=True)
class Choice:
    """One of several parts."""

    parts: tuple["Part", ...]

    def ends(self, work: Work, starts: Set[int]) -> set[int]:
        return set().union(*(part.ends(work, starts) for part in self.parts))


@dataclass(frozen=True)
class Repeat:
    """A part `least` to `most` times; None: as often as it fits."""

    part: "Part"
    least: int
    most: int | None

    def ends(self, work: Work, starts: Set[int]) -> set[int]:
        places = set(starts)
        for _ in range(self.least):
            places = self.part.ends(work, places)
        seen, fresh, times = set(places), set(places), self.least
        while fresh and (self.most is None or times < self.most):
            fresh = self.part.ends(work, fresh) - seen
            seen |= fresh
            times += 1
        return seen


Part = Letter | Edge | Chain | Choice | Repeat


class Pattern:
    """A regular expression.

    Raises:
        AthanorError: it is malformed, too long, or uses what is not known here.
    """

    def __init__(self, source: str):
        self.source, self.at = source, 0
        if len(source) > LONGEST:
            raise self.problem(f"has {len(source)} characters", f"{LONGEST}")
        self.part = self.choice(0)
        if self.at < len(source):
            raise self.problem("closes a group that is not open")

    def matches(self, text: str) -> bool:
        """Whether the whole text fits the pattern."""
        return len(text) in self.part.ends(Work(text), {0})

    def problem(self, what: str, allowed: str = "letters, . [classes] (groups) | * + ? {m,n} ^ $ \\b") -> AthanorError:
        return AthanorError(f"the pattern {self.source[:80]!r} {what} (character {self.at + 1})", allowed=allowed)

    # ---------------------------------------------------------------------------------------------- reading the source

    def peek(self) -> str:
        return self.source[self.at : self.at + 1]

    def take(self) -> str:
        if self.at >= len(self.source):
            raise self.problem("ends too early")
        self.at += 1
        return self.source[self.at - 1]

    def choice(self, depth: int) -> Part:
        if depth > DEEPEST:
            raise self.problem("has too many groups inside one another", str(DEEPEST))
        parts = [self.chain(depth)]
        while self.peek() == "|":
            self.take()
            parts.append(self.chain(depth))
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def chain(self, depth: int) -> Part:
        parts: list[Part] = []
        while self.peek() and self.peek() not in "|)":
            parts.append(self.repeated(self.one(depth)))
        return Chain(tuple(parts))

    def one(self, depth: int) -> Part:
        sign = self.take()
        if sign == "(":
            if self.peek() == "?" and self.source[self.at : self.at + 2] != "?:":
                raise self.problem("looks around, or sets flags")
            self.at += 2 if self.peek() == "?" else 0
            inner = self.choice(depth + 1)
            if self.peek() != ")":
                raise self.problem("leaves a group open")
            self.take()
            return inner
        if sign in "*+?{":
            raise self.problem(f"repeats nothing with {sign}")
        if sign == ".":
            return Letter(frozenset("\n"), outside=True)
        if sign in "^$":
            return Edge(sign)
        if sign == "[":
            return self.letter_class()
        if sign == "\\":
            return Edge("b") if self.peek() == "b" and self.take() else Letter(self.escaped())
        return Letter(frozenset(sign))

    def escaped(self) -> frozenset[str]:
        """What stands behind a backslash."""
        sign = self.take()
        if sign.isalnum() and sign not in CLASSES:
            raise self.problem(f"uses \\{sign}")
        return CLASSES.get(sign, frozenset(sign))

    def letter_class(self) -> Letter:
        outside = self.peek() == "^" and bool(self.take())
        allowed: set[str] = set()
        first = True
        while first or self.peek() != "]":
            first = False
            sign = self.take()
            letters = self.escaped() if sign == "\\" else frozenset(sign)
            if self.peek() == "-" and self.source[self.at + 1 : self.at + 2] not in ("]", ""):
                self.take()
                low, high = ord(sign), ord(self.take())
                if len(letters) > 1 or sign == "\\" or high < low or high - low > 255:
                    raise self.problem("has a class with a range that is none")
                letters = frozenset(map(chr, range(low, high + 1)))
            allowed |= letters
        self.take()
        return Letter(frozenset(allowed), outside)

    def repeated(self, part: Part) -> Part:
        sign = self.peek()
        if sign not in ("*", "+", "?", "{"):
            return part
        self.take()
        if sign == "{":
            least, most = self.counts()
        else:
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        if self.peek() == "?":  # as few as possible: the same texts fit
            self.take()
        if self.peek() in ("*", "+", "{"):
            raise self.problem("repeats a repetition")
        return Repeat(part, least, most)

    def counts(self) -> tuple[int, int | None]:
        inside, closed, _ = self.source[self.at :].partition("}")
        least, comma, most = inside.partition(",")
        numbers = [number for number in (least, most) if number]
        if not closed or not numbers or any(not number.isdecimal() or len(number) > 4 for number in numbers):
            raise self.problem("has a { that counts nothing", "{m}, {m,}, {,n} or {m,n}")
        self.at += len(inside) + 1
        low = int(least or 0)
        high = int(most) if most else (None if comma else low)
        if low > MOST_REPEATS or (high is not None and not low <= high <= MOST_REPEATS):
            raise self.problem("counts too far, or down", f"0 to {MOST_REPEATS}")
        return low, high
