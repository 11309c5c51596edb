"""Rules for pages in Chinese: what English rules cannot judge, because there are no blanks between words.

Counts are by the character. What is common is taken from the standards: the characters of GB 2312's first level
(3,755 of simplified text, by frequency) and of Big5's first level (5,401 of traditional text); text that was decoded
wrongly falls on others. Which characters are only simplified or only traditional follows from the same two standards.
The limits were set on Chinese books, articles, verse and manuals of which at least 95 % must stay (docs/design/005).
"""

import re
from collections.abc import Callable, Sequence
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from athanor.base import native
from athanor.base.settings import Settings
from athanor.base.textblock import TextBlock
from athanor.data.copies.compiled import run_repeats
from athanor.data.copies.shingles import find_words, runs
from athanor.data.rules import compiled
from athanor.data.rules.repetition import occurred_before

HAN, COMMON, SIMPLIFIED, TRADITIONAL, PUNCTUATION, STOP, BLANK, BARE = (1 << bit for bit in range(8))
HAN_RANGES = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
STOPS = "。！？；…!?"
PUNCTUATION_MARKS = STOPS + ";，、：“”‘’「」『』《》〈〉（）【】〔〕—～·,.:()\"'[]<>|/\\*#=-_+~@&%^$`{}"
CLASSICAL = "之乎者也矣焉哉曰耳兮吾汝其乃遂歟與於"
MODERN = "的了是在们們这這吗嗎着個个么麼吧呢很她它说說没沒"
DAMAGE = ("\ufffd", "锟斤拷", "烫烫烫", "屯屯屯")
HAN_RUN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
FENCED = re.compile(r"^```.*?^```[^\n]*$", re.DOTALL | re.MULTILINE)
LINE_BREAKS = re.compile(r"\n+")
BARE_CHARACTERS = re.compile(r"[\w\s|>＞»›·•/-]+")  # of menus
SENTENCE_ENDS = (".", ":", "：", "”", "」")
RUN, LONG_RUN = 4, 10  # characters whose repetition is counted
# Places in what `compiled.chinese_counts` gives, behind one for each of the flags.
MARKS, CHARACTERS, LINES, LINE_CHARACTERS, BARE_LINE_CHARACTERS, ENDED_LINES, REPEATED_LINE = range(8, 15)
Codes = NDArray[np.uint32]
Repeats = tuple[int, int, int]


class ChineseLimits(Settings):
    """Limits of the rules; shares are between 0 and 1."""

    minimum_characters: int = Field(default=20, ge=0)
    """Chinese characters; a short poem has 20."""
    han_share: float = 0.12
    """Chinese characters among all that is not blank; manuals of programs hold much else."""
    common_characters: float = 0.82
    """Among the Chinese characters. Fewer: decoded wrongly, or drawn by chance."""
    damaged_characters: float = 0.01
    """U+FFFD, and what becomes of it when it is encoded and decoded once more."""
    punctuation: tuple[float, float] = (0.02, 0.40)
    """Among all that is not blank. Less (and no short lines): keywords. More: debris."""
    stops: float = 0.006
    """Sentence ends per Chinese character, in texts with 100 and more of them."""
    bare_lines: float = 0.65
    """Characters in short lines without punctuation: menus."""
    repeated_lines: float = 0.30
    repeated_line_characters: float = 0.25
    most_frequent_run: float = 0.16
    """Share of the most frequent run of four characters."""
    repeated_runs: float = 0.30
    """Share of runs of ten characters that occurred before."""
    keep_classical: bool = True
    """Classical Chinese stays. False: only the modern language."""
    scripts: tuple[str, ...] = ("simplified", "traditional", "both")
    """Keep only these; 'both' is a text with no or few characters that tell them apart, or with both kinds."""


def _codec_characters(codec: str, leads: range, seconds: tuple[range, ...], last: int) -> list[int]:
    pairs = [bytes((lead, second)) for lead in leads for part in seconds for second in part]
    return [ord(pair.decode(codec)) for pair in pairs if int.from_bytes(pair) <= last]


