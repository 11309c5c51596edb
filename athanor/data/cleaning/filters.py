"""Rules that say why a document is not good text. A rule returns None to keep it, or the reason to drop it.

Sources: Gopher (Rae et al. 2021, appendix A1.1: quality, repetition), C4 (Raffel et al. 2020, section 2.2), FineWeb
(Penedo et al. 2024, section 3.6), code: StarCoder (Li et al. 2023, section 3.2). The thresholds are the published ones
except where a field of `Thresholds` says otherwise. English rules are not put on Chinese: it has its own.
"""

from collections.abc import Callable, Sequence

from pydantic import Field

from athanor.base.settings import Settings
from athanor.data.cleaning.facts import Facts, repeated_share
from athanor.data.document import Document
from athanor.data.rules.chinese import ChineseLimits, judge_chinese_texts
from athanor.data.rules.fast import judge_texts
from athanor.data.rules.published import PublishedLimits

STOP_WORDS = frozenset("the be to of and that have with".split())
SYMBOLS = ("#", "...", "…")
BULLETS = ("•", "‣", "▪", "◦", "●", "·", "- ", "* ", "+ ")
SENTENCE_ENDS = tuple(".!?…\"'”’。！？；：」』）:;")
MOST_FREQUENT_RUN = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED_RUN = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
CHINESE = ("zh", "ja")  # written without blanks: counted by the character


class Thresholds(Settings):
    """Limits of the rules; shares are between 0 and 1."""

    minimum_words: int = Field(default=20, ge=0)
    """Fewer words (Chinese: characters) are dropped. Gopher says 50, for pages of the open web."""
    maximum_words: int = Field(default=1_000_000, ge=1)
    """Gopher says 100,000; books are welcome here, the reader cuts what is longer."""
    mean_word_letters: tuple[float, float] = (3.0, 10.0)
    symbols_per_word: float = 0.1
    bullet_lines: float = 0.9
    ellipsis_lines: float = 0.3
    words_with_letters: float = 0.6
    """Gopher says 0.8; technical prose has more numbers and signs."""
    stop_words: int = Field(default=2, ge=0)
    """At least so many different of: the be to of and that have with (English only)."""
    repeated_lines: float = 0.30
    repeated_paragraphs: float = 0.30
    repeated_line_letters: float = 0.20
    repeated_paragraph_letters: float = 0.20
    repetition: float = Field(default=2.0, gt=0)
    """Multiplies Gopher's limits on repetition for files that a person chose: manuals, notes and laws repeat
    themselves more than good pages of the open web do."""
    page_repetition: float = Field(default=1.0, gt=0)
    """The same for pages from HTML; 1 is Gopher's own rule."""
    replaced_letters: float = 0.001
    """Share of U+FFFD, the sign of a wrong or damaged encoding."""
    closed_lines: float = 0.12
    """Pages only: share of lines that end like a sentence (FineWeb)."""
    short_lines: float = 0.67
    """Pages only: share of lines shorter than 30 characters (FineWeb)."""
    chinese_share: float = 0.1
    """Chinese only: characters among everything that is not blank."""
    chinese_punctuation: tuple[float, float] = (0.005, 0.35)
    """Chinese only: punctuation among everything that is not blank; less reads like keywords, more like debris."""
    code_longest_line: int = 1_000
    code_mean_line: float = 100.0
    code_letters: float = 0.40
    """Code only: letters among everything that is not blank; tables of numbers and escapes have fewer."""
    code_digits: float = 0.25
    """Code only: digits among everything that is not blank."""


Rule = Callable[[Facts, Thresholds], str | None]


def _patience(facts: Facts, limits: Thresholds) -> float:
    return limits.page_repetition if facts.document.kind == "page" else limits.repetition


def word_count(facts: Facts, limits: Thresholds) -> str | None:
    """Gopher: 50 to 100,000 words."""
    chinese = facts.language in CHINESE
    count = len(facts.word_hashes) if chinese else len(facts.words)
    if count < limits.minimum_words:
        return "too few words (minimum_words)"
    return "too many words (maximum_words)" if count > limits.maximum_words else None


def replaced_characters(facts: Facts, limits: Thresholds) -> str | None:
    """Ours: a text with many replacement characters was decoded wrongly."""
    if "\ufffd" not in facts.text:
        return None
    share = facts.text.count("\ufffd") / facts.length
    return "damaged encoding (replaced_letters)" if share > limits.replaced_letters else None


def mean_word_length(facts: Facts, limits: Thresholds) -> str | None:
    """Gopher: 3 to 10 letters."""
    if not facts.words:
        return None
    mean = sum(map(len, facts.words)) / len(facts.words)
    least, most = limits.mean_word_letters
    return None if least <= mean <= most else "unusual word length (mean_word_letters)"


