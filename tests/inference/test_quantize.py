"""INT4: the numbers, the kernels, the files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.base.errors import AthanorError
from athanor.inference.engine import Engine
from athanor.inference.generate import generate
from athanor.inference.int4 import dequantize_int4, quantize_int4, quantize_int8
from athanor.inference.quantize import (
    WEIGHTS,
    Quantization,
    compare,
    kernels,
    load_model,
    quantize_checkpoint,
    quantize_model,
    save_quantized,
    set_kernel,
)
from athanor.inference.sampling import Sampling
from athanor.models.convert import save_checkpoint
from tests.inference.conftest import make_model

IDS = torch.randint(0, 260, (2, 40), generator=torch.Generator().manual_seed(0))


def rebuilt(weight, **settings):
    return dequantize_int4(**quantize_int4(weight, **settings), dtype=torch.float32)


@pytest.mark.parametrize("group_size", [32, 64])
def test_weights_come_back_within_half_a_step(group_size):
    weight = torch.randn(48, 128, generator=torch.Generator().manual_seed(1)) + 0.3
    groups = weight.unflatten(1, (-1, group_size))
    step = (groups.amax(-1) - groups.amin(-1)) / 15
    least, step = groups.amin(-1, keepdim=True), step[..., None]
    plain = least + step * ((groups - least) / step).round()
    error = (rebuilt(weight, group_size=group_size) - weight).square().mean()
    assert error < (plain.flatten(1) - weight).square().mean()  # better than rounding between least and greatest
    assert error < (rebuilt(weight, group_size=group_size, symmetric=True) - weight).square().mean()


def test_weights_on_the_grid_come_back_exactly():
    weight = (torch.arange(32) % 16 - 8).float().expand(16, -1) * 0.25
    torch.testing.assert_close(rebuilt(weight, group_size=32), weight, rtol=0, atol=0)
    for constant in (0.0, 1.5):
        flat = torch.full((16, 32), constant)
        torch.testing.assert_close(rebuilt(flat, group_size=32), flat, rtol=0, atol=1e-6)
    codes = quantize_int8(torch.tensor([[127.0, -127.0, 1.0], [0.0, 0.0, 0.0]]))
    assert codes["codes"].tolist() == [[127, -127, 1], [0, 0, 0]]


def test_columns_that_do_not_divide_are_named():
    with pytest.raises(AthanorError, match="96 columns") as caught:
        quantize_int4(torch.zeros(4, 96), 64)
    assert caught.value.allowed == "group_size 32"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("settings", [Quantization(), Quantization(symmetric=True, embedding_bits=4, head_bits=4)])
def test_a_saved_model_computes_as_the_one_in_memory(tmp_path, tied, settings):
    model = make_model(tied=tied, bias_qkv=True)
    made = quantize_model(model, settings)
    save_quantized(made, tmp_path / "one")
    loaded = load_model(tmp_path / "one", kernel="plain")
    torch.testing.assert_close(loaded(IDS), made(IDS), rtol=0, atol=0)
    save_checkpoint(model, tmp_path / "whole")
    assert quantize_checkpoint(tmp_path / "whole", tmp_path / "two", settings)["bits_per_weight"] < 10
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()
    assert (tmp_path / "one" / "config.json").read_text() == (tmp_path / "two" / "config.json").read_text()


def test_the_kernels_agree_with_the_reference(tmp_path):
    model = make_model()
    made = quantize_model(model)
    save_quantized(made, tmp_path)
    assert kernels(made) == {"int8": 1, "plain": 8} and kernels(model) == {"float32": 9}
    for kernel in ("packed", "unpacked"):
        loaded = load_model(tmp_path, kernel=kernel)
        assert kernels(loaded) == {"int8": 1, kernel: 8}
        assert compare(made, loaded, [IDS])["kl_mean"] < 2e-3  # the packed operator rounds its input to bfloat16
        with pytest.raises(AthanorError, match="given its codes away"):
            save_quantized(loaded, tmp_path / "other")
    assert kernels(load_model(tmp_path)) == {"int8": 1, "packed": 8}
    half = load_model(tmp_path, dtype=torch.bfloat16)
    assert compare(made, half, [IDS])["kl_mean"] < 0.05
    assert half(IDS[:, :4]).shape == (2, 4, 260)


def test_a_layer_that_cannot_be_packed_is_named_or_computed_plainly():
    narrow = {"heads": 8, "kv_heads": 1, "head_width": 4}  # qkv has 40 rows, no multiple of 16
    with pytest.raises(AthanorError, match=r"attention\.qkv cannot use the packed kernel"):
        set_kernel(quantize_model(make_model(**narrow)), "packed")
    made = quantize_model(make_model(**narrow))
    set_kernel(made, None)
    assert kernels(made) == {"int8": 1, "packed": 6, "plain": 2}
    with pytest.raises(AthanorError, match=r"down\.weight of 40 columns"):
        quantize_model(make_model(hidden=40))


def test_the_engine_runs_a_quantised_model(tmp_path):
    made = quantize_model(make_model())
    found = Engine(made, rows=2).generate_batch([[1, 2, 3], [4], [5, 6]], Sampling(max_tokens=8))
    assert found == [generate(made, ids, Sampling(max_tokens=8)) for ids in ([1, 2, 3], [4], [5, 6])]


def test_comparing_says_how_far_apart_two_models_are():
    model = make_model()
    same = compare(model, model, [IDS])
    assert same == {"kl_mean": 0.0, "kl_p99": 0.0, "top1_agreement": 1.0, "tokens": 80}
    a, b = (one(IDS).double().log_softmax(-1) for one in (model, make_model(seed=1)))
    found = compare(model, make_model(seed=1), [IDS[:1], IDS[1:]])
    divergence = torch.nn.functional.kl_div(b, a, log_target=True, reduction="sum").item() / 80
    assert found["kl_mean"] == pytest.approx(divergence, rel=1e-4)
    assert found["top1_agreement"] == (a.argmax(-1) == b.argmax(-1)).float().mean().item()
    with pytest.raises(AthanorError, match="nothing to compare"):
        compare(model, model, [])


def broken(folder, change):
    """Save a quantised model, change its config or its tensors, load it again."""
    save_quantized(quantize_model(make_model()), folder)
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / WEIGHTS)
    change(config, tensors)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / WEIGHTS)
    return load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda c, t: c["quantization_config"].update(quant_method="gptq"), "'gptq' is not known"),
     (lambda c, t: c.update(quantization_config="awq"), "'awq' is not known"),
     (lambda c, t: c["quantization_config"].update(bits=3), "unknown key 'bits'"),
     (lambda c, t: c["quantization_config"].update(group_size=48), "group_size=48"),
     (lambda c, t: t.pop("head.weight.scale"), r"head\.weight\.scale is missing"),
     (lambda c, t: t.update(extra=torch.zeros(1)), "extra does not belong"),
     (lambda c, t: t["head.weight.scale"].fill_(float("nan")), "not finite"),
     (lambda c, t: t.update({"head.weight.codes": torch.zeros(1, dtype=torch.int8)}), "of shape")],
)  # fmt: skip
def test_what_is_wrong_in_a_folder_is_named(tmp_path, change, message):
    with pytest.raises(AthanorError, match=message):
        broken(tmp_path, change)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    save_quantized(quantize_model(make_model()), tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(AthanorError, match="athanor-int4"):
        load_model(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(AthanorError, match="is missing"):
        load_model(tmp_path)
    with pytest.raises(AthanorError, match="not quantised"):
        save_quantized(make_model(), tmp_path / "other")


def test_a_whole_checkpoint_is_loaded_too(tmp_path):
    model = make_model()
    save_checkpoint(model, tmp_path)
    torch.testing.assert_close(load_model(tmp_path)(IDS), model(IDS))
    with pytest.raises(AthanorError, match="is not quantised"):
        load_model(tmp_path, kernel="packed")
