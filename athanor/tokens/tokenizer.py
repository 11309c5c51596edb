"""The tokenizer: ours, or any other model's, saved as Hugging Face's tokenizer files.

Shapes: T tokens of a text.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from athanor.base.errors import AthanorError
from athanor.base.files import write_atomic, write_json
from athanor.base.parallel import in_threads, processors
from athanor.tokens.compiled import CompiledEncoder, Ids
from athanor.tokens.fast import CompiledFast, FastEncoder, Places, fast_encoder, join_ids
from athanor.tokens.folder import BACKEND, TEMPLATE, read_folder, special_by_role
from athanor.tokens.learn import UNKNOWN, Kind, learn
from athanor.tokens.letters import LETTER_TO_BYTE
from athanor.tokens.marian import TARGET
from athanor.tokens.pieces import FILE as MODEL
from athanor.tokens.pieces import AroundTokens, PieceEncoder
from athanor.tokens.pipelines import PIECES
from athanor.tokens.sentencepiece import SPACE

__all__ = ["DOCUMENT", "END", "PIECES", "SMALLEST_VOCABULARY", "SPECIAL_TOKENS", "Tokenizer"]

DOCUMENT, END = "<|document|>", "<|end|>"
SPECIAL_TOKENS = (DOCUMENT, END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
WORTH = 200_000  # letters of a batch from which on making the fast encoder ready pays
PORTION = 500_000  # letters that one thread encodes at a time
AT_ONCE = 4096  # texts at most: a row of the library takes 2 kB


class SpecialTokens(dict[str, int]):
    """Special tokens by name; asking for one that the tokenizer does not have says what that means."""

    def __missing__(self, name: str) -> int:
        have = ", ".join(list(self)[:12]) or "none"
        raise AthanorError(
            f"the tokenizer has no token {name}: it belongs to another model, and what was asked for needs ours",
            allowed=f"a tokenizer with {', '.join(SPECIAL_TOKENS)} (this one's special tokens: {have})",
        )


class Tokenizer:
    """Text to token ids and back.

    Ours (`native`) is exact: every text comes back. Others do what their files say, to the id as `transformers` does.
    Special tokens (`.special`, name to id) are put in by the chat template and the packer only: text that spells one
    is encoded as ordinary text.

    Attributes:
        core: the reference, from the `tokenizers` library.
        special: name to id; `special[name]` of a missing one raises an AthanorError.
        config: tokenizer_config.json as it will be written again.
        chat_template: the template that came with the tokenizer, Jinja, never run here; None: it has none.
        bos, eos, pad, unk: names of special tokens, or None.
        pieces: gives text its ids where SentencePiece itself does; `core` is then near to it, and decodes.
        target: the same for texts that are written, where the two sides are cut differently (Marian).
    """

    def __init__(
        self, core: tokenizers.Tokenizer, config: Mapping[str, Any] | None = None, chat_template: str | None = None,
        pieces: PieceEncoder | None = None, target: PieceEncoder | None = None,
    ):  # fmt: skip
        self.core = core
        self.core.encode_special_tokens = True  # text never turns into a special token
        table = core.get_added_tokens_decoder()
        marked = {token.content: index for index, token in sorted(table.items()) if token.special}
        ours = {token: index for token in SPECIAL_TOKENS if (index := core.token_to_id(token)) is not None}
        self.native = len(ours) == len(SPECIAL_TOKENS)
        self.special = SpecialTokens({**ours, **marked} if self.native else marked)
        self.config = dict(config) if config is not None else _own_config(self.special)
        self.chat_template = chat_template
        roles = special_by_role(self.config)
        self.bos, self.eos, self.pad, self.unk = (roles.get(role) for role in ("bos", "eos", "pad", "unk"))
        self.pieces, self.target = pieces, target
        if pieces is not None:
            added = {token.content: index for index, token in table.items() if token.content not in pieces.symbols}
            plain = {token: index for token, index in added.items() if token not in self.special}
            self._apart, self._spelled = AroundTokens(pieces, plain), AroundTokens(pieces, added | self.special)
            self._written = AroundTokens(target or pieces, plain)
        self._plain = _without_special(core, set(self.special))
        self._marked: tokenizers.Tokenizer | None = None
        self._fast: FastEncoder | None = None
        self._fast_tried = False

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Load the tokenizer of any model's folder, ours or another's.

        Raises:
            AthanorError: there is none, it is damaged, or it is Python code.
        """
        found = read_folder(folder)
        return cls(found.core, found.config or None, found.chat_template, found.pieces, found.target)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int, kind: Kind = "bpe") -> "Tokenizer":
        """Learn a tokenizer of ours from texts; what each kind keeps and loses: `athanor.tokens.learn.learn`.

        Raises:
            AthanorError: the vocabulary is smaller than the 256 bytes and the special tokens.
        """
        if vocabulary < SMALLEST_VOCABULARY:
            raise AthanorError(f"vocabulary={vocabulary} is too small", allowed=f"at least {SMALLEST_VOCABULARY}")
        return cls(learn(kind, texts, vocabulary, SPECIAL_TOKENS))

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.core.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of ordinary text; no special token is added or recognised."""
        if self.pieces is not None:
            return self._apart.encode(text)
        fast = self._fast
        if fast is not None and self.core.encode_special_tokens and fast.takes(text):
            return fast.encode_block([text])[0].tolist()
        return self._plain.encode(text, add_special_tokens=False).ids

    def encode_target(self, text: str) -> list[int]:
        """Token ids of a text that a model is to write: those of `encode`, but where it has a model for each side."""
        return self.encode(text) if self.target is None else self._written.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The same for many texts, in parallel."""
        return [ids.tolist() for ids in self.encode_corpus(texts)]

    def encode_corpus(self, texts: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
        """Token ids of each text in order, (T,) each, the same as `encode`, without Python's lists of numbers."""
        for ids, ends in self.encode_blocks(texts):
            yield from np.split(ids, ends[:-1])

    def encode_blocks(self, texts: Iterable[str], mark: int | None = None) -> Iterator[tuple[Ids, Places]]:
        """(token ids of some texts one behind the other, where those of each text end), text by text in order.

        Texts are read a few portions ahead of what is asked for, one portion to a thread; the fast encoder (`fast`)
        where there is enough text to be worth its preparation, else the reference.

        Args:
            mark: an id to put before each text.
        """
        portions, threads = _portions(texts), processors()
        first = list(islice(portions, 2))
        if sum(len(text) for portion in first for text in portion) >= WORTH:
            self.prepare_fast()
        if self._fast is None or len(first) < 2 or threads < 2:  # the reference has threads of its own
            for portion in chain(first, portions):
                yield self._encode_portion(portion, mark)
            return
        yield from in_threads(lambda portion: self._encode_portion(portion, mark), chain(first, portions), threads)

    def block_encoder(self, size: int) -> CompiledEncoder | None:
        """What encodes blocks of any texts without looking at each, if the C library can and `size` letters are worth
        making it ready."""
        if size < WORTH or not self.prepare_fast() or not isinstance(self._fast, CompiledFast):
            return None
        return self._fast.encoder if self._fast.takes_all else None

    def encode_template(self, text: str) -> list[int]:
        """Token ids of a text that a chat template wrote: spelled special tokens are special, nothing is added.

        Never for text of a user. The ids are those of `transformers` with add_special_tokens=False.
        """
        if self.pieces is not None:
            return self._spelled.encode(text)
        if self._marked is None:
            marked = tokenizers.Tokenizer.from_str(self.core.to_str())
            marked.encode_special_tokens = False
            self._marked = marked
        return self._marked.encode(text, add_special_tokens=False).ids

    def prepare_fast(self) -> bool:
        """Make the fast encoder ready, if it is exact for this tokenizer (`fast.fast_encoder`); whether it is."""
        if self.pieces is not None:
            return False
        if not self._fast_tried:
            self._fast = fast_encoder(self._plain)
            self._fast_tried = True
        return self._fast is not None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included by name; broken UTF-8 becomes U+FFFD."""
        return self.core.decode(list(ids), skip_special_tokens=False)

    def token_bytes(self) -> list[bytes]:
        """The bytes of every ordinary token by id; empty for special tokens and for ids that no token has.

        For a tokenizer that writes words without their spaces (WordPiece, CLIP), a word begins or ends with one.
        """
        size = max(self.vocabulary, 1 + max(self.core.get_vocab().values(), default=0))
        spell = _speller(self.core)
        rows = [b""] * size
        special = set(self.special.values())
        for token, index in self.core.get_vocab(with_added_tokens=False).items():
            if index not in special:
                rows[index] = spell(token)
        for index, added in self.core.get_added_tokens_decoder().items():
            rows[index] = b"" if index in special else added.content.encode()
        return rows

    def save(self, folder: Path, chat_template: str | None = None) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja as `transformers` reads them.

        Args:
            chat_template: instead of the one that came with the tokenizer.
        """
        write_json(folder / "tokenizer.json", json.loads(self.core.to_str()))
        config = dict(self.config)
        template = chat_template if chat_template is not None else self.chat_template
        if template is not None:
            config.pop("chat_template", None)
            write_atomic(folder / TEMPLATE, template)
        write_json(folder / "tokenizer_config.json", config)
        if self.pieces is not None:
            (folder / MODEL).write_bytes(self.pieces.data)
        if self.target is not None:
            (folder / TARGET).write_bytes(self.target.data)

    def _encode_portion(self, texts: list[str], mark: int | None) -> tuple[Ids, Places]:
        if self.pieces is not None:
            return join_ids([np.array(self._apart.encode(text), np.uint32) for text in texts], mark)
        fast = self._fast
        left = [number for number, text in enumerate(texts) if fast is None or not fast.takes(text)]
        if fast is not None and not left:
            return fast.encode_block(texts, mark)
        slow = self._plain.encode_batch_fast([texts[number] for number in left], add_special_tokens=False)
        rows = {number: np.array(row.ids, np.uint32) for number, row in zip(left, slow, strict=True)}
        others = [number for number in range(len(texts)) if number not in rows]
        if fast is not None and others:
            ids, ends = fast.encode_block([texts[number] for number in others])
            rows |= dict(zip(others, np.split(ids, ends[:-1]), strict=True))
        return join_ids([rows[number] for number in range(len(texts))], mark)


def _own_config(special: Mapping[str, int]) -> dict[str, Any]:
    """tokenizer_config.json of our own tokenizers."""
    names = {"bos_token": DOCUMENT, "eos_token": END, "pad_token": END} if DOCUMENT in special else {}
    unknown = {"unk_token": UNKNOWN} if UNKNOWN in special else {}
    return {
        "tokenizer_class": BACKEND, **names, **unknown,
        "add_bos_token": False, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
    }  # fmt: skip


def _without_special(core: tokenizers.Tokenizer, special: set[str]) -> tokenizers.Tokenizer:
    """A copy of a tokenizer whose model cannot make a special token out of letters; itself where it never could.

    The library only stops looking for special tokens in the text; a unigram model, a word list, or merges may still
    arrive at one, because it stands in their vocabulary too. The copy spells it in a way that nobody can guess.
    """
    told = json.loads(core.to_str())
    model, added = told["model"], told["added_tokens"]
    known = {row[0] for row in model["vocab"]} if model["type"] == "Unigram" else set(model["vocab"])
    within = special & known
    if model["type"] == "BPE" and not model.get("ignore_merges"):
        end = model["end_of_word_suffix"] or ""
        pairs = [row.split(" ", 1) if isinstance(row, str) else row for row in model["merges"]]
        made = {left + right for left, right in pairs}
        within = {token for token in within if token in made or len(token.removesuffix(end)) == 1}
    if not within:
        return core
    secret = secrets.token_hex(16)
    names = {token: f"\U0010fffd{secret}{number}" for number, token in enumerate(sorted(within))}
    if model["type"] == "Unigram":
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    else:
        model["vocab"] = {names.get(token, token): index for token, index in model["vocab"].items()}
    if model["type"] == "BPE":
        pairs = [row.split(" ", 1) if isinstance(row, str) else row for row in model["merges"]]
        model["merges"] = [
            [left, right] for left, right in pairs if not {left, right, left + right} & within
        ]  # fmt: skip
    if model.get("unk_token"):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    for row in added:
        row["content"] = names.get(row["content"], row["content"])
    told["post_processor"] = None  # it names special tokens
    plain = tokenizers.Tokenizer.from_str(json.dumps(told))
    plain.encode_special_tokens = True
    return plain


def _speller(core: tokenizers.Tokenizer) -> "Speller":
    """How a tokenizer's vocabulary is written."""
    decoder = repr(core.decoder)
    told = json.loads(core.to_str())["model"]
    return Speller(
        byte_level="ByteLevel" in decoder, end_of_word=told.get("end_of_word_suffix") or "",
        inside=told.get("continuing_subword_prefix") or "" if told["type"] == "WordPiece" else "",
        fallback=bool(told.get("byte_fallback")),
    )  # fmt: skip


class Speller:
    """From a token as the vocabulary writes it to its bytes."""

    def __init__(self, byte_level: bool, end_of_word: str, inside: str, fallback: bool):
        self.byte_level, self.end_of_word, self.inside, self.fallback = byte_level, end_of_word, inside, fallback

    def __call__(self, token: str) -> bytes:
        tail = b""
        if self.end_of_word and token.endswith(self.end_of_word):
            token, tail = token.removesuffix(self.end_of_word), b" "
        if self.byte_level and all(letter in LETTER_TO_BYTE for letter in token):
            return bytes(LETTER_TO_BYTE[letter] for letter in token) + tail
        if self.inside:
            return token.removeprefix(self.inside).encode() if token.startswith(self.inside) else b" " + token.encode()
        if self.fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace(SPACE, " ").encode() + tail


def _portions(texts: Iterable[str]) -> Iterator[list[str]]:
    portion: list[str] = []
    letters = 0
    for text in texts:
        portion.append(text)
        letters += len(text)
        if letters >= PORTION or len(portion) == AT_ONCE:
            yield portion
            portion, letters = [], 0
    if portion:
        yield portion
