"""Adapters that arrive and leave: the step `import_adapter`, the PEFT folder, and the merged checkpoint.

An artifact of kind `adapter` is a folder that `peft` loads, made for the model that is its parent. Whatever is written
is read again, put beside that model, and run: the receipt holds what came of it.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

import athanor
from athanor.base.errors import EXIT_REFUSED, AthanorError
from athanor.base.files import hash_file, hash_json, write_json
from athanor.base.progress import Progress
from athanor.base.settings import Settings
from athanor.inference import equivalence
from athanor.inference.dequantize import dequantize_checkpoint, is_quantized
from athanor.inference.quantize import load_model, read_family
from athanor.models.adapters.attach import AnyAdapter, attach, drop, merge
from athanor.models.adapters.files import read_adapter, save_adapter, with_base
from athanor.models.adapters.layout import CONFIG, WEIGHTS
from athanor.models.convert import Stored, load_checkpoint, refuse_pickles, save_checkpoint
from athanor.store.artifact import RESUME, Artifact, Store, weights_hash
from athanor.tokens.chat import generation_of, jinja_of

RECEIPT, CARD = "receipt.json", "README.md"
KIND, BASE = "adapter", "base"
SMALL_BYTES = 4_000_000_000  # of stored weights; up to here models are run in float32, above in the type they have
LOST_NOTHING = 1e-6  # nats; what merging in float32 may change
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


# ----------------------------------------------------------------------------------------------------------- arriving


class ImportAdapterSettings(Settings):
    """What to import."""

    path: str
    """A folder that holds adapter_config.json and adapter_model.safetensors."""


def fingerprint(settings: ImportAdapterSettings) -> str:
    """A hash that changes whenever a file of the adapter does."""
    return hash_json(file_hashes(folder_of(settings.path)))


def import_adapter(
    settings: ImportAdapterSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write the adapter anew, and compare what was written with what was given, both beside the base model.

    Raises:
        AthanorError: a pickle, a setting or tensor that is not as it should be, or an adapter of another model.
    """
    source, base = folder_of(settings.path), parents[BASE]
    base.verify()
    progress.start("reading the adapter", None, "")
    family, config = read_family(base.path)
    adapter = read_adapter(source, family, config)
    weights = weights_hash(base)
    if adapter.base not in (None, weights):
        raise AthanorError(
            f"{source}: the adapter was made for weights {adapter.base}, {base.id} has {weights}",
            fix="name the model that it was made for with --base",
        )
    save_adapter(with_base(adapter, weights, public_name(adapter.base_name)), folder, family, config)
    progress.start("running it beside the base, as given and as written", None, "")
    again = read_adapter(folder, family, config)
    receipt = {
        "how": "both folders were read and run beside the base; `adapted` compares the base alone with the adapter",
        "source": {"files": file_hashes(source)},
        "base": {"model": base.id, "weights": weights},
        **run_beside(base.path, {"given": adapter, "written": again}),
    }
    refuse_unequal(receipt["logits"])
    write_json(folder / RECEIPT, receipt)
    progress.finish()
    return {
        "parameters": sum(one.a_RK.numel() + one.b_PR.numel() for one in adapter.pieces.values()),
        "pieces": len(adapter.pieces),
        "rank": adapter.settings.rank,
        "source": file_hashes(source),
        "weights_of_base": weights,
    }


def folder_of(path: str) -> Path:
    """The folder of an adapter, if it can be one.

    Raises:
        AthanorError: it is missing, holds a pickle, or is no adapter.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise AthanorError(f"there is no folder {folder}", fix=f"name the folder that holds {CONFIG}")
    refuse_pickles(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise AthanorError(f"{folder} holds no {name}: it is no PEFT adapter", fix=f"name one that holds {CONFIG}")
    return folder


# ------------------------------------------------------------------------------------------------------------ leaving


def refuse_others(artifact: Artifact | None, folder: Path, kind: str | None, dequantize: bool) -> Artifact:
    """The artifact, if it is an adapter that can leave in PEFT's layout."""
    if artifact is None or artifact.kind != KIND:
        raise AthanorError(
            f"{artifact.id if artifact else folder} is a whole model, not an adapter",
            allowed="an artifact adapter-… for --to peft",
            fix="athanor import ADAPTER_FOLDER --base MODEL makes one; a whole model leaves with --to hf or --to gguf",
        )
    if kind is not None or dequantize:
        given = f"--type {kind.lower()}" if kind else "--dequantize"
        raise AthanorError(
            f"{given} with --to peft", allowed="neither: the matrices leave as they are, and the base stays"
        )
    return artifact


