"""GGUF: the blocks, the file, the model in it. What llama.cpp itself says about it is in `test_llama_cpp.py`."""

import itertools
import re
import struct
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from athanor.base.errors import AthanorError
from athanor.base.files import read_json, write_json
from athanor.inference import equivalence, gguf
from athanor.inference.ggml import TYPES, round_away
from athanor.inference.ggml_read import READABLE
from athanor.inference.gguf import GgufFile, TensorPlan, write_gguf
from athanor.inference.gguf_layout import default_values, dissect, turned, unturned
from athanor.inference.gguf_model import NOTES, read_model, write_model
from athanor.inference.gguf_tokenizer import QWEN2, read_tokenizer
from athanor.models.convert import load_checkpoint
from athanor.models.rope import RopeScaling
from athanor.tokens.tokenizer import PIECES, Tokenizer
from tests.inference.gguf_models import SHAPES, make_checkpoint, train_tokenizer

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


def test_large_blocks_are_read_as_the_law_says() -> None:
    """Worked by hand, one block of each: what a byte gives to numbers far apart, and how the six bits are put together.

    Q6_K: byte 0 holds the low fours of numbers 0 and 64, byte 128 the high pairs of 0, 32, 64 and 96.
    Q4_K: scale 4 takes four bits from the last bytes and two from the first; byte 16 holds numbers 0 and 32.
    """
    six = np.zeros(210, np.uint8)
    six[0], six[128], six[192:208], six[208:] = 0x5A, 0b11_10_01_00, 1, np.float16([0.5]).view(np.uint8)
    numbers = READABLE["Q6_K"].decode(six)
    assert numbers[[0, 1, 32, 64, 96]].tolist() == [(10 - 32) / 2, -16, (16 - 32) / 2, (32 + 5 - 32) / 2, (48 - 32) / 2]
    four = np.zeros(144, np.uint8)
    four[:4] = np.float16([1.0, 0.25]).view(np.uint8)
    four[4], four[8], four[12], four[16] = 2 | 1 << 6, 3 | 2 << 6, 0x21, 0xF7
    numbers = READABLE["Q4_K"].decode(four)
    assert numbers[[0, 1, 32, 128]].tolist() == [2 * 7 - 0.75, -0.75, 0, -(2 + 32) / 4]
    four[16 + 64] = 0x04
    assert READABLE["Q4_K"].decode(four)[128].item() == (1 + 16) * 4 - (2 + 32) / 4
    five = np.concatenate((four[:16], np.zeros(32, np.uint8), four[16:]))
    five[16] = 0b0001_0001  # the fifth bits of numbers 0 and 128
    assert READABLE["Q5_K"].decode(five)[[0, 128]].tolist() == [2 * 23 - 0.75, (1 + 16) * 20 - (2 + 32) / 4]


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
    plans = [
        TensorPlan(name, tuple(one.shape), TYPES[kinds[name]], partial(iter, [one])) for name, one in weights.items()
    ]
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


