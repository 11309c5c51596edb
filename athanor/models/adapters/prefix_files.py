"""Prefixes in PEFT's layout, in and out: one tensor, a row for every position.

A row holds keys and values of every layer one after the other: (P, L * 2 * K * H).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.models.adapters.layout import name_of_base, read_tensor, refuse_unknown, refuse_unlike
from athanor.models.adapters.prefix import PrefixAdapter
from athanor.models.families import Family

TENSOR = "prompt_embeddings"
USED = frozenset(
    "peft_type task_type num_virtual_tokens token_dim num_transformer_submodules num_attention_heads num_layers "
    "modules_to_save encoder_hidden_size prefix_projection init_weights base_model_name_or_path".split()
)


def read_prefix(
    record: Mapping[str, Any], header: Mapping[str, Any], path: Path, where: str, family: Family, config: Any
) -> PrefixAdapter:
    """The prefix that these settings and this file are; one learnt through a small network was stored as it made it."""
    refuse_unknown(record, USED, where)
    tokens = record.get("num_virtual_tokens")
    if type(tokens) is not int or tokens < 1:
        raise AthanorError(f"{where}: num_virtual_tokens={tokens!r}", allowed="a whole number from 1")
    refuse_unlike(header, {TENSOR}, path)
    shape = (config.layers, 2, config.key_heads, config.head_size)
    numbers = read_tensor(path, header, TENSOR, (tokens, shape[0] * 2 * shape[2] * shape[3]))
    kv_L2PKH = numbers.unflatten(1, shape).permute(1, 2, 0, 3, 4).contiguous()
    return PrefixAdapter(kv_L2PKH, base_name=name_of_base(record, where))


def tensors_of(adapter: PrefixAdapter) -> dict[str, Tensor]:
    """The only tensor."""
    return {TENSOR: adapter.numbers.permute(2, 0, 1, 3, 4).flatten(1)}


def their_settings(adapter: PrefixAdapter) -> dict[str, Any]:
    """The adapter_config.json that makes `peft` compute what we do."""
    layers, _, tokens, heads, size = adapter.numbers.shape
    return {
        "peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": adapter.base_name,
        "inference_mode": True, "num_virtual_tokens": tokens, "token_dim": heads * size,
        "num_attention_heads": heads, "num_layers": layers, "num_transformer_submodules": 1,
        "encoder_hidden_size": heads * size, "prefix_projection": False, "modules_to_save": None,
    }  # fmt: skip