def to_peft(artifact: Artifact, result: Path, licence: str | None, progress: Progress) -> dict[str, Any]:
    """A folder that `peft` loads beside the base model: matrices, settings, card and receipt."""
    base = base_of(artifact)
    progress.start("writing the adapter", None, "")
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(artifact.file(name), result / name)
    progress.start("reading it again and running it beside the base", None, "")
    family, config = read_family(base.path)
    adapters = {
        "stored": read_adapter(artifact.path, family, config), "exported": read_adapter(result, family, config)
    }  # fmt: skip
    receipt = {
        "format": "peft", "how": "the folder was read again by Athanor's own reader and run beside the base",
        "athanor": athanor.__version__, "torch": torch.__version__,
        "source": {"adapter": artifact.id, "base": base.id, "weights": weights_hash(base)},
        **run_beside(base.path, adapters),
    }  # fmt: skip
    refuse_unequal(receipt["logits"])
    (result / CARD).write_text(card(artifact, base, adapters["exported"], licence), encoding="utf-8")
    files = {path.name: {"bytes": path.stat().st_size, "hash": hash_file(path)} for path in sorted(result.iterdir())}
    receipt = {**receipt, "files": files}
    write_json(result / RECEIPT, receipt)
    progress.finish()
    return receipt


def merge_checkpoint(
    artifact: Artifact, dense: Path, target: Path, dtype: torch.dtype, generation: Mapping[str, int]
) -> dict[str, Any]:
    """Fold an adapter into its base's weights and write them as an ordinary checkpoint.

    Args:
        dense: the base as an ordinary checkpoint.
        dtype: number type of the merged weights.

    Returns:
        for the receipt: the adapter beside the base, compared with the merged weights read again.

    Raises:
        AthanorError (exit code 3): nothing should be lost, and something was.
    """
    compute = compute_type(dense)
    tokenizer = equivalence.open_tokenizer(base_of(artifact).path)
    family, config = read_family(dense)
    model = load_checkpoint(dense, dtype=compute)
    stored = next(model.parameters()).dtype
    attach(model, family, read_adapter(artifact.path, family, config), KIND)
    beside = equivalence.observe(model, tokenizer)
    save_checkpoint(merge(model, KIND).to(dtype), target, generation=generation, family=family.name)
    del model
    after = equivalence.observe(load_checkpoint(target, dtype=compute), tokenizer)
    logits = equivalence.compare_behaviour(beside, after)
    if dtype == stored == torch.float32 and not logits["kl_mean"] <= LOST_NOTHING:
        raise AthanorError(
            f"the merged model was refused: its mean KL from the adapter beside its base is {logits['kl_mean']:.2g}",
            allowed=f"{LOST_NOTHING:g}", code=EXIT_REFUSED,
        )  # fmt: skip
    return {
        "how": "the adapter's product was added to the weights of its base; `logits` compares the result with the "
        "adapter beside the base, so it holds what rounding to the stored type changed",
        "adapter": artifact.id, "base": artifact.record["parents"][BASE], "type": str(dtype).removeprefix("torch."),
        "files": {name: artifact.record["files"][name]["hash"] for name in (CONFIG, WEIGHTS)}, "logits": logits,
    }  # fmt: skip


class MergeSettings(Settings):
    """How an adapter becomes a part of the weights."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Number type of the merged weights; unset: that of the base, of an INT4 base float32."""


