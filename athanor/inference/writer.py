"""An encoder-decoder's folder opened for use: a text goes in, what the model writes for it comes out.

T5 and mT5 are told in the text itself what to do; M2M-100, NLLB and mBART by tokens of the languages around it.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from athanor.base.device import fast_dtype, pick_device, set_threads
from athanor.base.errors import AthanorError
from athanor.inference.defaults import Defaults, read_defaults
from athanor.inference.generate import Completion
from athanor.inference.quantize import read_family
from athanor.inference.sampling import Sampling
from athanor.inference.seq2seq import Decoding, Network, generate_batch, text_of
from athanor.models.convert import load_network
from athanor.models.seq2seq import EncoderDecoder, EncoderDecoderConfig
from athanor.tokens.chat import check_vocabulary, special_ids
from athanor.tokens.tokenizer import Tokenizer

LANGUAGE = re.compile(r"__\w+__|[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")  # M2M-100's, mBART's and NLLB's
USUAL_TOKENS = 256


def is_encoder_decoder(folder: Path) -> bool:
    """Whether a checkpoint holds a network that reads a source and writes a text for it."""
    return isinstance(read_family(folder)[1], EncoderDecoderConfig)


@dataclass(frozen=True)
class Writer:
    """What answers.

    Attributes:
        before, after: ids around a source, as the tokenizer's files say.
        defaults: what the model's files say about decoding.
    """

    model: Network
    tokenizer: Tokenizer
    defaults: Defaults
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def languages(self) -> dict[str, int]:
        """Tokens that name a language."""
        return {name: index for name, index in self.tokenizer.special.items() if LANGUAGE.fullmatch(name)}

    def source(self, text: str, language: str | None = None) -> list[int]:
        """A text as the encoder reads it.

        Args:
            language: in which the text is, where the model is told that; None: as the tokenizer's files say.

        Raises:
            AthanorError: there is no such language, or none was named where none is usual.
        """
        before, after = list(self.before), list(self.after)
        known = set(self.languages.values())
        if language is not None:
            token = self.language(language)
            if known & {*before, *after}:
                before, after = ([token if one in known else one for one in side] for side in (before, after))
            else:  # models learnt here, as M2M-100
                before = [token, *before]
        elif known and not known & {*before, *after}:
            raise AthanorError("the model is told in which language a text is, and none was named",
                               allowed=f"--from CODE: {self._listed()}")  # fmt: skip
        return [*before, *self.tokenizer.encode(text), *after]

    def language(self, name: str) -> int:
        """The id of a language: its token, or the code inside it (`zh` of `__zh__`).

        Raises:
            AthanorError: there is none of that name.
        """
        known = self.languages
        found = known.get(name, known.get(f"__{name}__"))
        if found is None:
            listed = self._listed() if known else "this model has no tokens of languages: say it in the text"
            raise AthanorError(f"there is no language {name!r}", allowed=listed)
        return found

    def _listed(self) -> str:
        return ", ".join(one.strip("_") for one in self.languages)

    def decoding(self, target: str | None, source: list[int], language: str | None = None) -> Decoding:
        """How a text begins and ends: as the model's files say, but for the language that is named.

        Raises:
            AthanorError: it is not known with what a text begins.
        """
        told = self.defaults
        forced = told.forced if target is None else (self.language(target),)
        if not told.start:
            raise AthanorError("the model's files do not say with what its decoder begins",
                               fix='add "decoder_start_token_id" to generation_config.json')  # fmt: skip
        if not forced and self.languages:
            raise AthanorError("the model writes many languages, and none was named",
                               allowed=f"--to CODE: {self._listed()}")  # fmt: skip
        end = special_ids(self.tokenizer).get("eos_token_id")
        ends = told.ends or (() if end is None else (end,))
        return Decoding(start=told.start, forced=forced, ends=ends, never=told.never, never_first=told.never_first)

    def sampling(self, decoding: Decoding, **asked: Any) -> Sampling:
        """A user's settings above the file's, whose limits count what every text begins with (`forced`) too."""
        told, usual = self.defaults, USUAL_TOKENS
        if told.longest is not None:
            usual = told.longest - len(decoding.start)
        usual = told.sampling.get("max_tokens", usual) - len(decoding.forced)
        return told.above({"max_tokens": max(1, usual), **{k: v for k, v in asked.items() if v is not None}})

    def write(self, sources: list[list[int]], sampling: Sampling, decoding: Decoding) -> list[Completion]:
        """A text for each source; `text` of it is written without special tokens."""
        found = generate_batch(self.model, sources, sampling, decoding, self.tokenizer)
        return [replace(one, text=self.tokenizer.core.decode(list(one.ids))) for one in found]


def open_writer(folder: Path, device: str = "auto") -> Writer:
    """Open an encoder-decoder's folder, ours or another's.

    Raises:
        AthanorError: the folder holds another kind of network, is damaged, or its tokenizer belongs to another model.
    """
    set_threads()
    place = pick_device(device)
    model = load_network(folder, fast_dtype(place), place)
    if not isinstance(model, EncoderDecoder):
        raise AthanorError(f"{folder} holds no encoder-decoder", allowed="T5, mT5, M2M-100, NLLB and their like")
    tokenizer = Tokenizer.load(folder)
    check_vocabulary(tokenizer, text_of(model).config.vocabulary, folder)
    return Writer(model, tokenizer, read_defaults(folder), *frame_of(tokenizer))


def frame_of(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a tokenizer's files put before and behind a text; where they put nothing, the end stands behind it,
    as in models that were learnt here."""
    found = tokenizer.core.encode("a")
    own = [place for place, added in enumerate(found.special_tokens_mask) if not added]
    before, after = (found.ids[: own[0]], found.ids[own[-1] + 1 :]) if own else ([], found.ids)
    end = special_ids(tokenizer).get("eos_token_id")
    return tuple(before), tuple(after if before or after or end is None else [end])
