"""GGUF: the blocks, the file, the model in it. What llama.cpp itself says about it is in `test_llama_cpp.py`."""

import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from athanor.base.errors import AthanorError
from athanor.base.files import read_json, write_json
from athanor.inference import equivalence
from athanor.inference.ggml import TYPES, round_away
from athanor.inference.gguf import GgufFile, TensorPlan, write_gguf
from athanor.inference.gguf_model import QWEN2, our_name, read_model, read_tokenizer, turned, unturned, write_model
from athanor.models.convert import load_checkpoint
from athanor.tokens.tokenizer import PIECES, Tokenizer
from tests.inference.gguf_models import FAMILIES, make_checkpoint, train_tokenizer

ABOUT = {"name": "a test", "description": "not for use"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer()


# --------------------------------------------------------------------------------------------------------- the blocks


def test_a_block_of_eight_bits_is_what_the_law_says() -> None:
    """Worked by hand: the largest magnitude 254 gives d = 2; 3 / 2 and -5 / 2 go away from zero."""
    weight = torch.zeros(32)
    weight[:5] = torch.tensor([254.0, 3.0, -5.0, 1.0, -254.0])
    data = TYPES["Q8_0"].encode(weight)
    assert data[:2].tobytes() == struct.pack("<e", 2.0)
    assert list(struct.unpack("<32b", data[2:].tobytes()))[:6] == [127, 2, -3, 1, -127, 0]
    assert TYPES["Q8_0"].decode(data)[:5].tolist() == [254, 4, -6, 2, -254]


def test_a_block_of_four_bits_is_what_the_law_says() -> None:
    """Worked by hand: the number of largest magnitude, -8, gives d = 1 and takes code 0; +8 would need code 16."""
    weight = torch.zeros(32)
    weight[0], weight[1], weight[16], weight[17] = -8.0, 8.0, 3.4, -2.6
    data = TYPES["Q4_0"].encode(weight)
    assert data[:2].tobytes() == struct.pack("<e", 1.0)
    assert data[2] == 0 | 11 << 4 and data[3] == 15 | 5 << 4 and data[4] == 8 | 8 << 4
    assert TYPES["Q4_0"].decode(data)[[0, 1, 16, 17]].tolist() == [-8, 7, 3, -3]


@pytest.mark.parametrize("name", TYPES)
def test_numbers_come_back_as_near_as_their_type_can(name: str) -> None:
    weight = torch.randn(7, 96, generator=torch.Generator().manual_seed(0))
    weight[2] = 0.0
    kind = TYPES[name]
    data = kind.encode(weight)
    assert data.shape == (7, 96 // kind.numbers * kind.size)
    back = kind.decode(data)
    most = weight.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True).expand(-1, -1, 32).flatten(1)
    half = 2**-11  # relative error of float16, which the scales are stored in
    step = {"F32": 0.0, "F16": half, "BF16": 2**-8, "Q8_0": 0.5 / 127 + half, "Q4_0": 1 / 8 + half}[name]
    assert bool(((back - weight).abs() <= step * most + 1e-7 * (step > 0)).all())
    assert bool((back[2] == 0).all())


def test_halves_go_away_from_zero() -> None:
    assert round_away(torch.tensor([0.5, -0.5, 2.5, 0.49999997, -1.5])).tolist() == [1, -1, 3, 0, -2]


@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_0"])
def test_a_weight_too_large_for_float16_is_refused(name: str) -> None:
    with pytest.raises(AthanorError, match="bf16") as caught:
        TYPES[name].encode(torch.full((1, 32), 1e8))
    assert "f32" in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- the file

VALUES = {"general.architecture": "x", "a.bool": True, "a.count": 7, "a.share": 0.5, "a.text": "炼丹炉 \x00",
          "a.words": ["", "é", "b c"], "a.numbers": [1, -2, 3], "a.none": []}  # fmt: skip


def small_file(folder: Path) -> Path:
    weights = {"one.weight": torch.arange(10.0).view(2, 5), "two.weight": torch.randn(3, 64), "three": torch.ones(1)}
    kinds = {"one.weight": "F32", "two.weight": "Q4_0", "three": "F16"}
    plans = [TensorPlan(name, tuple(one.shape), TYPES[kinds[name]], one.clone) for name, one in weights.items()]
    write_gguf(folder / "small.gguf", VALUES, plans)
    return folder / "small.gguf"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = GgufFile(small_file(tmp_path))
    assert file.values == VALUES
    assert {name: (entry.shape, entry.type.name) for name, entry in file.tensors.items()} == {
        "one.weight": ((2, 5), "F32"),
        "two.weight": ((3, 64), "Q4_0"),
        "three": ((1,), "F16"),
    }
    assert file.read("one.weight").tolist() == torch.arange(10.0).view(2, 5).tolist()
    assert all(entry.start % 32 == 0 for entry in file.tensors.values())


def test_a_damaged_file_is_refused_and_never_worse(tmp_path: Path) -> None:
    """Cut at many places, or a byte of the head changed: an AthanorError, or a file that reads."""
    path = small_file(tmp_path)
    whole = path.read_bytes()
    head = GgufFile(path).start
    for size in range(0, len(whole) - 32, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(AthanorError):
            GgufFile(path)
    for place in range(0, head, 2):
        for changed in (0, 255):
            path.write_bytes(whole[:place] + bytes([changed]) + whole[place + 1 :])
            try:
                file = GgufFile(path)
                [file.read(name) for name in file.tensors]
            except AthanorError:
                continue


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"GGML" + bytes(20), "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<Iqq", 2, 0, 0), "version 2"),
        (b"GGUF" + struct.pack("<Iqq", 3, 2**62, 0), "tensors"),
        (b"GGUF" + struct.pack("<Iqq", 3, 0, -1), "values"),
        (b"GGUF" + struct.pack("<IqqQ", 3, 0, 1, 2**63), "ends in the middle"),
        (b"GGUF" + struct.pack("<IqqQ1siiQ", 3, 0, 1, 1, b"k", 9, 8, 2**60), "an array of"),
        (b"GGUF" + struct.pack("<IqqQ1si", 3, 0, 1, 1, b"k", 77), "value type 77"),
        (b"GGUF" + struct.pack("<IqqQ1sIqiQ", 3, 1, 0, 1, b"k", 1, 32, 14, 0) + bytes(64), "ggml type 14"),
        (b"GGUF" + struct.pack("<IqqQ1sIqiQ", 3, 1, 0, 1, b"k", 1, 2**40, 0, 0) + bytes(64), "beyond the file"),
        (b"GGUF" + struct.pack("<IqqQ1sIqiQ", 3, 1, 0, 1, b"k", 1, -5, 0, 0) + bytes(64), "malformed"),
    ],
)
def test_a_hostile_head_is_refused_by_name(head: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(head)
    with pytest.raises(AthanorError, match=said):
        GgufFile(tmp_path / "bad.gguf")


# ---------------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", TYPES)
def test_a_model_comes_back_from_its_file(family: str, kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """F32: the same logits to the bit; the others within what their blocks lose."""
    make_checkpoint(tmp_path, tokenizer, **FAMILIES[family])
    write_model(tmp_path, tmp_path / "model.gguf", TYPES[kind], ABOUT)
    file = GgufFile(tmp_path / "model.gguf")
    ids = torch.tensor([tokenizer.encode("def f(x):\n    return x + 1 你好")])
    expected, found = load_checkpoint(tmp_path)(ids), read_model(file, tmp_path)(ids)
    lost = (found - expected).square().mean() / expected.square().mean()
    assert lost <= {"F32": 0, "F16": 1e-5, "BF16": 1e-3, "Q8_0": 1e-3, "Q4_0": 0.3}[kind]
    assert file.values["general.file_type"] == TYPES[kind].file_code
    types = {name: entry.type.name for name, entry in file.tensors.items()}
    assert {types[name] for name in types if "norm" in name or name.endswith("bias")} == {"F32"}
    assert types["blk.0.ffn_up.weight"] == kind
    assert types["token_embd.weight"] == ("Q8_0" if kind == "Q4_0" else kind)


def test_rows_that_are_no_whole_blocks_become_half_precision(tokenizer: Tokenizer, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, tokenizer, norm_qk=True, hidden=80)
    write_model(tmp_path, tmp_path / "model.gguf", TYPES["Q8_0"], ABOUT)
    types = {name: entry.type.name for name, entry in GgufFile(tmp_path / "model.gguf").tensors.items()}
    assert types["blk.1.ffn_down.weight"] == "F16" and types["blk.1.ffn_up.weight"] == "Q8_0"


def test_the_keys_say_the_whole_network(tokenizer: Tokenizer, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, tokenizer, norm_qk=True, head_width=32, rope_base=1e6)
    write_model(tmp_path, tmp_path / "model.gguf", TYPES["BF16"], {**ABOUT, "license": "apache-2.0"})
    values = GgufFile(tmp_path / "model.gguf").values
    assert {key: value for key, value in values.items() if key.startswith(("general.", "qwen3."))} == {
        "general.architecture": "qwen3", "general.type": "model", "general.size_label": values["general.size_label"],
        "general.name": "a test", "general.description": "not for use", "general.license": "apache-2.0",
        "general.file_type": 32, "general.quantization_version": 2, "general.alignment": 32,
        "qwen3.context_length": 256, "qwen3.embedding_length": 64, "qwen3.block_count": 2,
        "qwen3.feed_forward_length": 96, "qwen3.vocab_size": tokenizer.vocabulary, "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2, "qwen3.attention.key_length": 32, "qwen3.attention.value_length": 32,
        "qwen3.attention.layer_norm_rms_epsilon": pytest.approx(1e-6), "qwen3.rope.dimension_count": 32,
        "qwen3.rope.freq_base": 1e6,
    }  # fmt: skip
    special = {key.removeprefix("tokenizer.ggml."): value for key, value in values.items() if key.endswith("_id")}
    assert special == {"bos_token_id": 0, "eos_token_id": 1, "eot_token_id": 1, "padding_token_id": 1}
    assert values["tokenizer.ggml.token_type"] == [3] * 6 + [1] * (tokenizer.vocabulary - 6)


def test_turning_is_undone() -> None:
    weight = torch.randn(24, 5)
    assert torch.equal(unturned(turned(weight, 3), 3), weight)
    rows = turned(torch.arange(8.0)[:, None], 1)[:, 0]
    assert rows.tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_names() -> None:
    assert our_name("model.layers.12.self_attn.q_proj.bias") == "blk.12.attn_q.bias"
    assert our_name("lm_head.weight") == "output.weight"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"position": "learned", "mlp": "gelu_tanh", "norm": "layer", "bias_qkv": True, "bias_out": True,
          "bias_mlp": True, "kv_heads": None}, "a gpt2 model cannot"),
        ({"window": 32, "bias_qkv": True}, "cannot say window"),
    ],
)  # fmt: skip
def test_what_the_keys_cannot_say_is_refused(changed: dict, said: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, tokenizer, **changed)
    with pytest.raises(AthanorError, match=said):
        write_model(tmp_path, tmp_path / "model.gguf", TYPES["F32"], ABOUT)
    assert not (tmp_path / "model.gguf").exists()