@pytest.mark.parametrize("name", TYPES)
def test_one_matrix_is_in_memory_at_a_time(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is encoded some rows at a time; the bytes are those of the whole."""
    monkeypatch.setattr(gguf, "ENCODED_AT_ONCE", 200)
    alive, most = [], []
    whole = torch.randn(4, 10, 64)

    def matrices(expert_count: int) -> Iterator[torch.Tensor]:
        for number in range(expert_count):
            assert not [one for one in alive if one() is not None]
            matrix = whole[number].clone()
            alive.append(weakref.ref(matrix))
            yield matrix
            del matrix

    def encode(rows: torch.Tensor):
        most.append(rows.numel())
        return TYPES[name].encode(rows)

    kind = replace(TYPES[name], encode=encode)
    plans = [TensorPlan(f"{count}.weight", (count, 10, 64), kind, partial(matrices, count)) for count in (4, 3)]
    write_gguf(tmp_path / "small.gguf", VALUES, plans)
    assert len(alive) == 7 and max(most) == 3 * 64
    file = GgufFile(tmp_path / "small.gguf")
    assert torch.equal(file.read("4.weight"), TYPES[name].decode(TYPES[name].encode(whole)))
    assert torch.equal(file.read("3.weight", 2), file.read("4.weight")[2])


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
        (b"GGUF" + struct.pack("<IqqQ1sIqiQ", 3, 1, 0, 1, b"k", 1, 32, 15, 0) + bytes(64), "ggml type 15"),
        (b"GGUF" + struct.pack("<IqqQ1sIqiQ", 3, 1, 0, 1, b"k", 1, 2**40, 0, 0) + bytes(64), "beyond the file"),
        (b"GGUF" + struct.pack("<IqqQ1sIqiQ", 3, 1, 0, 1, b"k", 1, -5, 0, 0) + bytes(64), "malformed"),
    ],
)
def test_a_hostile_head_is_refused_by_name(head: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(head)
    with pytest.raises(AthanorError, match=said):
        GgufFile(tmp_path / "bad.gguf")


# ---------------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize(
    ("shape", "kind"),
    [*((shape, "F32") for shape in SHAPES), *itertools.product(("llama", "qwen3-moe", "gpt2"), [*TYPES][1:])],
)
def test_a_model_comes_back_from_its_file(shape: str, kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """F32: the same logits to the bit; the others within what their blocks lose.

    There every expert is asked: at a near tie a rounded router asks another one, which is no error of the blocks.
    """
    more = {} if kind == "F32" or "experts" not in SHAPES[shape] else {"experts_per_token": SHAPES[shape]["experts"]}
    make_checkpoint(tmp_path, tokenizer, **{**SHAPES[shape], **more})
    write_model(tmp_path, tmp_path / "model.gguf", TYPES[kind], ABOUT)
    file = GgufFile(tmp_path / "model.gguf")
    ids = torch.tensor([tokenizer.encode("def f(x):\n    return x + 1 你好")])
    expected, found = load_checkpoint(tmp_path)(ids), read_model(file, tmp_path)(ids)
    lost = (found - expected).square().mean() / expected.square().mean()
    most = {"F32": 0, "F16": 1e-5, "BF16": 1e-3, "Q8_0": 1e-3, "Q4_0": 0.3}[kind]
    if "experts" in SHAPES[shape] and kind != "F32":  # a token between two experts may be sent to the other one
        most = max(most, 0.01)
    assert lost <= most
    assert file.values["general.file_type"] == TYPES[kind].file_code
    types = {name: entry.type.name for name, entry in file.tensors.items()}
    assert {
        types[name]
        for name in types
        if "norm" in name or "gate_inp" in name or name == "position_embd.weight" or name.endswith("bias")
    } == {"F32"}
    assert {types[name] for name in types if name.startswith("blk.0.ffn_up")} <= {kind, "F32"}
    assert types["blk.0.attn_output.weight"] == kind
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
    assert dissect("trunk.blocks.12.attention.qkv.bias") == ("blk.12.", "attention.qkv", "bias", None)
    assert dissect("trunk.blocks.3.mlp.experts.5.up.weight") == ("blk.3.", "mlp.experts.up", "weight", 5)
    assert dissect("head.weight") == ("", "head", "weight", None)


YARN = SHAPES["yarn-scaling"]["rope_scaling"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rope_scaling": RopeScaling(kind="dynamic", factor=2.0)}, "llama cannot say rope scaling of kind 'dynamic'"),
        ({"rope_scaling": replace(YARN, beta_fast=16.0)}, "yarn with beta_fast=16.0"),
        ({"rope_scaling": replace(YARN, beta_slow=2.0)}, "yarn with beta_slow=2.0"),
        ({"rope_scaling": replace(YARN, whole_bounds=False)}, "yarn with whole_bounds=False"),
        ({"rope_scaling": SHAPES["llama3-scaling"]["rope_scaling"], "bias_qkv": True}, "qwen2 cannot say rope scaling"),
        ({**SHAPES["qwen3-moe"], "router_normal": False}, "qwen3moe cannot say router_normal=False"),
        ({**SHAPES["qwen3-moe"], "expert_layers": (1,)}, "qwen3moe cannot say expert_layers"),
        ({"bias_qkv": True, "head_width": 32}, "qwen2 cannot say heads of width 32"),
        ({**SHAPES["gpt-neox"], "mlp": "relu"}, "gptneox cannot say mlp='relu'"),
        ({**SHAPES["gpt-neox"], "tied": True}, "gptneox cannot say tied=True"),
        ({**SHAPES["gpt2"], "position_offset": 2, "mlp": "relu", "norm_eps": 1e-5}, "opt models cannot"),
    ],
)
def test_what_llama_cpp_cannot_compute_is_refused(
    changed: dict, said: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    make_checkpoint(tmp_path, tokenizer, **changed)
    with pytest.raises(AthanorError, match=said):
        write_model(tmp_path, tmp_path / "model.gguf", TYPES["F32"], ABOUT)
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize(
    ("changed", "architecture"),
    [
        ({"norm_qk": True}, "qwen3"),
        ({**SHAPES["qwen3-moe-window"], "tied": True}, "qwen3moe"),  # mellum wants a head
        ({**SHAPES["qwen3-moe-window"], "rope_scaling": YARN}, "qwen3moe"),  # mellum scales some layers only
        ({"tied": True}, "llama"),  # mimo2 wants a head
    ],
)
def test_a_window_that_llama_cpp_ignores_shortens_the_context(
    changed: dict, architecture: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """The file ends where the window would begin to matter, and says so."""
    make_checkpoint(tmp_path, tokenizer, **{**changed, "window": 48})
    notes = write_model(tmp_path, tmp_path / "model.gguf", TYPES["F32"], ABOUT)
    file = GgufFile(tmp_path / "model.gguf")
    assert file.values[f"{architecture}.context_length"] == 48
    assert notes == file.values[NOTES] and "48 instead of 256" in notes[0]
    read_model(file, tmp_path)


def test_a_window_wider_than_the_context_changes_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, tokenizer, window=256, norm_eps=1e-5)
    assert write_model(tmp_path, tmp_path / "model.gguf", TYPES["F32"], ABOUT) == []
    values = GgufFile(tmp_path / "model.gguf").values
    assert values["llama.context_length"] == 256 and NOTES not in values


@pytest.mark.parametrize("shape", SHAPES)
def test_every_key_is_read_again(shape: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Each key of the network changed or left out, each tensor missing or too many: refused by that name.

    A key may be left out where llama.cpp then takes the same.
    """
    config = make_checkpoint(tmp_path, tokenizer, **SHAPES[shape]).config
    write_model(tmp_path, tmp_path / "model.gguf", TYPES["F32"], ABOUT)
    file = GgufFile(tmp_path / "model.gguf")
    start = file.values["general.architecture"] + "."
    values, keys = dict(file.values), [key for key in file.values if key.startswith(start)]
    assert len(keys) >= 10
    for key in keys:
        other = [] if isinstance(values[key], list) else not values[key] if isinstance(values[key], bool) else 1.25
        without = {one: values[one] for one in values if one != key}
        same = default_values(config).get(key.removeprefix(start)) == values[key]
        for changed in ({**values, key: other}, *(() if same else (without,))):
            file.values = changed
            with pytest.raises(AthanorError, match=re.escape(key)):
                read_model(file, tmp_path)
    file.values = values
    for name, entry in [(name, entry) for name, entry in file.tensors.items() if not name.startswith("blk.1.")]:
        file.tensors = {one: entry for one, entry in file.tensors.items() if one != name}
        with pytest.raises(AthanorError, match=f"{name} is missing"):
            read_model(file, tmp_path)
        file.tensors = {**file.tensors, name: entry}
    file.tensors["blk.0.extra.weight"] = entry
    with pytest.raises(AthanorError, match="no such tensor"):
        read_model(file, tmp_path)


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
        (lambda saved: saved.update(normalizer={"type": "NFKC"}), "no tokenizer like this"),
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
