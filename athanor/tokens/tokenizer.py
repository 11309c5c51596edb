"""The tokenizer: byte-level BPE by the `tokenizers` library, saved as Hugging Face's tokenizer files."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from athanor.base.errors import AthanorError
from athanor.base.files import write_json

DOCUMENT, END = "<|document|>", "<|end|>"
SPECIAL_TOKENS = (DOCUMENT, END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
AT_ONCE = 4096  # texts
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)

# How text is cut before merging, after GPT-4's pattern ("cl100k_base"), with digits one by one so that arithmetic is
# learnable, runs of spaces kept whole for code, and Chinese characters cut into runs by the letter class.
PIECES = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"


class Tokenizer:
    """Text to token ids and back, exactly.

    Special tokens (`.special`, name to id) are put in by the chat template and the packer only: text that spells one
    is encoded as ordinary text.
    """

    def __init__(self, core: tokenizers.Tokenizer):
        self.core = core
        self.core.encode_special_tokens = True  # text never turns into a special token
        ids = {token: core.token_to_id(token) for token in SPECIAL_TOKENS}
        self.special: dict[str, int] = {token: index for token, index in ids.items() if index is not None}
        missing = [token for token in SPECIAL_TOKENS if token not in self.special]
        if missing:
            raise AthanorError(f"the tokenizer has no token {', '.join(missing)}", allowed=", ".join(SPECIAL_TOKENS))

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Load tokenizer.json from a tokenizer's or a checkpoint's folder."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise AthanorError(f"{folder} has no tokenizer.json", fix="name a folder that a tokenizer or model is in")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as problem:  # noqa: BLE001 - the library raises bare Exception for a damaged file
            raise AthanorError(f"{path} cannot be read as a tokenizer: {problem}") from None

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> "Tokenizer":
        """Learn byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2) from texts.

        Raises:
            AthanorError: the vocabulary is smaller than the 256 bytes and the special tokens.
        """
        if vocabulary < SMALLEST_VOCABULARY:
            raise AthanorError(f"vocabulary={vocabulary} is too small", allowed=f"at least {SMALLEST_VOCABULARY}")
        core = tokenizers.Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])  # fmt: skip
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        core.train_from_iterator(texts, trainer)
        return cls(core)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.core.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of ordinary text; no special token is added or recognised."""
        return self.core.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The same for many texts, in parallel; the library's own rows (2 kB a text) never exist all at once."""
        ids: list[list[int]] = []
        for begin in range(0, len(texts), AT_ONCE):
            rows = self.core.encode_batch_fast(texts[begin : begin + AT_ONCE], add_special_tokens=False)
            ids += [row.ids for row in rows]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included by name; broken UTF-8 becomes U+FFFD."""
        return self.core.decode(list(ids), skip_special_tokens=False)

    def token_bytes(self) -> list[bytes]:
        """The bytes of every ordinary token by id; empty for special tokens."""
        alphabet = _byte_of_letter()
        rows = [b""] * self.vocabulary
        for token, index in self.core.get_vocab(with_added_tokens=False).items():
            if index not in self.special.values():
                rows[index] = bytes(alphabet[letter] for letter in token)
        return rows

    def save(self, folder: Path, chat_template: str | None = None) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja as `transformers` reads them."""
        saved = json.loads(self.core.to_str())
        write_json(folder / "tokenizer.json", saved)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": DOCUMENT, "eos_token": END, "pad_token": END,
            "add_bos_token": False, "add_eos_token": False, "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000_000,
        }  # fmt: skip
        write_json(folder / "tokenizer_config.json", config)
        if chat_template is not None:
            (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's one-to-one map between the 256 bytes and printable letters, reversed."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    pairs: Iterator[tuple[int, int]] = iter(
        [(byte, byte) for byte in printable] + [(byte, 256 + place) for place, byte in enumerate(others)]
    )
    return {chr(letter): byte for byte, letter in pairs}
