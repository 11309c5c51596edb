"""Networks that hear: two convolutions over frames of sound in front of an encoder, and a decoder that writes.

Shape letters as in `seq2seq.py`; M bands of frequency, F frames, two of them for each position of the source; X samples
of sound.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models.attention import Memory
from athanor.models.language import initialise
from athanor.models.seq2seq import EncoderDecoder, EncoderDecoderConfig, sinusoids

RATE = 16_000  # samples of sound in a second
STEP, WIDE = 160, 400  # samples between the beginnings of two frames, and those a frame is made of
QUIETEST = 1e-10  # power below this counts as this


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """An encoder-decoder and the front through which it hears.

    Attributes:
        text: the encoder-decoder; its encoder has `max_positions` positions, and twice as many frames enter.
        mels: bands of frequency of a frame.

    Raises:
        ValueError: the encoder has a way of its own to tell places apart, or there are no bands.
    """

    text: EncoderDecoderConfig
    mels: int

    def __post_init__(self) -> None:
        encoder = self.text.encoder
        if encoder.position != "none" or self.text.padding is not None or encoder.width < 4 or encoder.width % 2:
            raise ValueError("the front adds sinusoids: the encoder needs position='none', no padding, an even width")
        if self.mels < 1:
            raise ValueError(f"mels={self.mels}: must be at least 1")


class SpeechModel(nn.Module):
    """Log-mel frames in, logits over the vocabulary out (Whisper, Radford et al. 2022, section 2.2)."""

    def __init__(self, config: SpeechConfig):
        super().__init__()
        self.config = config
        encoder = config.text.encoder
        self.first = nn.Conv1d(config.mels, encoder.width, 3, padding=1)
        self.second = nn.Conv1d(encoder.width, encoder.width, 3, stride=2, padding=1)
        # Never trained, but stored: checkpoints carry these sinusoids, and what they carry is used.
        place_S = torch.arange(encoder.max_positions)
        self.places = nn.Parameter(sinusoids(place_S, encoder.width), requires_grad=False)
        self.text = EncoderDecoder(config.text)

    def initialise(self, seed: int) -> "SpeechModel":
        """Draw every weight anew, by the law of `LanguageModel.initialise`. Returns itself."""
        text = self.text
        initialise(self, {text.encoder: len(text.encoder.blocks), text.decoder: len(text.decoder.blocks)}, seed)
        return self

    def hear(self, frames_BMF: Tensor) -> Tensor:
        """One vector for every two frames, (B, S, D).

        Raises:
            ValueError: another number of frames than the network was trained on; shorter sound is filled up with
                silence before its spectrum is taken.
        """
        wanted = (self.config.mels, 2 * self.config.text.encoder.max_positions)
        if frames_BMF.shape[1:] != wanted:
            raise ValueError(f"{tuple(frames_BMF.shape[1:])} bands and frames given, but this network hears {wanted}")
        heard_BDF = F.gelu(self.first(frames_BMF))
        heard_BDS = F.gelu(self.second(heard_BDF))
        return heard_BDS.transpose(1, 2) + self.places

    def encode(self, frames_BMF: Tensor) -> Memory:
        """What the decoder remembers of the sound, made once; `text.decode` and `text.logits` then write."""
        return self.text.encode(self.hear(frames_BMF))

    def forward(
        self,
        frames_BMF: Tensor,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits float32 (B, T, V); the arguments are those of `encode` and of `EncoderDecoder.decode`."""
        return self.text(self.hear(frames_BMF), ids_BT, positions_BT=positions_BT, documents_BT=documents_BT)

    def loss(
        self,
        frames_BMF: Tensor,
        ids_BT: Tensor,
        targets_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies in nats, and how many positions were scored, as `EncoderDecoder.loss`."""
        source = self.hear(frames_BMF)
        return self.text.loss(source, ids_BT, targets_BT, positions_BT=positions_BT, documents_BT=documents_BT)


def log_mel(sound_BX: Tensor, mels: int, frames: int = 3_000) -> Tensor:
    """What Whisper hears of a sound: logarithms of the power in each band of frequency, (B, M, F).

    Windows of 25 ms every 10 ms; powers of ten, nothing more than 8 below the loudest of its row, brought to about
    -1 to 1 (Radford et al. 2022, section 2.2, and its code).

    Args:
        sound_BX: float, 16,000 samples in a second, -1 to 1. Shorter sound than `frames` is filled up with silence.
        mels: bands of frequency.
        frames: how many frames are made; Whisper has 30 seconds of them.

    Raises:
        ValueError: the sound is longer than `frames`: cut it, so that nothing is left out unnoticed.
    """
    room = frames * STEP - sound_BX.shape[-1]
    if room < 0:
        raise ValueError(f"{sound_BX.shape[-1]} samples given, but {frames} frames are {frames * STEP}")
    window_X = torch.hann_window(WIDE, device=sound_BX.device)
    spectrum = torch.stft(F.pad(sound_BX.float(), (0, room)), WIDE, STEP, window=window_X, return_complex=True)
    power = spectrum[..., :-1].abs().square()  # the last frame is centred on the end of the sound
    power_BMF = mel_bands(mels).to(power.device) @ power
    loud_BMF = power_BMF.clamp_min(QUIETEST).log10()
    loudest_B11 = loud_BMF.amax((1, 2), keepdim=True)
    return (torch.maximum(loud_BMF, loudest_B11 - 8.0) + 4.0) / 4.0


def mel_bands(mels: int) -> Tensor:
    """How much of each of 201 frequencies goes into each band, float32 (M, 201).

    Triangles of equal area whose corners lie at equal steps of the mel scale: linear up to 1,000 Hz, 15 mels, then by
    the logarithm, 27 mels for a factor of 6.4 (Slaney 1998, Auditory Toolbox version 2, function mfcc).
    """
    mel_of_end = 15 + 27 * math.log(RATE / 2 / 1_000) / math.log(6.4)
    mel = torch.linspace(0, mel_of_end, mels + 2, dtype=torch.float64)
    corner = torch.where(mel < 15, mel * 200 / 3, 1_000 * torch.exp((mel - 15) * math.log(6.4) / 27))
    frequency = torch.linspace(0, RATE / 2, WIDE // 2 + 1, dtype=torch.float64)
    low, top, high = corner[:-2, None], corner[1:-1, None], corner[2:, None]
    rising, falling = (frequency - low) / (top - low), (high - frequency) / (high - top)
    triangle = torch.minimum(rising, falling).clamp_min(0)
    return (triangle * 2 / (high - low)).float()
