"""Tiny encoder-decoders for the parity tests: T5, mT5, M2M-100 and Whisper, each beside our network of its weights."""

import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch

from athanor.models.convert import load_network
from athanor.models.families.seq2seq import SEQ2SEQ
from athanor.models.speech import SpeechModel

transformers = pytest.importorskip("transformers")

VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, MELS, PLACES = 97, 64, 2, 4, 80, 6, 11
START, PADDING, END = 2, 1, 3
SPECIAL = dict(pad_token_id=PADDING, bos_token_id=0, eos_token_id=END, decoder_start_token_id=START)
T5 = dict(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=24, d_ff=HIDDEN, num_layers=LAYERS, num_heads=HEADS, **SPECIAL)
BART = dict(
    vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_ffn_dim=HIDDEN,
    decoder_ffn_dim=HIDDEN, encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, **SPECIAL,
)  # fmt: skip
UNLIKE = dict(encoder_layers=1, decoder_layers=3, encoder_ffn_dim=48, decoder_ffn_dim=72, decoder_attention_heads=2)
M2M = {**BART, "max_position_embeddings": 48}
WHISPER = {**BART, "num_mel_bins": MELS, "max_source_positions": PLACES, "max_target_positions": 40}
FEW_CLASSES = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 13}
# "untied": the head is a weight of its own, and config.json says so.
CASES = {
    "t5": ("T5", T5),
    "t5, untied": ("T5", {**T5, "tie_word_embeddings": False}),
    "t5, unlike trunks, few classes": ("T5", {**T5, **FEW_CLASSES, "num_decoder_layers": 3, "layer_norm_epsilon": 0.1}),
    "t5, unscaled head": ("T5", {**T5, "scale_decoder_outputs": False, "num_layers": 3, "num_decoder_layers": 1}),
    "t5-gated, untied": ("T5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5-gated": ("T5", {**T5, "feed_forward_proj": "gated-gelu"}),
    "mt5, untied": ("MT5", {**T5, **FEW_CLASSES, "tie_word_embeddings": False}),
    "mt5": ("MT5", T5),
    "m2m_100": ("M2M100", M2M),
    "m2m_100, unlike trunks": ("M2M100", {**M2M, **UNLIKE, "scale_embedding": False, "activation_function": "gelu"}),
    "whisper": ("Whisper", WHISPER),
    "whisper, unlike trunks, untied": (
        "Whisper", {**WHISPER, **UNLIKE, "tie_word_embeddings": False, "activation_function": "gelu_new"}
    ),
}  # fmt: skip
WORDS = [name for name in CASES if not name.startswith("whisper")]
FAMILY = {family.name: family for family in SEQ2SEQ}


def reference(case: str) -> torch.nn.Module:
    """The reference network in float32 with every parameter disturbed."""
    name, settings = CASES[case]
    torch.manual_seed(len(case))
    still = {key: 0.0 for key in ("dropout", "encoder_layerdrop", "decoder_layerdrop")} if "T5" not in name else {}
    config = getattr(transformers, f"{name}Config")(**settings, **still, attn_implementation="eager")
    network = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    if "untied" in case and "T5" in name:  # they tie it always, but for a checkpoint that holds two weights
        network.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, WIDTH) / 8)
    with torch.no_grad():
        for part, parameter in network.named_parameters():
            # Products only a little: where scores are large, so is the rounding.
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.02))
            # T5 draws these wide: sharp attention, and scores in the hundreds where a tied head is not scaled.
            parameter.mul_(0.5 if part.endswith(".q.weight") else 0.2 if part == "shared.weight" else 1.0)
    return network.eval().float()


@functools.cache
def pair_of(case: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The reference and our network loaded from what the reference saved."""
    theirs = reference(case)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        say_untied(case, Path(folder))
        return theirs, load_network(folder)


def say_untied(case: str, folder: Path) -> None:
    """`transformers` 5 writes `true` into the config.json of every T5; published ones say what is so."""
    if "untied" in case:
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**said, "tie_word_embeddings": False}))


def random_ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def random_source(ours: torch.nn.Module, rows: int) -> torch.Tensor:
    """Token ids, or frames of sound; as long as the widest class of distance reaches, and further."""
    if isinstance(ours, SpeechModel):
        frames = torch.randn(rows, MELS, 2 * PLACES, generator=torch.Generator().manual_seed(rows))
        return 10 * frames  # so loud that the kinds of gelu differ
    return random_ids(rows, 30, seed=5)
