"""Formulas against the networks themselves, and against published numbers."""

from dataclasses import replace

import pytest
import torch

from athanor.models import native_kernels
from athanor.models.language import LanguageModel
from athanor.models.published import PUBLISHED, find_model
from athanor.models.shapes import (
    MONTHS,
    SHAPES,
    Shape,
    accelerator_years,
    active_parameters,
    active_products,
    cache_bytes_per_token,
    count_parameters,
    flops_per_token,
    forward_flops,
    kept_per_token,
    training_flops,
    training_memory,
)


@pytest.mark.parametrize("name", SHAPES)
def test_formula_counts_what_the_network_has(name):
    with torch.device("meta"):
        model = LanguageModel(SHAPES[name])
    assert count_parameters(SHAPES[name]) == sum(parameter.numel() for parameter in model.parameters())


def test_the_scale_6b_counts_as_chatglm_6b():
    assert count_parameters(SHAPES["6b"]) == 6_173_286_400


def test_glm_130b_is_130b():
    assert abs(count_parameters(SHAPES["130b"]) / 128.7e9 - 1) < 0.001


@pytest.mark.parametrize("name", ["nano", "gpt2", "qwen2.5-0.5b"])
def test_flops_equal_those_torch_counts(name):
    """Forward FLOPs of the plain products, times three; torch counts the masked half of attention too."""
    config, context = find_model(name).parts[0], 32
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = LanguageModel(config)
        ids = torch.zeros(1, context, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(ids)
    assert counter.get_total_flops() * 3 == flops_per_token(config, context) * context


@pytest.mark.parametrize("name", ["nano", "micro"])
@pytest.mark.parametrize("usable", [False, True])
def test_activation_memory_is_what_autograd_keeps(name, usable, monkeypatch):
    """What torch's formulas keep; the C library's attention keeps less, and a plan counts on neither."""
    if not usable:
        monkeypatch.setattr(native_kernels, "usable", lambda *tensors: False)
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
    assert -0.1 < estimate / sum(kept.values()) - 1 < (0.35 if usable else 0.1)
    assert kept_per_token(config, 256) > 0


def test_cache_bytes():
    assert cache_bytes_per_token(PUBLISHED["llama-7b"].parts[0]) == 2 * 32 * 4096 * 2


def test_training_flops_are_those_of_the_papers():
    """GPT-3: 3.15e23 by 6 N D (3.14e23 in its appendix D); PaLM: 2.53e24, and 2.56e24 with attention."""
    assert training_flops(175e9, 300e9) == pytest.approx(3.15e23)
    assert training_flops(540e9, 780e9) == pytest.approx(2.53e24, rel=0.002)
    palm = PUBLISHED["palm-540b"].parts[0]
    assert flops_per_token(palm, 2_048) * 780e9 == pytest.approx(2.56e24, rel=0.005)


def test_gpt3_takes_355_years_or_4260_accelerator_months():
    """At the 28 TFLOP/s of a V100 that Lambda Labs reckoned with in June 2020."""
    years = round(accelerator_years(3.14e23, 28e12))
    assert years == 355
    assert years * MONTHS == 4_260


def test_a_window_shortens_attention_and_only_chosen_experts_are_multiplied():
    plain = Shape(width=64, layers=4, heads=4, hidden=128, vocabulary=100)
    narrow = replace(plain, window=8, windowed=3)
    assert forward_flops(plain, 32) - forward_flops(narrow, 32) == 4 * 64 * 3 * (32 - 8)
    choice = replace(plain, experts=8, active_experts=2)
    assert active_products(choice) - active_products(plain) == 4 * (64 * 128 * 3 + 64 * 8)
    assert active_parameters(choice) < count_parameters(choice)
    assert count_parameters(choice) - count_parameters(plain) == 4 * (7 * 64 * 128 * 3 + 64 * 8)


def test_active_parameters_of_mixtral():
    """12.9e9 of 46.7e9 (Jiang et al. 2024, section 1)."""
    assert active_parameters(PUBLISHED["mixtral-8x7b"].parts[0]) == pytest.approx(12.9e9, rel=0.002)