def symbols(facts: Facts, limits: Thresholds) -> str | None:
    """Gopher: hash signs or ellipses, each at most 0.1 per word."""
    hashes = facts.text.count("#")
    ellipses = facts.text.count("...") + facts.text.count("…")
    most = max(hashes, ellipses) / max(1, len(facts.words))
    return "too many symbols (symbols_per_word)" if most > limits.symbols_per_word else None


def bullet_lines(facts: Facts, limits: Thresholds) -> str | None:
    """Gopher: at most 90 % of the lines begin with a bullet."""
    share = sum(line.startswith(BULLETS) for line in facts.lines) / max(1, len(facts.lines))
    return "mostly bullet points (bullet_lines)" if share > limits.bullet_lines else None


def ellipsis_lines(facts: Facts, limits: Thresholds) -> str | None:
    """Gopher: at most 30 % of the lines end with an ellipsis."""
    share = sum(line.endswith(("...", "…")) for line in facts.lines) / max(1, len(facts.lines))
    return "many lines end in an ellipsis (ellipsis_lines)" if share > limits.ellipsis_lines else None


def alphabetic_words(facts: Facts, limits: Thresholds) -> str | None:
    """Gopher: 80 % of the words have a letter."""
    with_letter = sum(word.isalpha() or any(map(str.isalpha, word)) for word in facts.words)
    share = with_letter / max(1, len(facts.words))
    return "few words have letters (words_with_letters)" if share < limits.words_with_letters else None


def stop_words(facts: Facts, limits: Thresholds) -> str | None:
    """Gopher: at least two of eight English stop words."""
    if facts.language != "en":
        return None
    found = STOP_WORDS.intersection(map(str.lower, facts.words))
    return "hardly any stop words (stop_words)" if len(found) < limits.stop_words else None


def repeated_lines(facts: Facts, limits: Thresholds) -> str | None:
    """Gopher: repeated lines at most 30 % of the lines and 20 % of the letters."""
    share, letters = (found / _patience(facts, limits) for found in repeated_share(facts.lines))
    if share > limits.repeated_lines:
        return "repeated lines (repeated_lines)"
    return "repeated lines (repeated_line_letters)" if letters > limits.repeated_line_letters else None


def repeated_paragraphs(facts: Facts, limits: Thresholds) -> str | None:
    """Gopher: repeated paragraphs at most 30 % of the paragraphs and 20 % of the letters."""
    share, letters = (found / _patience(facts, limits) for found in repeated_share(facts.paragraphs))
    if share > limits.repeated_paragraphs:
        return "repeated paragraphs (repeated_paragraphs)"
    return "repeated paragraphs (repeated_paragraph_letters)" if letters > limits.repeated_paragraph_letters else None


def repeated_words(facts: Facts, limits: Thresholds) -> str | None:
    """Gopher: the most frequent run of 2 to 4 words, and all repeated runs of 5 to 10, hold few of the letters."""
    for width, most in MOST_FREQUENT_RUN.items():
        if facts.most_frequent_run(width) > most * _patience(facts, limits):
            return f"one run of {width} words fills the text (repetition)"
    return _repeated_runs(facts, REPEATED_RUN, limits)


def repeated_characters(facts: Facts, limits: Thresholds) -> str | None:
    """The same for Chinese, by the character: 10 characters are about 6 words."""
    return _repeated_runs(facts, {10: 0.20}, limits)


def _repeated_runs(facts: Facts, most_by_width: dict[int, float], limits: Thresholds) -> str | None:
    for width, most in most_by_width.items():
        share = facts.repeated_runs(width)
        if share > most * _patience(facts, limits):
            return f"repeated runs of {width} words (repetition)"
        if share == 0:  # no run this long occurs twice, so no longer one does
            break
    return None


def placeholder_text(facts: Facts, limits: Thresholds) -> str | None:
    """C4: no 'lorem ipsum', and no page that asks for JavaScript instead of saying something."""
    start = facts.text[:20_000].lower()
    if "lorem ipsum" in start:
        return "placeholder text"
    return "asks for JavaScript" if len(facts.words) < 200 and "enable javascript" in start else None


def closed_lines(facts: Facts, limits: Thresholds) -> str | None:
    """FineWeb: at least 12 % of the lines end like a sentence."""
    share = sum(line.endswith(SENTENCE_ENDS) for line in facts.lines) / max(1, len(facts.lines))
    return "few lines end like a sentence (closed_lines)" if share < limits.closed_lines else None


def short_lines(facts: Facts, limits: Thresholds) -> str | None:
    """FineWeb: at most 67 % of the lines are shorter than 30 characters."""
    share = sum(len(line) < 30 for line in facts.lines) / max(1, len(facts.lines))
    return "mostly short lines (short_lines)" if share > limits.short_lines else None


