"""Tiny checkpoints with a tokenizer of their own, for the tests of GGUF files."""

from pathlib import Path

import torch

from athanor.inference.equivalence import TEXTS
from athanor.models.config import TransformerConfig
from athanor.models.convert import save_checkpoint
from athanor.models.language import LanguageModel
from athanor.tokens.template import jinja_source
from athanor.tokens.tokenizer import DOCUMENT, END, Tokenizer
from tests.conftest import ROOT

SHAPE = {"width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 96, "max_positions": 256, "norm_eps": 1e-6}
FAMILIES = {
    "llama": {"tied": False},
    "llama-tied": {"tied": True, "rope_base": 500_000.0},
    "qwen2": {"bias_qkv": True},
    "qwen3": {"norm_qk": True, "tied": True},
    "qwen3-wide-heads": {"norm_qk": True, "head_width": 32},
}


def train_tokenizer(vocabulary: int = 1500) -> Tokenizer:
    """A tokenizer whose merges cross everything that the fixed texts hold, white space and signs included."""
    files = [ROOT / "README.md", ROOT / "README.zh.md", ROOT / "docs" / "words.md", ROOT / "athanor" / "cli.py"]
    return Tokenizer.train([*(path.read_text(encoding="utf-8") for path in files), *(TEXTS * 5)], vocabulary)


def make_checkpoint(folder: Path, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32, **changed) -> LanguageModel:
    """A randomly initialised model, far from ties, with its tokenizer, as a Hugging Face folder."""
    model = LanguageModel(TransformerConfig(vocabulary=tokenizer.vocabulary, **{**SHAPE, **changed})).initialise(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight *= 4 if weight.dim() == 2 else 1
            if name.endswith("bias"):
                weight += torch.linspace(-0.5, 0.5, len(weight))
    ids = {"bos_token_id": tokenizer.special[DOCUMENT], "eos_token_id": tokenizer.special[END]}
    save_checkpoint(model.to(dtype), folder, generation={**ids, "pad_token_id": tokenizer.special[END]})
    tokenizer.save(folder, jinja_source())
    return model.eval()
