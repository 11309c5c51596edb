"""Quantised models: made by round to nearest, stored, loaded, compared. The numbers themselves are in `int4.py`.

A quantised checkpoint is a folder with config.json (as Hugging Face writes it, plus `quantization_config`) and
`model.athanor-int4.safetensors`, which holds for every quantised weight NAME (our names, as in `LanguageModel`)

    NAME.codes   uint8 (N, K / 2): column 2j in the low half of a byte, 2j + 1 in the high half; int8 (N, K) for INT8
    NAME.scale   bfloat16 (N, K / group), or (N,) for INT8: w = code * scale
    NAME.zero    bfloat16 (N, K / group); INT4 only

and every other tensor under its own name. A tied embedding and head are stored once.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.inference.blanks import Blanks, continued, inputs
from athanor.inference.int4 import (
    GROUP_SIZES,
    KERNELS,
    Int4Linear,
    Int8Linear,
    Kernel,
    QuantizedEmbedding,
    quantize_int4,
    quantize_int8,
)
from athanor.models.config import TransformerConfig
from athanor.models.convert import Stored, fill_one, load_checkpoint, read_object, refuse_pickles, rows_of, write_object
from athanor.models.families import Family
from athanor.models.language import LanguageModel
from athanor.models.settings import family_of, read_config, their_config

METHOD, WEIGHTS = "athanor-int4", "model.athanor-int4.safetensors"


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How weights are stored: columns per group, one zero per group or none, bits of embedding and head."""

    group_size: int = 32
    symmetric: bool = False
    embedding_bits: int = 8
    head_bits: int = 8

    def __post_init__(self) -> None:
        if self.group_size not in GROUP_SIZES or isinstance(self.group_size, bool):
            raise AthanorError(f"group_size={self.group_size!r}", allowed=", ".join(map(str, GROUP_SIZES)))
        for name in ("embedding_bits", "head_bits"):
            if getattr(self, name) not in (4, 8):
                raise AthanorError(f"{name}={getattr(self, name)!r}", allowed="4 or 8")
        if not isinstance(self.symmetric, bool):
            raise AthanorError(f"symmetric={self.symmetric!r}", allowed="true or false")

    def bits(self, name: str, config: TransformerConfig) -> int | None:
        """Bits of one of our tensors; None: it stays as it is (norms, biases, routers, positions)."""
        if name == "tokens.weight":
            return max(self.embedding_bits, self.head_bits) if config.tied else self.embedding_bits
        if name == "head.weight":
            return self.head_bits
        matrix = name.startswith("trunk.blocks.") and name.endswith(".weight")
        return 4 if matrix and "norm" not in name and "router" not in name else None


def quantize_model(model: LanguageModel, settings: Quantization | None = None) -> LanguageModel:
    """A new model with the same weights in INT4, computing with the `plain` kernel; the given one is left alone."""
    settings = settings or Quantization()
    tensors = dict(_quantize_all(model.state_dict().items(), model.config, settings))
    return _assemble(model.config, tensors, settings, model.trunk.blocks[0].attention_norm.weight.dtype)


def quantize_checkpoint(source: Path, target: Path, settings: Quantization | None = None) -> dict[str, Any]:
    """Quantise a Hugging Face checkpoint tensor by tensor: the whole model is never in memory.

    Returns:
        bits_per_weight and bytes of what was written.
    """
    settings = settings or Quantization()
    refuse_pickles(source)
    family, config = read_config(read_object(source / "config.json"), str(source / "config.json"))
    stored = Stored(source)
    with torch.device("meta"):
        ours = LanguageModel(config).state_dict()

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, row, their_names in rows_of(family, ours):
            weight = torch.empty(ours[name].shape, dtype=stored.dtype_of(their_names[0]))
            fill_one(weight, row, their_names, config, stored)
            yield name, weight

    return _write(dict(_quantize_all(weights(), config, settings)), config, settings, target, stored.dtype())


def save_quantized(model: LanguageModel, folder: Path) -> dict[str, Any]:
    """Write a model made by `quantize_model`; see the head of this file for the layout.

    Raises:
        AthanorError: the model is not quantised, or its kernel has given the codes away.
    """
    settings = getattr(model, "quantization", None)
    if settings is None:
        raise AthanorError("the model is not quantised", fix="call quantize_model first")
    tensors = model.state_dict()
    if any(isinstance(module, Int4Linear) and module.codes is None for module in model.modules()):
        raise AthanorError("the model's kernel has given its codes away", fix="load it with kernel='plain' to save it")
    named = {}
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        if model.config.tied and stem == "head":
            continue
        named[f"{stem}.weight.{last}" if last in ("codes", "scale", "zero") else name] = tensor
    return _write(named, model.config, settings, folder, model.trunk.blocks[0].attention_norm.weight.dtype)