@cache
def chinese_flags() -> NDArray[np.uint8]:
    """What each code point is to the rules of this file (1.1 MB, made once)."""
    flags = np.zeros(0x110000, dtype=np.uint8)
    for first, last in HAN_RANGES:
        flags[first : last + 1] |= HAN
    level_one = _codec_characters("gb2312", range(0xB0, 0xD8), (range(0xA1, 0xFF),), 0xD7F9)
    big_level_one = _codec_characters("big5", range(0xA4, 0xC7), (range(0x40, 0x7F), range(0xA1, 0xFF)), 0xC67E)
    flags[level_one + big_level_one] |= COMMON
    level_two = _codec_characters("gb2312", range(0xD8, 0xF8), (range(0xA1, 0xFF),), 0xFFFF)
    simplified = np.zeros(0x110000, dtype=bool)
    simplified[level_one + level_two] = True
    traditional = np.array([_encodable(chr(code), "big5") for code in range(0x4E00, 0xA000)])
    part = slice(0x4E00, 0xA000)
    flags[part][simplified[part] & ~traditional] |= SIMPLIFIED
    flags[part][~simplified[part] & traditional] |= TRADITIONAL
    flags[[ord(mark) for mark in PUNCTUATION_MARKS]] |= PUNCTUATION
    flags[[ord(mark) for mark in STOPS]] |= STOP
    flags[[code for code in range(0x3001) if chr(code).isspace()]] |= BLANK
    every = np.arange(0x110000, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    for found in BARE_CHARACTERS.finditer(every):
        flags[slice(*found.span())] |= BARE
    return flags


def _encodable(character: str, codec: str) -> bool:
    try:
        character.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def without_programs(text: str) -> str:
    """The text without what stands between fences: a program in a manual is judged by other rules."""
    return FENCED.sub("", text) if "```" in text else text


class ChineseText:
    """One text and what the rules count in it; the C library may have counted before (athanor/native/chinese.c)."""

    def __init__(self, text: str, counted: Sequence[int] | None = None, repeats: Repeats | None = None):
        """
        Args:
            counted: of the text without programs, by `compiled.chinese_counts`.
            repeats: of the same, by `compiled.run_repeats` of RUN and LONG_RUN.
        """
        self.text = without_programs(text)
        self.counted, self.repeats = counted, repeats
        self.han = self.count(HAN)
        self.filled = max(1, len(self.text) - self.count(BLANK))

    @cached_property
    def codes(self) -> Codes:
        return np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)

    @cached_property
    def flags(self) -> NDArray[np.uint8]:
        return chinese_flags()[self.codes]

    def count(self, flag: int) -> int:
        """Characters with this flag."""
        if self.counted is not None:
            return self.counted[flag.bit_length() - 1]
        return int(np.count_nonzero(self.flags & flag))

    @property
    def marks(self) -> int:
        """Punctuation outside ASCII."""
        if self.counted is not None:
            return self.counted[MARKS]
        return int(np.count_nonzero(((self.flags & PUNCTUATION) != 0) & (self.codes > 0x7F)))

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in map(str.strip, LINE_BREAKS.split(self.text)) if line]

    @property
    def line_count(self) -> int:
        return len(self.lines) if self.counted is None else self.counted[LINES]

    @property
    def line_characters(self) -> int:
        return sum(map(len, self.lines)) if self.counted is None else self.counted[LINE_CHARACTERS]

    @property
    def bare_share(self) -> float:
        """Share of the characters in lines of at most 16 without punctuation, or cut by bars and blanks only."""
        if self.counted is not None:
            return self.counted[BARE_LINE_CHARACTERS] / max(1, self.line_characters)
        return sum(len(line) for line in self.lines if _is_bare(line)) / max(1, self.line_characters)

    @property
    def ended_lines(self) -> int:
        """Lines that end as sentences of manuals do, without a Chinese full stop."""
        if self.counted is not None:
            return self.counted[ENDED_LINES]
        return sum(line.endswith(SENTENCE_ENDS) for line in self.lines)

    @cached_property
    def repeated_lines(self) -> tuple[float, float]:
        """(share of the lines that occurred before, share of their characters)."""
        if self.counted is not None and not self.counted[REPEATED_LINE]:
            return 0.0, 0.0
        seen: set[str] = set()
        again = []
        for line in self.lines:
            if line in seen and HAN_RUN.search(line):  # programs repeat brackets and fences
                again.append(line)
            seen.add(line)
        return len(again) / max(1, len(self.lines)), sum(map(len, again)) / max(1, sum(map(len, self.lines)))

    @cached_property
    def words(self) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
        return find_words(self.text)

    def most_frequent_run(self, width: int) -> float:
        """Share of the text's characters in its most frequent run."""
        if self.repeats is not None and width == RUN:
            words, most, _ = self.repeats
            return most * width / words if most > 2 and words - width + 1 >= 2 * width else 0.0
        found = np.sort(runs(self.words[0], width))
        if len(found) < 2 * width:
            return 0.0
        edges = np.flatnonzero(np.concatenate(([True], found[1:] != found[:-1], [True])))
        most = int(np.diff(edges).max())
        return most * width / max(1, len(self.words[0])) if most > 2 else 0.0

    def repeated_runs(self, width: int) -> float:
        """Share of the words in runs that occurred before."""
        if self.repeats is not None and width == LONG_RUN and self.repeats[2] >= 0:
            return self.repeats[2] / max(1, self.repeats[0])
        hashes = self.words[0]
        found = runs(hashes, width)
        if not len(found):
            return 0.0
        sorted_ones = np.sort(found)
        if not (sorted_ones[1:] == sorted_ones[:-1]).any():
            return 0.0
        again = np.flatnonzero(occurred_before(found))
        covered = np.zeros(len(hashes), dtype=bool)
        for step in range(width):
            covered[again + step] = True
        return float(np.count_nonzero(covered) / len(hashes))


