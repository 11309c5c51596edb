"""The counts of the published rules for many texts at once; `plain_counts.py` is the plain version they equal.

The C library counts (`compiled.py`) where it is in use; all below is for where it is not.

Most texts repeat little. Cheap upper bounds (words in few buckets, places where five words occurred before, lines that
begin and end alike) find the texts that could break a rule on repetition, and only those are counted exactly: for all
others the counts of repetition are 0. Texts with other line ends than line feeds are counted the plain way, as are the
few lines that C4's rules need to read (citations, 'cookie' ...).

Shapes: W words, L lines, D documents, N runs of words.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from athanor.base import native
from athanor.base.textblock import TextBlock
from athanor.data.rules.compiled import count_block
from athanor.data.rules.counts import BULLET, DOT, ELLIPSIS, HYPHEN, Bits, Keys, Places, WordBatch
from athanor.data.rules.plain_counts import POLICIES, count_one, kept_lines, sentences_in_line
from athanor.data.rules.published import (
    FEWEST_WORDS_IN_LINE,
    LONGEST_WORD,
    MOST_FREQUENT,
    REPEATED,
    RULE_SETS,
    SHORT_LINE,
    STOP_WORDS,
    Counts,
    PublishedLimits,
    judge_many,
)  # fmt: skip
from athanor.data.rules.repetition import RUN, Lines, count_repeated_lines, count_repeated_words
from athanor.data.rules.words import ALPHA, DIGIT, STOP, STOP_OF_LINE

BATCH_BYTES = 400_000  # of text: the arrays stay in the cache
BRACE, PLACEHOLDER = 1, 2
TO_READ = ("lorem ipsum", "javascript", "terms of use", "privacy policy", "cookie")
assert all("cookie" in policy or policy in TO_READ for policy in POLICIES)


def judge_texts(
    texts: Sequence[str], limits: PublishedLimits | None = None, rule_sets: Sequence[str] = tuple(RULE_SETS)
) -> dict[str, list[str | None]]:
    """The reason of each rule set to drop each text, None to keep it; texts are judged as they are.

    Args:
        texts: best hundreds at once, the sizes may differ.
        limits: the published ones unless given.
        rule_sets: names in `RULE_SETS`.

    Returns:
        Lists as long as `texts`, by the name of the rule set.
    """
    limits = limits or PublishedLimits()
    reasons: dict[str, list[str | None]] = {name: [None] * len(texts) for name in rule_sets}
    for numbers in _batches(texts):
        some = [texts[number] for number in numbers]
        if native.available():
            counts = count_block(TextBlock.of_bytes([text.encode("utf-8", "surrogatepass") for text in some]))
        else:
            counts = count_texts(some, limits)
        for name in rule_sets:
            for number, reason in zip(numbers, judge_many(counts, limits, name), strict=True):
                reasons[name][number] = reason
    return reasons


def _batches(texts: Sequence[str]) -> list[list[int]]:
    """Numbers of texts, plain ASCII apart from others, in lots of about BATCH_BYTES."""
    batches: list[list[int]] = []
    for ascii_ones in (True, False):
        size, batch = 0, []
        for number, text in enumerate(texts):
            if text.isascii() != ascii_ones:
                continue
            batch.append(number)
            size += len(text)
            if size >= BATCH_BYTES:
                batches.append(batch)
                size, batch = 0, []
        if batch:
            batches.append(batch)
    return batches


def count_texts(texts: list[str], limits: PublishedLimits) -> Counts:
    """The counts of each text as arrays; those of repetition are 0 where they cannot reach `limits`."""
    words = WordBatch(texts)
    lines = Lines(words)
    characters_D = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    counts = _count_words(words, lines, characters_D)
    _count_lines(counts, words, lines, limits)
    count_repeated_lines(counts, words, lines)
    count_repeated_words(counts, words, lines, limits)
    for number in np.flatnonzero(words.odd).tolist():
        _put(counts, number, count_one(texts[number]))
    return counts


def _put(counts: Counts, number: int, found: Counts) -> None:
    """Write the counts of one text into the arrays."""
    for field in fields(Counts):
        value = getattr(found, field.name)
        if isinstance(value, dict):
            for width, share in value.items():
                getattr(counts, field.name)[width][number] = share
        else:
            getattr(counts, field.name)[number] = value


def _sums(values_W: NDArray, lines: Lines) -> Places:
    """Sums over the words of each document."""
    totals = np.zeros(len(values_W) + 1, dtype=np.int64)
    np.cumsum(values_W, out=totals[1:])
    return totals[lines.words_end_D] - totals[lines.words_begin_D]


def _count_words(words: WordBatch, lines: Lines, characters_D: Places) -> Counts:
    """Counts with the facts on words filled in, all others 0."""
    documents = len(words.ends)

    def nothing() -> Places:
        return np.zeros(documents, dtype=np.int64)

    counts = Counts(
        **{field.name: nothing() for field in fields(Counts) if field.name not in ("most_frequent", "repeated")},
        most_frequent={width: nothing() for width in MOST_FREQUENT}, repeated={width: nothing() for width in REPEATED},
    )  # fmt: skip
    counts.characters = characters_D
    counts.line_feeds = lines.last_D - lines.first_D
    counts.characters_in_lines = characters_D - counts.line_feeds
    counts.words = lines.words_end_D - lines.words_begin_D
    counts.filled_words = _sums(words.filled_words, lines)
    counts.filled_characters = _sums(words.word_lengths * words.filled_words, lines)
    counts.lettered_words = _sums(words.any_with(ALPHA, wanted=True), lines)
    counts.stop_words = _count_stop_words(words, lines)
    _count_signs(counts, words)
    return counts


def _stop_word_keys() -> Keys:
    return np.array([int.from_bytes(word.encode(), "little") for word in STOP_WORDS], dtype=np.uint64)


def _count_stop_words(words: WordBatch, lines: Lines) -> Places:
    """How many different stop words occur in each document."""
    keys = _stop_word_keys()
    slots = ((keys * RUN) >> np.uint64(58)).view(np.int64)
    assert len(set(slots.tolist())) == len(keys)
    table, names = np.zeros(64, dtype=np.uint64), np.zeros(64, dtype=np.int64)
    table[slots], names[slots] = keys, np.arange(len(keys))
    slots_W = ((words.first_keys * RUN) >> np.uint64(58)).view(np.int64)
    places = np.flatnonzero(table[slots_W] == words.first_keys)
    there = np.zeros((len(words.ends), len(keys)), dtype=bool)
    there[np.searchsorted(lines.words_end_D, places, side="right"), names[slots_W[places]]] = True
    return there.sum(axis=1)


def _count_signs(counts: Counts, words: WordBatch) -> None:
    codes, documents = words.codes, len(words.ends)
    hashes = np.flatnonzero(codes == ord("#"))
    counts.hashes = np.bincount(words.texts_at(hashes), minlength=documents)
    dots_C = codes == DOT
    dots = np.flatnonzero(dots_C[1:-1] & dots_C[:-2] & dots_C[2:]) + 1  # the middle of three
    begins = dots[~dots_C[dots - 2]] - 1
    stops = dots[~dots_C[dots + 2]] + 2
    ellipses = np.bincount(words.texts_at(begins), weights=(stops - begins) // 3, minlength=documents)
    if not words.ascii:
        single = np.flatnonzero(codes == ELLIPSIS[2])
        single = single[(codes[single - 1] == ELLIPSIS[1]) & (codes[single - 2] == ELLIPSIS[0])]
        ellipses += np.bincount(words.texts_at(single), minlength=documents)
    counts.ellipses = ellipses.astype(np.int64)


def _count_lines(counts: Counts, words: WordBatch, lines: Lines, limits: PublishedLimits) -> None:
    codes, flags = words.codes, words.flags
    full = np.flatnonzero(lines.full)
    first, behind = words.starts[lines.first_word[full]], words.stops[lines.behind_word[full] - 1]
    end = codes[behind - 1]
    dotted = (end == DOT) & (codes[behind - 2] == DOT) & (codes[behind - 3] == DOT)
    ellipsis = (end == ELLIPSIS[2]) & (codes[behind - 2] == ELLIPSIS[1]) & (codes[behind - 3] == ELLIPSIS[0])
    begin = codes[first]
    bullet = (begin == BULLET[0]) & (codes[first + 1] == BULLET[1]) & (codes[first + 2] == BULLET[2])

    def total(values: Bits) -> Places:
        values_L = np.zeros(len(lines.full), dtype=np.int8)
        values_L[full] = values
        return lines.sums(values_L)

    counts.lines = counts.line_feeds + 1 - (lines.begins == lines.ends)[lines.last_D]
    counts.bullet_lines = total((begin == HYPHEN) | bullet)
    counts.ellipsis_lines = total(dotted | ellipsis)
    counts.full_lines = lines.sums(lines.full)
    counts.stopped_lines = total((flags[lines.ends[full] - 1] & STOP_OF_LINE) != 0)
    counts.short_lines = total(words.lengths(lines.begins[full], lines.ends[full]) <= SHORT_LINE)
    good = _among_ends(end) & ~dotted
    chunks = np.zeros(len(words.starts) + 1, dtype=np.int32)
    np.cumsum(~words.filled[words.starts - 1], out=chunks[1:])
    enough = chunks[lines.behind_word[full]] - chunks[lines.first_word[full]] >= FEWEST_WORDS_IN_LINE
    likely = full[(good | (end == ord("]"))) & enough]  # a line may end well once its citations are gone
    to_read = np.intersect1d(_lines_to_read(words, lines), likely, assume_unique=True)
    if _may_have_long_words(words):
        to_read = np.union1d(to_read, np.intersect1d(_lines_with_long_words(words, lines), likely))
    _count_kept_lines(counts, words, lines, full[good & enough], to_read, limits.sentences)


def _count_kept_lines(
    counts: Counts, words: WordBatch, lines: Lines, kept: Places, to_read: Places, sentences: int
) -> None:
    """C4: sentences, placeholder text and braces in the lines that end well and have three words.

    Lines are not read for their sentences where the document has enough without them.
    """
    sentences_L = np.zeros(len(lines.full), dtype=np.int64)
    sentences_L[kept] = _sentences(words, lines)[kept]
    braces = np.searchsorted(lines.ends, np.flatnonzero(words.codes == ord("{")))
    dropped_L = np.zeros(len(lines.full), dtype=np.int8)
    dropped_L[braces[sentences_L[braces] > 0]] = BRACE
    sentences_L[to_read] = dropped_L[to_read] = 0
    enough_L = (lines.sums(sentences_L) >= sentences)[lines.document[to_read]]
    for line, enough in zip(to_read.tolist(), enough_L.tolist(), strict=True):
        part = words.joined[lines.begins[line] : lines.ends[line]]
        if enough and b"{" not in part and b"lorem" not in part.lower():
            continue
        found, dropped = kept_lines(part.decode("utf-8", "surrogatepass"))
        sentences_L[line] = sum(map(sentences_in_line, found))
        dropped_L[line] = {None: 0, "placeholder": PLACEHOLDER, "brace": BRACE}[dropped]
    counts.sentences = lines.sums(sentences_L)
    for line in np.flatnonzero(dropped_L)[::-1].tolist():  # the first line of a document decides
        document = lines.document[line]
        counts.placeholder[document] = dropped_L[line] == PLACEHOLDER
        counts.braces[document] = dropped_L[line] == BRACE


def _among_ends(codes: NDArray[np.uint8]) -> Bits:
    found = codes == DOT
    for mark in b"?!\"'":
        found |= codes == mark
    return found


def _sentences(words: WordBatch, lines: Lines) -> Places:
    """Sentences in each line: one, and one for each word behind a full stop (and other punctuation). Shape L."""
    stop_W = (words.first_flags & STOP) != 0
    stop_W &= words.word_lengths == 1
    told_W = stop_W | words.filled_words
    stops = np.flatnonzero(stop_W)
    line = np.searchsorted(lines.behind_word, stops, side="right")
    behind = lines.behind_word[line]
    place = np.minimum(stops + 1, behind)
    moving = np.arange(len(stops))
    for _ in range(4):  # over quotes and brackets
        moving = moving[place[moving] < behind[moving]]
        moving = moving[~told_W[place[moving]]]
        place[moving] += 1
    if len(moving):
        told = np.append(np.flatnonzero(told_W), len(told_W))
        place[moving] = told[np.searchsorted(told, place[moving])]
    begun = np.flatnonzero(place < behind)
    begun = begun[~stop_W[place[begun]]]
    return 1 + np.bincount(line[begun], minlength=len(lines.full))


def _may_have_long_words(words: WordBatch) -> bool:
    """Whether some block of 500 bytes has no blank: a longer word covers one of them."""
    size = LONGEST_WORD // 2
    blocks = words.filled[: len(words.filled) // size * size].reshape(-1, size)
    return bool(blocks.all(axis=1).any())


def _lines_with_long_words(words: WordBatch, lines: Lines) -> Places:
    """Lines with more than 1,000 bytes between two blanks."""
    first = np.flatnonzero(~words.filled[words.starts - 1])
    last = np.append(first[1:], len(words.starts)) - 1
    long = words.starts[first[words.stops[last] - words.starts[first] > LONGEST_WORD]]
    return np.unique(np.searchsorted(lines.ends, long))


def _lines_to_read(words: WordBatch, lines: Lines) -> Places:
    """Lines with citations, or with words that drop a line or a page."""
    codes = words.codes
    brackets = np.flatnonzero(codes == ord("["))
    behind = codes[brackets + 1]
    cited = ((words.flags[brackets + 1] & DIGIT) != 0) | (behind == ord("]")) | (behind >= 0x80)
    cited |= (behind == ord("e")) & (codes[brackets + 2] == ord("d"))
    cited |= (behind == ord("c")) & (codes[brackets + 2] == ord("i"))
    found = [np.unique(np.searchsorted(lines.ends, brackets[cited]))]
    lowered = words.joined.lower()
    for phrase in TO_READ:
        wanted = phrase.encode()
        place = lowered.find(wanted)
        while place >= 0:
            found.append(np.searchsorted(lines.ends, [place]))
            place = lowered.find(wanted, int(lines.ends[found[-1][0]]))
    return np.unique(np.concatenate(found))