def load_model(
    folder: Path, dtype: torch.dtype | None = None, kernel: Kernel | None = None, device: str | torch.device = "cpu"
) -> LanguageModel:
    """Load a Hugging Face checkpoint or one of our INT4 ones, whichever the folder holds.

    Args:
        dtype: number type of the stream between the layers (and of unquantised weights); None: as stored.
        kernel: for INT4; None: `packed` where torch's operator takes the layer, `plain` elsewhere. `kernels(model)`
            tells what was taken.
    Raises:
        AthanorError: the folder is neither, is damaged, or the kernel cannot run a layer.
    """
    folder = Path(folder)
    record = read_object(folder / "config.json")
    told = record.pop("quantization_config", None)
    if told is None:
        if kernel is not None:
            raise AthanorError(f"{folder} is not quantised: kernel={kernel!r} has no meaning", fix="leave kernel out")
        return load_checkpoint(folder, dtype, device)
    settings = _read_settings(told, folder)
    refuse_pickles(folder)
    _, config = read_config(record, str(folder / "config.json"))
    tensors = _read_tensors(folder / WEIGHTS, config, settings)
    model = _assemble(config, tensors, settings, dtype or tensors["trunk.blocks.0.attention_norm.weight"].dtype).to(
        device
    )
    set_kernel(model, kernel)
    return model


def read_family(folder: Path) -> tuple[Family, Any]:
    """The family and config of a checkpoint, quantised or not."""
    record = read_object(folder / "config.json")
    record.pop("quantization_config", None)
    return read_config(record, str(folder / "config.json"))


def set_kernel(model: LanguageModel, kernel: Kernel | None) -> None:
    """Choose how a quantised model that computes `plain` computes from now on; None as in `load_model`."""
    if kernel is not None and kernel not in KERNELS:
        raise AthanorError(f"kernel={kernel!r}", allowed=", ".join(KERNELS))
    for name, module in model.named_modules():
        if isinstance(module, Int4Linear):
            if kernel == "packed" and not module.can_pack():
                raise AthanorError(f"{name} cannot use the packed kernel", allowed="plain or unpacked, on this device")
            module.use(kernel or ("packed" if module.can_pack() else "plain"))


def kernels(model: nn.Module) -> dict[str, int]:
    """How many linear layers compute by which kernel: to be shown, so that nothing is chosen in silence."""
    names = [module.kernel for module in model.modules() if isinstance(module, Int4Linear)]
    names += ["int8" for module in model.modules() if isinstance(module, Int8Linear)]
    names += [str(module.weight.dtype)[6:] for module in model.modules() if isinstance(module, nn.Linear)]
    return dict(sorted(Counter(names).items()))


