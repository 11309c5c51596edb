"""A checkpoint as one GGUF file that llama.cpp loads: names, settings and tokenizer translated, and read back.

Names and keys as llama.cpp reads them (`src/llama-arch.cpp`, `src/llama-model.cpp`, `src/llama-vocab.cpp`) and its
converter writes them (`conversion/`, `gguf-py/gguf/constants.py`).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import Regex, decoders, models, pre_tokenizers
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.base.tables import quantity
from athanor.inference.ggml import TYPES, NumberType
from athanor.inference.gguf import ALIGNMENT, GgufFile, TensorPlan, Value, write_gguf
from athanor.models.convert import Stored, fill, read_object, rows_of
from athanor.models.families import Family
from athanor.models.language import LanguageModel
from athanor.models.settings import read_config
from athanor.tokens.template import jinja_source
from athanor.tokens.tokenizer import DOCUMENT, END, PIECES, Tokenizer

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # family: llama.cpp's name
NAMES = {  # Hugging Face: llama.cpp
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
SETTINGS = {  # key after the architecture's name: our field
    "context_length": "max_positions", "embedding_length": "width", "block_count": "layers",
    "feed_forward_length": "hidden", "vocab_size": "vocabulary", "attention.head_count": "heads",
    "attention.head_count_kv": "key_heads", "attention.key_length": "head_size", "attention.value_length": "head_size",
    "attention.layer_norm_rms_epsilon": "norm_eps", "rope.dimension_count": "head_size", "rope.freq_base": "rope_base",
}  # fmt: skip
SAID = {*SETTINGS.values(), "kv_heads", "head_width", "tied"}  # fields of ours that the file says

# llama.cpp cuts text before merging by the law that `tokenizer.ggml.pre` names. Our pattern and Qwen's, which it calls
# "qwen2", cut alike: \s*[\r\n] and \s*[\r\n]+ both end at the last line end of a run of white space. What is left are
# two differences, found by comparing every character of Unicode (docs/design/003-export.md); text without them has
# the same ids.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
PRE = {PIECES: "qwen2", QWEN2: "qwen2"}
DIFFERENCES = (
    "letters and digits that Unicode 16 added (2024: 4,302 and 80, in scripts such as Garay and Todhri), which "
    "llama.cpp takes for signs; and an apostrophe before the old letter ſ (U+017F); no other text"
)
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # `enum llama_token_type`


def write_model(source: Path, target: Path, kind: NumberType, about: Mapping[str, str]) -> None:
    """Write the checkpoint of a folder (weights not quantised) as a GGUF file, tensor by tensor.

    Args:
        kind: the number type of the matrices; `type_of` says which tensors keep another.
        about: `general.` keys: name, description, license …

    Raises:
        AthanorError: llama.cpp has no such architecture, setting or tokenizer.
    """
    family, config = read_config(read_object(source / "config.json"), str(source / "config.json"))
    check_config(family, config)
    tokenizer = tokenizer_values(source)
    if len(tokenizer["tokenizer.ggml.tokens"]) != config.vocabulary:
        raise AthanorError(
            f"{source}: the tokenizer has {len(tokenizer['tokenizer.ggml.tokens'])} token ids, "
            f"the model {config.vocabulary}"
        )
    with torch.device("meta"):
        ours = LanguageModel(config).state_dict()
    stored = Stored(source)

    def plan(name: str, shape: tuple[int, ...]) -> TensorPlan:
        heads = heads_of(name, family, config)
        return TensorPlan(
            our_name(name), shape, type_of(name, shape, kind), lambda: turned(stored.read(name, shape), heads)
        )

    plans = [plan(name, shape) for name, shape in their_shapes(family, config, ours)]
    architecture, weights = ARCHITECTURES[family.name], sum(weight.numel() for weight in ours.values())
    values: dict[str, Value] = {
        "general.architecture": architecture, "general.type": "model",
        "general.size_label": quantity(weights).replace(" ", ""),
        **{f"general.{key}": text for key, text in about.items()},
        "general.file_type": kind.file_code, "general.quantization_version": 2, "general.alignment": ALIGNMENT,
        **{f"{architecture}.{key}": getattr(config, field) for key, field in SETTINGS.items()}, **tokenizer,
    }  # fmt: skip
    write_gguf(target, values, plans)


def read_model(file: GgufFile, folder: Path) -> LanguageModel:
    """The network of `folder`'s config.json filled with a GGUF file's weights, in float32."""
    family, config = read_config(read_object(folder / "config.json"), str(folder / "config.json"))
    with torch.device("meta"):
        model = LanguageModel(config)
    model = model.to(torch.float32).to_empty(device="cpu")
    fill(model, family, GgufTensors(file, family, config))  # type: ignore[arg-type]
    return model.eval()


class GgufTensors:
    """A GGUF file's tensors under their Hugging Face names; what `fill` asks of a folder of safetensors."""

    def __init__(self, file: GgufFile, family: Family, config: Any):
        self.file, self.family, self.config = file, family, config
        with torch.device("meta"):
            ours = LanguageModel(config).state_dict()
        known = {our_name(name): name for name, _ in their_shapes(family, config, ours)}
        self.places = {known.get(name, name): name for name in file.tensors}

    def where(self, name: str) -> str:
        """File and tensor, for messages."""
        return f"{self.file.path}: {self.places[name]}"

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor, of the shape asked for and finite."""
        if name not in self.places:
            raise AthanorError(f"{self.file.path}: the tensor {name} is missing")
        tensor = self.file.read(self.places[name])
        if tuple(tensor.shape) != shape or not bool(tensor.isfinite().all()):
            raise AthanorError(f"{self.where(name)} is not finite, or not of shape {list(shape)}")
        return unturned(tensor, heads_of(name, self.family, self.config))


# -------------------------------------------------------------------------------------------------------- the tensors


def check_config(family: Family, config: Any) -> None:
    """Refuse a network of which llama.cpp's keys cannot say everything."""
    if family.name not in ARCHITECTURES:
        raise AthanorError(f"a {family.name} model cannot be exported as GGUF yet", allowed=", ".join(ARCHITECTURES))
    plain = {field.name: field.default for field in fields(config)} | dict(family.fixed)
    complete = config.complete()
    odd = [name for name, value in plain.items() if name not in SAID and getattr(complete, name) != value]
    if odd:
        raise AthanorError(
            f"the GGUF keys of {family.name} that we write cannot say {odd[0]}={getattr(complete, odd[0])!r}",
            allowed=f"{odd[0]}={plain[odd[0]]!r}", fix="athanor export --to hf",
        )  # fmt: skip