def merge_adapter(
    settings: MergeSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write the base's weights with the adapter folded in, and receipt.json: merged against adapter beside base.

    Raises:
        AthanorError (exit code 3): nothing should be lost, and something was.
    """
    adapter, base = parents["adapter"], parents[BASE]
    for artifact in (adapter, base):
        artifact.verify()
    progress.start("folding the adapter into the weights", None, "")
    tokenizer = equivalence.open_tokenizer(base.path)
    generation = generation_of(base.path, tokenizer)
    dense = base.path
    if is_quantized(base.path):
        dense = folder / RESUME / "dense"
        shutil.rmtree(dense, ignore_errors=True)
        dequantize_checkpoint(base.path, dense, generation)
        tokenizer.save(dense, jinja_of(tokenizer))
    stored = Stored(dense).dtype()
    dtype = stored if settings.dtype is None else getattr(torch, settings.dtype)
    receipt = merge_checkpoint(adapter, dense, folder, dtype, generation)
    tokenizer.save(folder, jinja_of(tokenizer))
    write_json(folder / RECEIPT, receipt)
    progress.finish()
    logits = receipt["logits"]
    return {"max_logit_difference": logits["max_logit_difference"], "kl_mean": logits["kl_mean"]}


# ------------------------------------------------------------------------------------------------------------ helpers


def run_beside(folder: Path, adapters: Mapping[str, AnyAdapter]) -> dict[str, Any]:
    """Run a model alone and with each of two adapters.

    Returns:
        `logits`: the first adapter compared with the second; `adapted`: the model alone compared with the first.
    """
    tokenizer = equivalence.open_tokenizer(folder)
    family, _ = read_family(folder)
    # The packed kernel gives away the codes, which a decomposed adapter needs.
    model = load_model(folder, dtype=compute_type(folder), kernel="plain" if is_quantized(folder) else None)
    seen = [equivalence.observe(model, tokenizer)]
    for name, adapter in adapters.items():
        attach(model, family, adapter, name)
        seen.append(equivalence.observe(model, tokenizer))
        drop(model, name)
    return {
        "computed_in": str(compute_type(folder) or "the stored type").removeprefix("torch."),
        "logits": equivalence.compare_behaviour(seen[1], seen[2]),
        "adapted": equivalence.compare_behaviour(seen[0], seen[1]),
    }


def refuse_unequal(logits: Mapping[str, Any]) -> None:
    """Refuse an adapter that does not compute what the one it was made from does."""
    if logits["max_logit_difference"] != 0:
        raise AthanorError(
            f"the result was refused: its logits differ by {logits['max_logit_difference']:.3g}",
            allowed="0", code=EXIT_REFUSED,
        )  # fmt: skip


def base_of(artifact: Artifact) -> Artifact:
    """The model that an adapter was made for, its bytes verified."""
    store, name = Store(artifact.path.parent.parent), artifact.record["parents"][BASE]
    if not store.has(name):
        raise AthanorError(
            f"{artifact.id} was made for {name}, which is not in the store", fix=f"import that model again: {name}"
        )
    base = store.get(name)
    base.verify()
    return base


def compute_type(folder: Path) -> torch.dtype | None:
    """The number type to run a model in: float32 for small ones, else as stored."""
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return torch.float32 if stored <= SMALL_BYTES else None


def file_hashes(folder: Path) -> dict[str, str]:
    """Name and hash of the files that make an adapter; others in the folder are not read."""
    return {name: hash_file(folder / name) for name in (CONFIG, WEIGHTS)}


def public_name(given: str | None) -> str | None:
    """What a base model is called where models are published; a path of somebody's disk is left out."""
    return given if given is not None and HUB_NAME.fullmatch(given) else None


def card(artifact: Artifact, base: Artifact, adapter: AnyAdapter, licence: str | None) -> str:
    """README.md of an adapter."""
    settings = adapter.settings
    kind = "DoRA" if settings.decomposed else "LoRA"
    rows = [("base", base.id), ("weights of the base", weights_hash(base)), ("rank", settings.rank),
            ("alpha", settings.alpha), ("scale", "alpha / sqrt(rank)" if settings.rank_stabilised else "alpha / rank"),
            ("layers adapted", len(adapter.pieces))]  # fmt: skip
    named = f"base_model: {adapter.base_name}\n" if adapter.base_name else ""
    head = f"---\nlicense: {licence or 'unknown'}\nlibrary_name: peft\n{named}tags: [athanor, lora]\n---\n\n"
    about = (
        f"# {artifact.id}\n\nA {kind} adapter, exported by Athanor {athanor.__version__}. It changes {base.id} and "
        "fits no other model.\n\n"
    )
    use = (
        "## Use\n\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f"model = AutoModelForCausalLM.from_pretrained(BASE)  # athanor export {base.id} --to hf --out BASE\n"
        'model = PeftModel.from_pretrained(model, ".")\n```\n\n'
    )
    figures = "| | |\n| --- | --- |\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)
    return head + about + use + figures
