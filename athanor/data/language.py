"""A first guess at a text's language, by script and by its most frequent words: zh, ja, ko, en, or und (undetermined).

Telling a hundred languages apart is this file's next form (SPEC row D2); everything in Latin letters that is not
English is "und" until then, and nothing is dropped for its language unless the settings say so.
"""

import re

SAMPLE = 4_000  # characters looked at; a language does not hide behind them often
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
KANA = re.compile("[\u3041-\u30ff\u31f0-\u31ff]")
HANGUL = re.compile("[\u1100-\u11ff\uac00-\ud7af]")
LETTERS = re.compile(r"[^\W\d_]")
WORD = re.compile(r"[^\W\d_]+")
EASTERN_RUN = re.compile(
    "[\u1100-\u11ff\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]+"
)
EASTERN_SHARE = 0.25  # of the words
LATIN_WORD = re.compile(r"[a-zA-Z]+(?:'[a-z]+)?")
OTHER_LETTERS = re.compile("[\u00c0-\u024f\u0370-\u1fff]")
# The words that make up about a third of running English; few of them are words of another language.
ENGLISH = frozenset(
    "the of and to in is that it for was with as on be by this are or from at which not have an has but were they their"
    " its if can will you when there been what who one all would so we his her these than then only into".split()
)
ENGLISH_SHARE = 0.12  # of the words; running English has 0.3 to 0.5, other Latin languages below 0.08


def guess_language(text: str) -> str:
    """'zh', 'ja', 'ko', 'en' or 'und'."""
    sample = text[:SAMPLE]
    if not sample.isascii():
        letters = len(LETTERS.findall(sample))
        han, kana, hangul = (len(script.findall(sample)) for script in (HAN, KANA, HANGUL))
        # Two characters make about a word; a Chinese text about programs may hold many Latin words.
        eastern = (han + kana + hangul) / 2
        other = len(WORD.findall(sample)) - len(EASTERN_RUN.findall(sample))
        if eastern and eastern >= EASTERN_SHARE * (eastern + max(0, other)):
            if hangul > kana + han:
                return "ko"
            return "ja" if kana > 0.05 * (kana + han) else "zh"
        if len(OTHER_LETTERS.findall(sample)) > 0.05 * letters:
            return "und"
    words = LATIN_WORD.findall(sample.lower())
    known = sum(word in ENGLISH for word in words)
    return "en" if words and known >= ENGLISH_SHARE * len(words) else "und"