# ------------------------------------------------------------------------------------------------------ the tokenizer


def test_the_tokenizer_comes_back_from_the_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, tokenizer)
    write_model(tmp_path, tmp_path / "model.gguf", TYPES["F16"], ABOUT)
    again = read_tokenizer(GgufFile(tmp_path / "model.gguf").values)
    compared = equivalence.compare_tokenizers(tokenizer, again)
    assert compared["same"] == compared["texts"] == len(equivalence.TEXTS)
    assert again.special == tokenizer.special


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("aAsStTlLvVeErRmMdD'é好ſ 1٣½.,!=\n\r\t\u00a0\u3000\u2028\u0085\x0b🙂\u0301_")))
def test_our_pattern_and_that_of_qwen_cut_alike(text: str) -> None:
    pieces = [pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text) for pattern in (PIECES, QWEN2)]
    assert pieces[0] == pieces[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda saved: saved["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+|\W+"), "cuts text"),
        (lambda saved: saved["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "cuts text"),
        (lambda saved: saved.update(normalizer={"type": "NFC"}), "no tokenizer like this"),
        (lambda saved: saved["model"].update(ignore_merges=True), "ignore_merges=True"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(change, said, tokenizer, tmp_path) -> None:
    make_checkpoint(tmp_path, tokenizer)
    saved = read_json(tmp_path / "tokenizer.json")
    change(saved)
    write_json(tmp_path / "tokenizer.json", saved)
    with pytest.raises(AthanorError, match=said) as caught:
        write_model(tmp_path, tmp_path / "model.gguf", TYPES["F32"], ABOUT)
    assert caught.value.fix == "athanor export --to hf"
