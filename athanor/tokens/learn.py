"""Learning a vocabulary from text: byte-level BPE, unigram over bytes, WordPiece.

All three hold our special tokens as ids 0 to 5 and are saved as tokenizer.json.
"""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Literal, get_args

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from athanor.base.errors import AthanorError
from athanor.tokens.pipelines import PIECES, cut_by
from athanor.tokens.unigram import learn_pieces

Kind = Literal["bpe", "unigram", "wordpiece"]
KINDS: tuple[str, ...] = get_args(Kind)
UNKNOWN = "[UNK]"  # of WordPiece only: bytes are never unknown
LETTERS = 4  # at most one in four ids of WordPiece is for a letter that begins a word, and one for the same inside


def learn(kind: Kind, texts: Iterable[str], vocabulary: int, special: Iterable[str]) -> tokenizers.Tokenizer:
    """Learn a vocabulary of at most `vocabulary` ids; the same texts give the same bytes.

    - bpe: pairs of bytes merged by frequency (Sennrich et al. 2016; bytes as in GPT-2). Text comes back exactly.
    - unigram: the pieces under which the text is likeliest (Kudo 2018), over bytes written as letters, so that nothing
      is unknown. Text comes back exactly.
    - wordpiece: the longest known piece first (Devlin et al. 2019). Lost on the way: how words are spaced, control
      characters, and words with letters that the texts did not have, which become [UNK]. Case and accents stay.

    Raises:
        AthanorError: another kind is asked for.
    """
    if kind not in KINDS:
        raise AthanorError(f"kind={kind!r} is no kind of tokenizer", allowed=", ".join(KINDS))
    if kind == "wordpiece":
        return _wordpiece(list(texts), vocabulary, list(special))
    return (_bpe if kind == "bpe" else _unigram)(texts, vocabulary, list(special))


def _bpe(texts: Iterable[str], vocabulary: int, special: list[str]) -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = cut_by(PIECES)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    core.train_from_iterator(texts, trainer)
    return core


def _unigram(texts: Iterable[str], vocabulary: int, special: list[str]) -> tokenizers.Tokenizer:
    cut = cut_by(PIECES)
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in cut.pre_tokenize_str(text))
    pieces = learn_pieces(words, pre_tokenizers.ByteLevel.alphabet(), vocabulary - len(special))
    core = tokenizers.Tokenizer(models.Unigram([*((token, 0.0) for token in special), *pieces], None, False))
    core.pre_tokenizer = cut
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(special)
    return core


def _wordpiece(texts: list[str], vocabulary: int, special: list[str]) -> tokenizers.Tokenizer:
    """WordPiece's vocabulary, by merging pairs as in BPE.

    The library numbers the letters inside words in an order that changes from run to run, and keeps every letter; so
    the letters are chosen and numbered here, and given to it as tokens that already exist.
    """
    core = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    core.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
    )
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(core.normalizer.normalize_str(text))
    often = sorted((letter for letter in counts if not letter.isspace()), key=lambda letter: (-counts[letter], letter))
    letters = sorted(often[: (vocabulary - len(special)) // LETTERS])
    inside = [f"##{letter}" for letter in letters]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=[*special, UNKNOWN, *inside], show_progress=False,
        initial_alphabet=letters, limit_alphabet=len(letters),
    )  # fmt: skip
    core.train_from_iterator(texts, trainer)
    told = json.loads(core.to_str())
    told["added_tokens"] = [row for row in told["added_tokens"] if row["content"] not in set(inside)]
    return tokenizers.Tokenizer.from_str(json.dumps(told))