def _is_bare(line: str) -> bool:
    short = len(line) <= 16 or "|" in line or ">" in line or " " in line
    return short and BARE_CHARACTERS.fullmatch(line) is not None


def chinese_script(text: str) -> str:
    """'simplified', 'traditional', or 'both' where fewer than nine in ten of the telling characters are of one kind."""
    return _script(ChineseText(text))


def _script(text: ChineseText) -> str:
    simplified, traditional = text.count(SIMPLIFIED), text.count(TRADITIONAL)
    if max(simplified, traditional) < 0.9 * (simplified + traditional) or not simplified + traditional:
        return "both"
    return "simplified" if simplified > traditional else "traditional"


def is_classical(text: str) -> bool:
    """Whether the function words are those of classical Chinese: 之乎者也 and no 的了是在."""
    return _is_classical(ChineseText(text))


def _is_classical(text: ChineseText) -> bool:
    classical = sum(map(text.text.count, CLASSICAL))
    modern = sum(map(text.text.count, MODERN))
    return 2 * text.han > text.filled and (modern <= 0.008 * text.han or classical > 3 * modern)


Rule = Callable[[ChineseText, ChineseLimits], bool]


def too_short(text: ChineseText, limits: ChineseLimits) -> bool:
    """At least 20 Chinese characters."""
    return text.han < limits.minimum_characters


def damaged(text: ChineseText, limits: ChineseLimits) -> bool:
    """The signs of a text that was decoded wrongly and saved again."""
    characters = sum(text.text.count(sign) * len(sign) for sign in DAMAGE)
    return characters > limits.damaged_characters * len(text.text)


def little_chinese(text: ChineseText, limits: ChineseLimits) -> bool:
    """A Chinese text consists of Chinese characters."""
    return text.han < limits.han_share * text.filled


def rare_characters(text: ChineseText, limits: ChineseLimits) -> bool:
    """Nearly all characters of a text are among the common ones, in prose and in verse."""
    return text.count(COMMON) < limits.common_characters * text.han