def chinese_share(facts: Facts, limits: Thresholds) -> str | None:
    """Ours: a Chinese text consists of Chinese characters."""
    return "few Chinese characters (chinese_share)" if facts.han_share < limits.chinese_share else None


def chinese_punctuation(facts: Facts, limits: Thresholds) -> str | None:
    """Ours: sentences have punctuation, keyword lists have none (verse may do without: its lines are short)."""
    least, most = limits.chinese_punctuation
    share = facts.han_punctuation_share
    if share > most:
        return "mostly punctuation (chinese_punctuation)"
    long_lines = len(facts.text) > 40 * max(1, len(facts.lines))
    return "no punctuation (chinese_punctuation)" if share < least and long_lines else None


def code_lines(facts: Facts, limits: Thresholds) -> str | None:
    """StarCoder: lines at most 1,000 characters, 100 on average."""
    lengths = [len(line) for line in facts.text.split("\n")]
    if max(lengths) > limits.code_longest_line:
        return "a line is too long for code (code_longest_line)"
    return "lines too long for code (code_mean_line)" if sum(lengths) / len(lengths) > limits.code_mean_line else None


def data_table(facts: Facts, limits: Thresholds) -> str | None:
    """After StarCoder's alphabetic share: tables of numbers, escapes and quoted codes are no program text."""
    letters = bytes(range(65, 91)) + bytes(range(97, 123)) + bytes(range(128, 256))
    escaped = 3 * (facts.text.count("\\x") + facts.text.count("0x")) + 5 * facts.text.count("\\u")
    share = facts.share_of_bytes(letters) - escaped / max(1, facts.length)
    if share < limits.code_letters:
        return "a table, not a program (code_letters)"
    return "a table of numbers (code_digits)" if facts.share_of_bytes(b"0123456789") > limits.code_digits else None


ALWAYS: tuple[Rule, ...] = (replaced_characters, word_count)
PROSE: tuple[Rule, ...] = (
    mean_word_length, symbols, bullet_lines, ellipsis_lines, alphabetic_words, stop_words,
    repeated_lines, repeated_paragraphs, repeated_words,
)  # fmt: skip
PAGE: tuple[Rule, ...] = (placeholder_text, closed_lines, short_lines)
CHINESE_PROSE: tuple[Rule, ...] = (
    chinese_share, chinese_punctuation, bullet_lines, ellipsis_lines,
    repeated_lines, repeated_paragraphs, repeated_characters,
)  # fmt: skip
CODE: tuple[Rule, ...] = (code_lines, data_table)


def rules_for(document: Document) -> tuple[Rule, ...]:
    """The rules that apply to a document of this kind and language."""
    if document.kind == "code":
        return ALWAYS + CODE
    prose = CHINESE_PROSE if document.language in CHINESE else PROSE
    return ALWAYS + prose + (PAGE if document.kind == "page" else ())


def judge(facts: Facts, limits: Thresholds) -> str | None:
    """The first rule's reason to drop the document, None to keep it. The setting to relax stands in brackets."""
    for rule in rules_for(facts.document):
        reason = rule(facts, limits)
        if reason is not None:
            return reason
    return None


def judge_pages(
    documents: Sequence[Document],
    published: PublishedLimits | None = None,
    chinese: ChineseLimits | None = None,
    code: Thresholds | None = None,
) -> list[str | None]:
    """Judge many documents by the published rules of Gopher, C4 and FineWeb instead of our own, Chinese by its own.

    For pages of the open web: the limits are stricter than `Thresholds`. Code keeps the rules for code. Other languages
    are judged as English, which their reasons say: `languages: [en, zh]` leaves them out from the start.

    Args:
        documents: repaired, with their language; best hundreds at once.
        published: limits of the published rules; the published ones unless given.
        chinese: limits for Chinese.
        code: limits for code.

    Returns:
        The first reason to drop each document, None to keep it.
    """
    reasons: list[str | None] = [None] * len(documents)
    english, chinese_ones = [], []
    for number, document in enumerate(documents):
        if document.kind == "code":
            reasons[number] = judge(Facts(document), code or Thresholds())
        elif document.language == "zh":
            chinese_ones.append(number)
        else:
            english.append(number)
    judged = judge_chinese_texts([documents[number].text for number in chinese_ones], chinese)
    for number, reason in zip(chinese_ones, judged, strict=True):
        reasons[number] = reason
    found = judge_texts([documents[number].text for number in english], published)
    for place, number in enumerate(english):
        reason = next((kept[place] for kept in found.values() if kept[place] is not None), None)
        language = documents[number].language
        reasons[number] = reason if reason is None or language == "en" else f"{language} as English: {reason}"
    return reasons
