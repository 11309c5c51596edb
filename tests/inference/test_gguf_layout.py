"""What llama.cpp takes the parts of a GGUF file for, by its own names and formulas.

What we write and read again would not show a mistake that is made both ways; and llama.cpp itself is not everywhere.
"""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from athanor.inference.ggml import TYPES
from athanor.inference.gguf import GgufFile
from athanor.inference.gguf_model import write_model
from athanor.tokens.tokenizer import Tokenizer
from tests.inference.gguf_models import SHAPE, SHAPES, make_checkpoint, train_tokenizer

THEIRS = {  # a checkpoint's name: that of llama.cpp (its gguf-py/gguf/tensor_mapping.py)
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "model.layers.1.input_layernorm": "blk.1.attn_norm", "model.layers.1.self_attn.q_proj": "blk.1.attn_q",
    "model.layers.1.self_attn.k_proj": "blk.1.attn_k", "model.layers.1.self_attn.v_proj": "blk.1.attn_v",
    "model.layers.1.self_attn.o_proj": "blk.1.attn_output", "model.layers.1.post_attention_layernorm": "blk.1.ffn_norm",
    "model.layers.1.mlp.gate_proj": "blk.1.ffn_gate", "model.layers.1.mlp.up_proj": "blk.1.ffn_up",
    "model.layers.1.mlp.down_proj": "blk.1.ffn_down",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer()


def written(shape: str, tokenizer: Tokenizer, folder: Path) -> GgufFile:
    make_checkpoint(folder, tokenizer, **SHAPES[shape])
    write_model(folder, folder / "model.gguf", TYPES["F32"], {"name": "a test", "description": "not for use"})
    return GgufFile(folder / "model.gguf")


def test_every_tensor_has_the_name_llama_cpp_gives_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file, stored = written("llama", tokenizer, tmp_path), load_file(tmp_path / "model.safetensors")
    for name, theirs in THEIRS.items():
        weight = stored[f"{name}.weight"].float()
        if theirs.endswith(("attn_q", "attn_k")):  # it rotates neighbours, row i of a head with row i + half
            size = SHAPE["width"] // SHAPE["heads"]
            row = [head + i + half for head in range(0, len(weight), size) for i in range(size // 2)
                   for half in (0, size // 2)]  # fmt: skip
            weight = weight[row]
        assert torch.equal(file.read(f"{theirs}.weight"), weight), theirs


@pytest.mark.parametrize(
    ("shape", "wanted"), [("yarn-scaling", 0.1 * math.log(4) + 1), ("yarn-other-attention", 1.4), ("glm4-yarn", 1.4)]
)
def test_the_attention_factor_of_yarn(shape: str, wanted: float, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """It multiplies cosine and sine by `attn_factor` (1 + 0.1 ln s), for a scaling of s (ggml's rope_yarn)."""
    values = written(shape, tokenizer, tmp_path).values
    start = values["general.architecture"] + ".rope.scaling."
    scaling = values[start + "factor"]
    assert scaling == 4
    assert values[start + "attn_factor"] * (1 + 0.1 * math.log(scaling)) == pytest.approx(wanted, rel=1e-6)


def test_the_frequencies_of_llama_3(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """It divides each frequency by a number of the file: 1 for short wavelengths, the factor for long ones."""
    divisors = written("llama3-scaling", tokenizer, tmp_path).read("rope_freqs.weight").tolist()
    wavelength = 2 * math.pi * 500_000.0 ** (2 / 16)  # of the second pair, the only one between 64 / 4 and 64 / 1
    kept = (64 / wavelength - 1) / (4 - 1)
    assert divisors == pytest.approx([1, 1 / (kept + (1 - kept) / 8), 8, 8, 8, 8, 8, 8], rel=1e-5)
