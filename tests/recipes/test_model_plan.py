"""Room and speed of a model, against numbers worked out by hand and against what our own format stores."""

from dataclasses import replace

import pytest
from safetensors.torch import load_file

from athanor.base.errors import AthanorError
from athanor.base.machines import MACHINES, Machine, find_machine
from athanor.inference.quantize import WEIGHTS, quantize_model, save_quantized
from athanor.models.language import LanguageModel
from athanor.models.published import find_model
from athanor.models.shapes import SHAPES, Shape
from athanor.recipes.model_plan import Load, bytes_read, memory_needs, train_on, use_on, weight_bytes


def test_chatglm_6b_in_4_bits_by_hand():
    """28 layers of 4 · 4096² + 2 · 4096 · 16384 weights at 5 bits (4, and 32 for scale and zero of each 32 weights);
    the tied embedding at 8 bits with a scale per row; biases and norms in bf16."""
    layers = 28 * (4 * 4_096**2 + 2 * 4_096 * 16_384)
    embedding = 130_528 * 4_096
    rest = 6_173_286_400 - layers - embedding
    needs = memory_needs(find_model("chatglm-6b"), Load(bits=4, context=2_048))
    assert needs.weights == layers * 5 // 8 + embedding + 130_528 * 2 + rest * 2 == 4_061_117_376
    assert needs.cache == 2_048 * 28 * 2 * 4_096 * 2 == 939_524_096
    assert needs.activations == 2_048 * (2 * 4_096 + 2 * 16_384) * 2 + 130_528 * 4
    assert needs.total == needs.weights + needs.cache + needs.activations


@pytest.mark.parametrize(("bits", "stored"), [(16, 13_476_831_232), (32, 26_953_662_464)])
def test_plain_weights_are_count_times_bytes(bits, stored):
    assert memory_needs(find_model("llama-7b"), Load(bits=bits)).weights == stored


@pytest.mark.parametrize("tied", [True, False])
def test_quantised_bytes_are_those_our_format_stores(tied, tmp_path):
    config = replace(SHAPES["nano"], tied=tied)
    save_quantized(quantize_model(LanguageModel(config).bfloat16().initialise(0)), tmp_path)
    stored = load_file(tmp_path / WEIGHTS).values()
    assert weight_bytes(config, 4) == sum(tensor.numel() * tensor.element_size() for tensor in stored)


def test_decoding_is_bound_by_bandwidth_then_by_compute():
    """LLaMA-7B in bf16 on an A100: all but the embedding, and 2,048 positions, at 2,039 GB/s."""
    model, a100 = find_model("llama-7b"), MACHINES["a100"]
    use = use_on(model, Load(bits=16, context=2_048), a100)
    read = 13_476_831_232 - 32_000 * 4_096 * 2 + 2_048 * 2 * 32 * 4_096 * 2
    assert use.bandwidth_rate == pytest.approx(2_039e9 / read)
    products = 32 * (4 * 4_096**2 + 3 * 4_096 * 11_008) + 32_000 * 4_096
    assert use.compute_rate == pytest.approx(312e12 / (2 * products + 4 * 32 * 4_096 * 2_048))
    assert use.rate == use.bandwidth_rate < use.compute_rate
    assert use.prefill_seconds == pytest.approx(2_048 * (2 * products + 4 * 32 * 4_096 * 1_024) / 312e12)
    many = use_on(model, Load(bits=16, context=1, batch=100_000), a100)
    assert many.rate == many.compute_rate


def test_a_mixture_reads_the_experts_it_was_sent_to():
    shape = Shape(width=64, layers=2, heads=4, hidden=128, vocabulary=100, tied=True, experts=8, active_experts=2)
    one, all_of_them = bytes_read(shape, Load(batch=1)), bytes_read(shape, Load(batch=1_000))
    assert all_of_them == weight_bytes(shape, 16)
    assert all_of_them - one == 2 * 6 * (3 * 64 * 128 + 64) * 2


def test_what_does_not_fit_is_told_what_would():
    model, small = find_model("llama-7b"), MACHINES["4090"]
    assert use_on(model, Load(bits=16), small).fits
    tight = use_on(model, Load(bits=16, context=2_048, batch=12), small)
    assert not tight.fits
    assert "--bits 8" in tight.would_fit[0] and tight.would_fit[-1] == "2 of them"
    for change in tight.would_fit[:-1]:
        words = change.split()
        told = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        load = Load(bits=told.get("--bits", 16), context=told.get("--context", 2_048), batch=told.get("--batch", 12))
        assert use_on(model, load, small).fits, change


def test_training_time_cost_and_energy_by_hand():
    machine = Machine(about="", memory=80e9, bandwidth=1e12, half=1e14, single=1e13, source="", training_share=0.5,
                      watts=100, dollars=2.0)  # fmt: skip
    model = find_model("llama-7b")
    one = train_on(model, 1e9, 2_048, machine)
    assert one.rule_flops == pytest.approx(6 * 6_738_415_616 * 1e9)
    work = one.flops / 5e13
    assert one.machines == 2  # 16 bytes for each of 6.7e9 weights are 108 GB
    assert one.seconds == pytest.approx(work / 2)
    assert one.dollars == pytest.approx(work / 3_600 * 2)
    assert one.joules == pytest.approx(work * 100)


def test_no_price_without_a_source():
    for name, machine in MACHINES.items():
        assert (machine.dollars is None) == (not machine.priced), name
        assert machine.source, name
    assert train_on(find_model("llama-7b"), 1e9, 2_048, MACHINES["4090"]).dollars is None


@pytest.mark.parametrize("wrong", [{"bits": 5}, {"context": 0}, {"batch": -1}])
def test_a_wrong_load_is_refused_by_name(wrong):
    with pytest.raises(AthanorError, match=next(iter(wrong))):
        Load(**wrong)


def test_an_unknown_machine_is_answered_and_this_one_is_measured():
    with pytest.raises(AthanorError) as caught:
        find_machine("h10")
    assert "h100" in str(caught.value)
    here = find_machine("here")
    assert min(here.memory, here.bandwidth, here.half, here.single) > 1e8
