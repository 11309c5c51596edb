"""Converting and running checkpoints that do not fit: the same numbers, and one layer in memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.models.config import TransformerConfig
from athanor.models.convert import convert_checkpoint, load_checkpoint, save_checkpoint
from athanor.models.language import LanguageModel
from athanor.models.streamed import filler_of, streamed_logits

SMALL = dict(width=32, layers=3, heads=4, hidden=48, max_positions=16, vocabulary=50)
GPT = dict(norm="layer", mlp="gelu_tanh", bias_qkv=True, bias_out=True, bias_mlp=True, tied=True)
CONFIGS = {
    "qwen3, tied": TransformerConfig(**SMALL, kv_heads=2, norm_qk=True, tied=True),
    "mixtral": TransformerConfig(**SMALL, experts=4, experts_per_token=2, norm_eps=1e-5),
    "gpt2": TransformerConfig(**SMALL, **GPT, position="learned"),
    "bloom": TransformerConfig(**{**SMALL, "hidden": 128}, **GPT, position="alibi", embedding_norm=True),
}  # fmt: skip
PROMPTS = [{"ids_BT": torch.tensor([ids])} for ids in ([1, 2, 3, 4, 5], [7], list(range(16)))]


@pytest.fixture(params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_checkpoint(LanguageModel(CONFIGS[request.param]).initialise(0), tmp_path / "source", shard_bytes=9_000)
    return tmp_path / "source"


def test_logits_read_layer_by_layer_are_the_same(folder: Path) -> None:
    model = load_checkpoint(folder)
    streamed = streamed_logits(*filler_of(folder), PROMPTS, torch.float32)
    with torch.inference_mode():
        for prompt, logits in zip(PROMPTS, streamed, strict=True):
            assert torch.equal(logits, model(**prompt)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_converted_checkpoint_holds_the_rounded_numbers(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    (tmp_path / "target").mkdir()
    convert_checkpoint(folder, tmp_path / "target", dtype, shard_bytes=12_000)
    before, after = load_checkpoint(folder), load_checkpoint(tmp_path / "target")
    assert len(list((tmp_path / "target").glob("*.safetensors"))) > 1
    for name, weight in before.state_dict().items():
        assert after.state_dict()[name].dtype == dtype
        assert torch.equal(after.state_dict()[name], weight.to(dtype)), name


def test_a_number_the_type_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = LanguageModel(CONFIGS["gpt2"]).initialise(0)
    with torch.no_grad():
        model.trunk.norm.weight[3] = 1e6
    save_checkpoint(model, tmp_path / "source")
    (tmp_path / "target").mkdir()
    with pytest.raises(AthanorError, match=r"ln_f\.weight.*float16"):
        convert_checkpoint(tmp_path / "source", tmp_path / "target", torch.float16)


MEASURED = """
import json, sys, torch
from pathlib import Path
from athanor.models.convert import convert_checkpoint
from athanor.models.streamed import filler_of, streamed_logits
source, target = map(Path, sys.argv[1:])
# VmHWM and not ru_maxrss: that one begins at the memory of the process which started this one.
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
used = lambda: peak() * 1024
start = used()
target.mkdir()
convert_checkpoint(source, target, torch.float32, shard_bytes=200_000_000)
converted = used()
streamed_logits(*filler_of(source), [{"ids_BT": torch.arange(40)[None]}], torch.bfloat16)
print(json.dumps({"start": start, "converted": converted, "compared": used()}))
"""


@pytest.mark.slow
def test_converting_takes_less_memory_than_a_shard_and_a_half(tmp_path: Path) -> None:
    """A checkpoint of 1 GB in shards of 200 MB: its whole is never in memory, neither to convert nor to compare."""
    config = TransformerConfig(
        width=2_048, layers=10, heads=16, hidden=5_504, max_positions=512, vocabulary=16_000, tied=True
    )
    with torch.device("meta"):
        model = LanguageModel(config).bfloat16()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.02)
    save_checkpoint(model, tmp_path / "source", shard_bytes=200_000_000)
    del model
    shards = [path.stat().st_size for path in (tmp_path / "source").glob("*.safetensors")]
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "source"), str(tmp_path / "target")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak = json.loads(run.stdout)
    assert sum(shards) > 1e9 and len(shards) > 5
    assert peak["converted"] - peak["start"] < 1.5 * max(shards)
    assert peak["compared"] - peak["start"] < 1.5 * max(shards)
