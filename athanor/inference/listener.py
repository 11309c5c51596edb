"""Whisper's folder opened for use: a sound file goes in, its words come out (Radford et al. 2022, section 2.3).

The decoder is given the language spoken, what to do (write that down, or put it into English) and that no times are
wanted. Without a language the likeliest one is taken.
"""

import wave
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from athanor.base.device import fast_dtype, pick_device, set_threads
from athanor.base.errors import AthanorError
from athanor.inference.defaults import Defaults, read_defaults
from athanor.inference.generate import Completion
from athanor.inference.quantize import read_family
from athanor.inference.sampling import Sampling
from athanor.inference.seq2seq import Decoding, Whole, generate_batch, remember
from athanor.models.convert import load_network
from athanor.models.speech import RATE, STEP, SpeechConfig, SpeechModel, log_mel
from athanor.tokens.tokenizer import Tokenizer

NO_TIMES = "<|notimestamps|>"


def is_speech(folder: Path) -> bool:
    """Whether a checkpoint holds a network that hears."""
    return isinstance(read_family(folder)[1], SpeechConfig)


@dataclass(frozen=True)
class Listener:
    """What writes down.

    Attributes:
        defaults: what the model's files say about decoding, languages and tasks.
    """

    model: SpeechModel
    tokenizer: Tokenizer
    defaults: Defaults

    def source(self, path: str, language: str | None = None) -> Tensor:
        """What the network hears of a sound file, (M, F).

        Raises:
            AthanorError: no WAV file, or a longer one than the network hears at once.
        """
        sound_X = read_sound(Path(path).expanduser())
        frames = 2 * self.model.config.text.encoder.max_positions
        if len(sound_X) > frames * STEP:
            raise AthanorError(
                f"{path} lasts {len(sound_X) / RATE:.1f} seconds", allowed=f"up to {frames * STEP / RATE:g}",
                fix="cut it",
            )  # fmt: skip
        weight = self.model.first.weight
        return log_mel(sound_X[None], self.model.config.mels, frames)[0].to(weight)

    def decoding(self, target: str | None, source: Tensor, language: str | None = None) -> Decoding:
        """How the text of a sound begins and ends.

        Args:
            target: "en" for a translation into English of what is spoken in another language.
            language: what is spoken; None: what the network hears.

        Raises:
            AthanorError: a language or a task that the model does not have.
        """
        told, languages = self.defaults, self.defaults.told.get("lang_to_id") or {}
        if language is not None and f"<|{language}|>" not in languages:
            listed = ", ".join(one.strip("<|>") for one in languages) or "this model knows English only: leave it out"
            raise AthanorError(f"there is no language {language!r}", allowed=listed)
        forced: list[int] = []
        if languages:
            named = None if language is None else int(languages[f"<|{language}|>"])
            spoken = self.hear_language(source, list(languages.values())) if named is None else named
            task = "transcribe" if target is None or spoken == languages.get(f"<|{target}|>") else "translate"
            if task == "translate" and target != "en":
                raise AthanorError(f"to {target}: this model puts what it hears into English only", allowed="--to en")
            forced += [spoken, int(told.told["task_to_id"][task])]
        elif target not in (None, "en"):
            raise AthanorError(f"to {target}: this model writes English only", fix="leave it out")
        quiet = told.told.get("no_timestamps_token_id", self.tokenizer.special.get(NO_TIMES))
        forced += [] if quiet is None else [int(quiet)]
        return Decoding(
            start=told.start, forced=tuple(forced), ends=told.ends, never=told.never, never_first=told.never_first
        )

    @torch.inference_mode()
    def hear_language(self, source: Tensor, known: list[int]) -> int:
        """The likeliest of these language tokens behind the start (section 2.3)."""
        logits_V = Whole(self.model.text, remember(self.model, [source])).logits([list(self.defaults.start)])[0]
        return known[int(logits_V[known].argmax())]

    def sampling(self, decoding: Decoding, **asked: Any) -> Sampling:
        """A user's settings above the file's, whose limit counts what every text begins with too."""
        positions = self.model.text.decoder.config.max_positions
        longest = min(self.defaults.longest or positions, positions)
        return self.defaults.above(asked, max_tokens=max(1, longest - len(decoding.prompt)))

    def write(self, sources: list[Tensor], sampling: Sampling, decoding: Decoding) -> list[Completion]:
        """The text of each sound, without special tokens."""
        found = generate_batch(self.model, sources, sampling, decoding, self.tokenizer)
        return [replace(one, text=self.tokenizer.core.decode(list(one.ids)).strip()) for one in found]


def open_listener(folder: Path, device: str = "auto") -> Listener:
    """Open a folder of Whisper's.

    Raises:
        AthanorError: it holds another network, is damaged, or does not say with what a text begins.
    """
    set_threads()
    place = pick_device(device)
    model = load_network(folder, fast_dtype(place), place)
    if not isinstance(model, SpeechModel):
        raise AthanorError(f"{folder} holds no network that hears", allowed="Whisper")
    defaults = read_defaults(folder)
    if not defaults.start:
        raise AthanorError("the model's files do not say with what its decoder begins",
                           fix='add "decoder_start_token_id" to generation_config.json')  # fmt: skip
    return Listener(model, Tokenizer.load(folder), defaults)


def read_sound(path: Path) -> Tensor:
    """A WAV file as 16,000 samples in a second, float32 (X,), its channels averaged.

    Another rate is changed by its spectrum, which keeps every frequency that both rates have.

    Raises:
        AthanorError: the file is missing, or no WAV file of whole numbers (PCM).
    """
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as problem:
        raise AthanorError(f"{path} cannot be read as sound: {problem}", allowed="a WAV file (PCM)",
                           fix="ffmpeg -i FILE -ar 16000 -ac 1 sound.wav") from problem  # fmt: skip
    octets = np.frombuffer(data, np.uint8).reshape(-1, width).astype(np.int64)
    whole = (octets << (8 * np.arange(width))).sum(1)
    half = 1 << (8 * width - 1)
    numbers = (whole - half if width == 1 else (whole + half) % (2 * half) - half) / half
    sound_X = torch.from_numpy(numbers.reshape(-1, channels).mean(1))
    if rate != RATE and len(sound_X):
        length = round(len(sound_X) * RATE / rate)
        sound_X = torch.fft.irfft(torch.fft.rfft(sound_X), n=length) * (length / len(sound_X))
    return sound_X.float()