def their_shapes(family: Family, config: Any, ours: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Hugging Face name and shape of every tensor of a network."""
    for name, row, their_names in rows_of(family, ours):
        for their_name, place in zip(their_names, row.pieces(config, ours[name]), strict=True):
            yield their_name, row.stored_shape(config, place)


def our_name(name: str) -> str:
    """llama.cpp's name of a Hugging Face tensor: model.layers.3.mlp.up_proj.weight is blk.3.ffn_up.weight."""
    stem, _, last = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.{last}"
    layer, _, rest = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[rest]}.{last}"


def type_of(name: str, shape: tuple[int, ...], kind: NumberType) -> NumberType:
    """The number type a tensor is stored in.

    Vectors stay F32, as in all GGUF files. A matrix whose rows are no whole blocks becomes F16, as with llama.cpp's
    converter. Embedding and head keep 8 bits in a Q4_0 file, as in our own INT4.
    """
    if len(shape) == 1:
        return TYPES["F32"]
    if shape[-1] % kind.numbers:
        return TYPES["F16"]
    if kind.name == "Q4_0" and name in ("model.embed_tokens.weight", "lm_head.weight"):
        return TYPES["Q8_0"]
    return kind


def heads_of(name: str, family: Family, config: Any) -> int | None:
    """How many heads of a tensor are to be turned: llama.cpp's `llama` rotates neighbours, the others halves."""
    if ARCHITECTURES[family.name] != "llama":
        return None
    return {"q_proj": config.heads, "k_proj": config.key_heads}.get(name.split(".")[-2])


def turned(weight: Tensor, heads: int | None) -> Tensor:
    """Rows of each head from halves (r0 r1 … i0 i1 …) to neighbours (r0 i0 r1 i1 …)."""
    return weight if heads is None else weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def unturned(weight: Tensor, heads: int | None) -> Tensor:
    """The reverse of `turned`."""
    return weight if heads is None else weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


# ------------------------------------------------------------------------------------------------------ the tokenizer


def tokenizer_values(folder: Path) -> dict[str, Any]:
    """The `tokenizer.` keys for a folder's tokenizer files.

    Raises:
        AthanorError: the tokenizer does something that llama.cpp's byte-level BPE would not do.
    """
    saved = read_object(folder / "tokenizer.json")
    core = saved["model"]
    wrong = next((f"{key}={core[key]!r}" for key in ("dropout", "unk_token", "continuing_subword_prefix",
                  "end_of_word_suffix", "byte_fallback", "ignore_merges") if core.get(key)), None)  # fmt: skip
    if core.get("type") != "BPE" or wrong or saved.get("normalizer"):
        raise AthanorError(
            f"{folder}/tokenizer.json: llama.cpp has no tokenizer like this ({wrong or core.get('type')})",
            allowed="byte-level BPE without a normalizer", fix="athanor export --to hf",
        )  # fmt: skip
    tokens = [""] * Tokenizer.load(folder).vocabulary
    types = [NORMAL] * len(tokens)
    for token, index in core["vocab"].items():
        tokens[index] = token
    for added in saved.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else pair for pair in core["merges"]]
    special = Tokenizer.load(folder).special
    chosen = {"bos": special[DOCUMENT], "eos": special[END], "eot": special[END], "padding": special[END]}
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre_name(saved.get("pre_tokenizer"), folder),
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in pairs],
        **{f"tokenizer.ggml.{name}_token_id": index for name, index in chosen.items()},
        "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": jinja_source(),
    }  # fmt: skip


def pre_name(told: Any, folder: Path) -> str:
    """What llama.cpp calls the way this tokenizer cuts text."""
    for pattern, name in PRE.items():
        if _plain(told) == _plain(json.loads(pre_tokenizer(pattern).__getstate__())):
            return name
    raise AthanorError(
        f"{folder}/tokenizer.json cuts text in a way that no pre-tokenizer of llama.cpp is known to equal: "
        "its token ids would differ, and so would every answer",
        allowed="the pattern of `athanor run` or of Qwen2", fix="athanor export --to hf",
    )  # fmt: skip


def _plain(told: Any) -> Any:
    """A pre-tokenizer's settings without the one that concerns offsets only."""
    if isinstance(told, dict):
        return {key: _plain(value) for key, value in told.items() if key != "trim_offsets"}
    return [_plain(one) for one in told] if isinstance(told, list) else told


def pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Text cut by a pattern, then spelled in GPT-2's letters for bytes."""
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip


def read_tokenizer(values: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's values describe, cutting text by llama.cpp's own pattern."""
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in values["tokenizer.ggml.merges"]]
    core = tokenizers.Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    assert values["tokenizer.ggml.pre"] == PRE[QWEN2]
    core.pre_tokenizer = pre_tokenizer(QWEN2)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL])
    return Tokenizer(core)
