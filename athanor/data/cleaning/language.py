"""Which language a text is in: a first guess among zh, ja, ko and en by script and words, and a model for 180 more.

`guess_language` knows the four and says und (undetermined) for all others; `identify` names about 180 languages
(`LanguageModel.names`) with a probability; `language_of` asks the first, then the second. The model is
naive Bayes over hashed runs of letters, as langid.py's (Lui & Baldwin 2012, "langid.py: An Off-the-shelf Language
Identification Tool"), trained by benchmarks/corpus/train_languages.py on sentences of the Wortschatz Leipzig corpora
(CC BY 4.0) and the Universal Declaration of Human Rights (public domain).

Shapes: B buckets, F features of a batch, L languages.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from athanor.base import native
from athanor.base.errors import AthanorError
from athanor.base.textblock import TextBlock
from athanor.data.cleaning import compiled
from athanor.data.cleaning.language_features import features, letter_counts

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
    han = kana = hangul = words = letters = 0
    if EASTERN_RUN.search(sample):
        han, kana, hangul = (len(script.findall(sample)) for script in (HAN, KANA, HANGUL))
        words = len(WORD.findall(sample)) - len(EASTERN_RUN.findall(sample))
    others = 0 if sample.isascii() else len(OTHER_LETTERS.findall(sample))
    if others:
        letters = len(LETTERS.findall(sample))
    latin = LATIN_WORD.findall(sample.lower())
    return _decide(han, kana, hangul, words, others, letters, len(latin), sum(map(ENGLISH.__contains__, latin)))


def guess_languages(texts: list[str]) -> list[str]:
    """The guess of each text; many at once are quicker."""
    if not native.available():
        return [guess_language(text) for text in texts]
    found = []
    for text, counts in zip(texts, compiled.letter_counts(TextBlock.of(texts), SAMPLE, ENGLISH), strict=True):
        letters, han, kana, hangul, others, words, runs, latin, known, odd = counts
        if odd:
            found.append(guess_language(text))
        else:
            found.append(_decide(han, kana, hangul, words - runs, others, letters, latin, known))
    return found


def _decide(han: int, kana: int, hangul: int, words: int, others: int, letters: int, latin: int, known: int) -> str:
    """The language by counts of characters and words; `words` are those of no eastern script."""
    eastern = (han + kana + hangul) / 2  # two characters make about a word
    # A Chinese text about programs may hold many Latin words.
    if eastern and eastern >= EASTERN_SHARE * (eastern + max(0, words)):
        if hangul > kana + han:
            return "ko"
        return "ja" if kana > 0.05 * (kana + han) else "zh"
    if others > 0.05 * letters:
        return "und"
    return "en" if latin and known >= ENGLISH_SHARE * latin else "und"


UNDETERMINED = "und"
SHIPPED = Path(__file__).with_name("language_model.npz")
STEPS_PER_NAT = 16  # of the evidence in the model's file
BATCH = 256  # documents whose features are found together
LEAST = 0.4  # probability: below, the answer is und
SURE = 0.9  # probability: above, a guess is overruled
DEPENDENCE = 2.0  # runs overlap and repeat: n of them count as this times the square root of n independent ones
FEW_LETTERS = 4  # as many letters halve the confidence: a word can be of many languages
LETTER_SHARE = 0.4  # of the characters; less is figures, tables or code


@dataclass(frozen=True)
class LanguageModel:
    """What every bucket says for every language, in nats (B, L); the prior (L); the languages' codes."""

    evidence_BL: np.ndarray
    prior_L: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def load(cls, path: Path | None = None) -> "LanguageModel":
        """The shipped model, or another one that benchmarks/corpus/train_languages.py wrote.

        Raises:
            AthanorError: the file is not such a model.
        """
        path = path or SHIPPED
        try:
            with np.load(path, allow_pickle=False) as file:
                evidence_BL = file["evidence"].astype(np.float32) / STEPS_PER_NAT
                evidence_BL -= evidence_BL.mean(axis=1, keepdims=True)
                return cls(evidence_BL, file["prior"], tuple(map(str, file["names"])))
        except (OSError, ValueError, KeyError) as problem:
            raise AthanorError(
                f"{path} is not a language model: {problem}",
                allowed="a file that benchmarks/corpus/train_languages.py wrote",
                fix="install the package again, or train the model again",
            ) from None

    def identify(self, texts: list[str], least: float = LEAST) -> list[tuple[str, float]]:
        """(code, probability) of every text; und where the likeliest language has less than `least`.

        Only the first 2,000 characters of a text count. Codes are ISO 639-1 where there is one, else ISO 639-3.
        """
        found: list[tuple[str, float]] = []
        for begin in range(0, len(texts), BATCH):
            batch = texts[begin : begin + BATCH]
            found_F, starts = features(batch, len(self.evidence_BL))
            counts = letter_counts(batch)
            for text_F, letters, size in zip(np.split(found_F, starts[1:]), *counts, strict=True):
                code, chance = self._likeliest(text_F)
                chance *= letters / (letters + FEW_LETTERS) * (0.5 if letters < LETTER_SHARE * size else 1.0)
                found.append((code if chance >= least else UNDETERMINED, chance))
        return found

    def _likeliest(self, found_F: np.ndarray) -> tuple[str, float]:
        """The language with the largest sum of evidence, and its probability."""
        score_L = self.evidence_BL.take(found_F, axis=0).sum(axis=0) + self.prior_L
        best = int(score_L.argmax())
        scale = min(1.0, DEPENDENCE / len(found_F) ** 0.5)
        return self.names[best], 1.0 / float(np.exp((score_L - score_L[best]) * scale).sum())


@cache
def shipped_model() -> LanguageModel:
    """The model that comes with the package, read once."""
    return LanguageModel.load()


def identify(texts: list[str]) -> list[tuple[str, float]]:
    """(code, probability) of every text, by the shipped model; und where it is not likely to be right."""
    return shipped_model().identify(texts)


def language_of(text: str) -> str:
    """The language of a text, or und.

    Han, kana and hangul decide as in `guess_language`, and so do the frequent words of English unless the model is
    sure of another language (short Dutch or Scots has many of them); everything else is what `identify` finds.
    """
    return languages_of([text])[0]


def languages_of(texts: list[str]) -> list[str]:
    """The language of each text, as `language_of` says; many at once are quicker."""
    found = guess_languages(texts)
    asked = [number for number, guessed in enumerate(found) if guessed not in ("zh", "ja", "ko")]
    for number, (code, chance) in zip(asked, identify([texts[number] for number in asked]), strict=True):
        if found[number] != "en" or (code != UNDETERMINED and chance >= SURE):
            found[number] = code
    return found