def little_punctuation(text: ChineseText, limits: ChineseLimits) -> bool:
    """Sentences have punctuation; short lines do without."""
    long_lines = len(text.text) > 30 * text.line_count
    return long_lines and text.count(PUNCTUATION) < limits.punctuation[0] * text.filled


def much_punctuation(text: ChineseText, limits: ChineseLimits) -> bool:
    """More marks than that are debris."""
    return text.marks > limits.punctuation[1] * (text.han + text.marks)


def few_stops(text: ChineseText, limits: ChineseLimits) -> bool:
    """Keywords are separated by commas and blanks and never end."""
    few = text.han >= 100 and text.count(STOP) < limits.stops * text.han
    return few and text.ended_lines < 0.2 * text.line_count


def menu(text: ChineseText, limits: ChineseLimits) -> bool:
    """A menu consists of short lines without punctuation."""
    return text.line_count >= 3 and text.bare_share > limits.bare_lines


def repeated_lines(text: ChineseText, limits: ChineseLimits) -> bool:
    """Gopher: repeated lines."""
    return text.repeated_lines[0] > limits.repeated_lines


def repeated_line_characters(text: ChineseText, limits: ChineseLimits) -> bool:
    """Gopher: the characters in repeated lines."""
    return text.repeated_lines[1] > limits.repeated_line_characters


def most_frequent_run(text: ChineseText, limits: ChineseLimits) -> bool:
    """Gopher: one phrase fills the text; four characters are about two words."""
    return text.most_frequent_run(RUN) > limits.most_frequent_run


def repeated_runs(text: ChineseText, limits: ChineseLimits) -> bool:
    """Gopher: the same passages again; ten characters are about six words."""
    return text.repeated_runs(LONG_RUN) > limits.repeated_runs


def classical(text: ChineseText, limits: ChineseLimits) -> bool:
    """Only where classical Chinese is not wanted."""
    return not limits.keep_classical and _is_classical(text)


def unwanted_script(text: ChineseText, limits: ChineseLimits) -> bool:
    """Only where one script is not wanted."""
    return len(limits.scripts) < 3 and _script(text) not in limits.scripts


RULES: tuple[tuple[str, Rule], ...] = (
    ("damaged encoding (damaged_characters)", damaged),
    ("few Chinese characters (han_share)", little_chinese),
    ("too few characters (minimum_characters)", too_short),
    ("rare characters, wrongly decoded (common_characters)", rare_characters),
    ("mostly punctuation (punctuation)", much_punctuation),
    ("a menu (bare_lines)", menu),
    ("no punctuation (punctuation)", little_punctuation),
    ("no sentence ends (stops)", few_stops),
    ("repeated lines (repeated_lines)", repeated_lines),
    ("repeated lines (repeated_line_characters)", repeated_line_characters),
    ("one phrase fills the text (most_frequent_run)", most_frequent_run),
    ("repeated passages (repeated_runs)", repeated_runs),
    ("classical Chinese (keep_classical)", classical),
    ("unwanted script (scripts)", unwanted_script),
)  # fmt: skip


def judge_chinese(text: str, limits: ChineseLimits | None = None) -> str | None:
    """The first reason to drop a text in Chinese, None to keep it."""
    return _judge(ChineseText(text), limits or ChineseLimits())


def judge_chinese_texts(texts: Sequence[str], limits: ChineseLimits | None = None) -> list[str | None]:
    """The same of each text; many at once are quicker."""
    limits = limits or ChineseLimits()
    if not native.available():
        return [judge_chinese(text, limits) for text in texts]
    block = TextBlock.of([without_programs(text) for text in texts])
    counts, repeats = compiled.chinese_counts(block, chinese_flags()), run_repeats(block, RUN, LONG_RUN)
    return [_judge(ChineseText(*each), limits) for each in zip(texts, counts, repeats, strict=True)]


def _judge(counted: ChineseText, limits: ChineseLimits) -> str | None:
    for reason, rule in RULES:
        if rule(counted, limits):
            return reason
    return None
