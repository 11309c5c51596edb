"""Formulas against the networks themselves, and against published numbers."""

import pytest
import torch

from athanor.models.language import LanguageModel
from athanor.models.shapes import (
    SHAPES,
    cache_bytes_per_token,
    count_parameters,
    flops_per_token,
    kept_per_token,
    training_memory,
)  # fmt: skip

PUBLISHED = {  # sizes as the checkpoints on the Hugging Face Hub have them
    "6b": 6_173_286_400,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
}


@pytest.mark.parametrize("name", SHAPES)
def test_formula_counts_what_the_network_has(name):
    with torch.device("meta"):
        model = LanguageModel(SHAPES[name])
    assert count_parameters(SHAPES[name]) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    assert count_parameters(SHAPES[name]) == PUBLISHED[name]


def test_glm_130b_is_130b():
    assert abs(count_parameters(SHAPES["130b"]) / 128.7e9 - 1) < 0.001


@pytest.mark.parametrize("name", ["nano", "gpt2"])
def test_flops_equal_those_torch_counts(name):
    """Forward FLOPs of the plain products, times three; torch counts the masked half of attention too."""
    config, context = SHAPES[name], 32
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = LanguageModel(config)
        ids = torch.zeros(1, context, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(ids)
    assert counter.get_total_flops() * 3 == flops_per_token(config, context) * context


@pytest.mark.parametrize("name", ["nano", "micro"])
def test_activation_memory_is_what_autograd_keeps(name):
    config, kept = SHAPES[name], {}
    model = LanguageModel(config).bfloat16().initialise(0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros(2, 256, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(ids, ids)
    estimate = training_memory(config, rows=2, context=256).activations
    assert abs(estimate / sum(kept.values()) - 1) < 0.1
    assert kept_per_token(config, 256) > 0


def test_cache_bytes():
    assert cache_bytes_per_token(SHAPES["llama-7b"]) == 2 * 32 * 4096 * 2