def _quantize_all(
    weights: Iterable[tuple[str, Tensor]], config: TransformerConfig, settings: Quantization
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor as it is stored, one weight at a time."""
    for name, weight in weights:
        bits = settings.bits(name, config)
        if bits is None:
            yield name, weight.detach().clone()
            continue
        if bits == 8:
            codes = quantize_int8(weight)
        else:
            codes = quantize_int4(weight, settings.group_size, settings.symmetric, name)
        for part, tensor in codes.items():
            yield f"{name}.{part}", tensor


def _assemble(
    config: TransformerConfig, tensors: Mapping[str, Tensor], settings: Quantization, dtype: torch.dtype
) -> LanguageModel:
    """A model whose matrices are replaced by quantised modules."""
    with torch.device("meta"):
        model = LanguageModel(config)
    if config.tied:  # one set of codes serves as embedding and as head
        tensors = {**tensors, **{f"head.weight.{part}": t for part, t in _parts(tensors, "tokens.weight").items()}}
    names = [name.removesuffix(".codes") for name in tensors if name.endswith(".codes")]
    for name in names:
        owner_name, _, child = name.removesuffix(".weight").rpartition(".")
        parts, bias = _parts(tensors, name), tensors.get(name.removesuffix("weight") + "bias")
        bias = None if bias is None else bias.to(dtype)
        made: nn.Module
        if name == "tokens.weight":
            made = QuantizedEmbedding(parts, dtype)
        else:
            made = Int4Linear(parts, bias) if "zero" in parts else Int8Linear(parts, bias)
        setattr(model.get_submodule(owner_name), child, made)
    for name, tensor in tensors.items():
        stem = name.rpartition(".")[0]
        if not stem.endswith(".weight") and f"{stem}.weight.codes" not in tensors:
            setattr(model.get_submodule(stem), name.rpartition(".")[2], nn.Parameter(tensor.to(dtype), False))
    model.quantization = settings
    return model.eval().requires_grad_(False)


def _parts(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {part: tensors[f"{name}.{part}"] for part in ("codes", "scale", "zero") if f"{name}.{part}" in tensors}


def _write(
    tensors: dict[str, Tensor], config: TransformerConfig, settings: Quantization, folder: Path, dtype: torch.dtype
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    told = {"quant_method": METHOD, **{name: getattr(settings, name) for name in settings.__dataclass_fields__}}
    record = their_config(family_of(config), config, str(dtype).removeprefix("torch."))
    write_object(folder / "config.json", {**record, "quantization_config": told})
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in LanguageModel(config).parameters())
    size = sum(tensor.nbytes for tensor in tensors.values())
    return {"bytes": size, "bits_per_weight": round(8 * size / weights, 3)}


def _read_settings(told: Any, folder: Path) -> Quantization:
    """`quantization_config` of config.json, refused by name when it is not ours."""
    method = told.get("quant_method") if isinstance(told, dict) else told
    if method != METHOD:
        raise AthanorError(f"{folder}: quantization method {method!r} is not known", allowed=f"{METHOD}, or none")
    known = {key: value for key, value in told.items() if key != "quant_method"}
    unknown = sorted(set(known) - set(Quantization.__dataclass_fields__))
    if unknown:
        raise AthanorError(f"{folder}: quantization_config has the unknown key {unknown[0]!r}",
                           allowed=", ".join(Quantization.__dataclass_fields__))  # fmt: skip
    return Quantization(**known)


def _read_tensors(path: Path, config: TransformerConfig, settings: Quantization) -> dict[str, Tensor]:
    """All tensors of the file; each must be the one that the config asks for, in shape, type and finiteness."""
    if not path.is_file():
        raise AthanorError(f"{path} is missing")
    try:
        tensors = load_file(path)
    except SafetensorError as problem:
        raise AthanorError(f"{path}: {problem}", fix="the file is damaged: make it again") from problem
    wanted = _wanted(config, settings)
    wrong = sorted(set(tensors) ^ set(wanted))
    if wrong:
        raise AthanorError(f"{path}: the tensor {wrong[0]} {'is missing' if wrong[0] in wanted else 'does not belong'}")
    for name, (shape, dtypes) in wanted.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype not in dtypes:
            raise AthanorError(f"{path}: {name} is {tensor.dtype} of shape {list(tensor.shape)}",
                               allowed=f"{dtypes[0]} of shape {list(shape)}")  # fmt: skip
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise AthanorError(f"{path}: {name} holds a number that is not finite (NaN or infinite)")
    return tensors


def _wanted(config: TransformerConfig, settings: Quantization) -> dict[str, tuple[tuple[int, ...], tuple[Any, ...]]]:
    """Shape and types of every tensor that a quantised checkpoint of this config holds."""
    with torch.device("meta"):
        ours = LanguageModel(config).state_dict()
    wanted: dict[str, tuple[tuple[int, ...], tuple[Any, ...]]] = {}
    for name, weight in ours.items():
        bits = settings.bits(name, config)
        if bits is None:
            wanted[name] = (tuple(weight.shape), (torch.bfloat16, torch.float32, torch.float16))
            continue
        rows, columns = weight.shape
        if bits == 8:
            wanted[f"{name}.codes"] = ((rows, columns), (torch.int8,))
            wanted[f"{name}.scale"] = ((rows,), (torch.bfloat16,))
            continue
        wanted[f"{name}.codes"] = ((rows, columns // 2), (torch.uint8,))
        for part in ("scale", "zero"):
            wanted[f"{name}.{part}"] = ((rows, columns // settings.group_size), (torch.bfloat16,))
    return wanted


# ---------------------------------------------------------------------------------------------------- the receipt


@torch.inference_mode()
def compare(
    model_a: LanguageModel, model_b: LanguageModel, batches: Iterable[Tensor], blanks: Blanks | None = None
) -> dict[str, float]:
    """How far model_b's next-token distributions are from model_a's, over all positions of the batches.

    Args:
        batches: token ids (B, T), all of them real (no padding).
        blanks: special tokens of networks that fill in blanks: each row's first token is the context, the rest is
            written in place of [gMASK].
    Returns:
        kl_mean and kl_p99: mean and 99th percentile of KL(a || b) in nats; top1_agreement: share of positions with the
        same likeliest token; tokens: how many positions.
    """
    divergences, agreements = [], []
    for ids_BT in batches:
        for row in ids_BT.split(1):  # one row of logits at a time
            ids, first = continued(row[0].tolist(), 1, blanks)
            read = {name: tensor.to(row.device) for name, tensor in inputs(model_a.config, [ids], blanks).items()}
            a_TV = model_a(**read)[0, first - 1 :].log_softmax(-1)
            b_TV = model_b(**read)[0, first - 1 :].log_softmax(-1)
            divergences.append((a_TV.exp() * (a_TV - b_TV)).sum(-1))
            agreements.append(a_TV.argmax(-1) == b_TV.argmax(-1))
    if not divergences:
        raise AthanorError("there is nothing to compare the models on", fix="give at least one batch of token ids")
    divergence, agreement = torch.cat(divergences).clamp_min(0), torch.cat(agreements)
    place = min(len(divergence) - 1, int(0.99 * len(divergence)))
    return {
        "kl_mean": divergence.mean().item(), "kl_p99": divergence.sort().values[place].item(),
        "top1_agreement": agreement.float().mean().item(), "tokens": len(divergence),
    }  # fmt: skip
