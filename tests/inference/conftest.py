"""A tiny network with lively logits, and a tokenizer whose ids are bytes."""

import pytest
import torch

from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel

END = 257


class ByteTokenizer:
    """256 bytes and four special tokens."""

    def token_bytes(self) -> list[bytes]:
        return [bytes((byte,)) for byte in range(256)] + [b""] * 4


def make_model(vocabulary: int = 260, seed: int = 0, **changed) -> LanguageModel:
    numbers = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 64, "max_positions": 64, **changed}
    model = LanguageModel(TransformerConfig(vocabulary=vocabulary, **numbers)).initialise(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight *= 8  # far from ties, and no two contexts alike
    return model.eval()


@pytest.fixture(scope="session")
def model() -> LanguageModel:
    torch.set_num_threads(1)
    return make_model()


@pytest.fixture(scope="session")
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()
