"""Taking a model out of the store: a Hugging Face folder with a model card, or a GGUF file, each with its receipt.

An adapter leaves in PEFT's layout, or folded into the weights of its base (`recipes/adapters.py`).

What is written is read again and compared before it gets its name; a result that is not what it was made from is
deleted. Nothing half written is ever left under the name that was asked for.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

import athanor
from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error, hash_file, sync_file, sync_folder, write_json
from athanor.base.progress import Progress
from athanor.base.tables import quantity, size
from athanor.inference import equivalence, gguf_unigram
from athanor.inference.dequantize import dequantize_checkpoint, is_quantized
from athanor.inference.ggml import TYPES
from athanor.inference.gguf import GgufFile
from athanor.inference.gguf_model import gguf_filler, read_model, write_model
from athanor.inference.gguf_pieces import KIND as PIECES_KIND
from athanor.inference.gguf_tokenizer import alike, differences, read_tokenizer
from athanor.models.config import TransformerConfig
from athanor.models.convert import INDEX, Stored, convert_checkpoint, read_object
from athanor.models.language import LanguageModel
from athanor.models.seq2seq import EncoderDecoder
from athanor.models.streamed import Fill, filler_of
from athanor.recipes import export_onnx
from athanor.recipes.adapters import KIND, base_of, merge_checkpoint, refuse_others, to_peft
from athanor.recipes.card import model_card
from athanor.recipes.import_model import TOKENIZER_FILES
from athanor.store.artifact import Artifact
from athanor.tokens.chat import generation_of, jinja_of
from athanor.tokens.tokenizer import Tokenizer

PLAIN_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Source:
    """The model to be exported.

    Attributes:
        folder: its checkpoint.
        artifact: its record, if it comes from a store.
        dense: the same weights as an ordinary checkpoint; the folder itself, unless it was quantised, or an adapter is
            folded into them.
        merged: what the receipt says about the adapter, if the artifact is one; the folder is then its base's.
    """

    folder: Path
    artifact: Artifact | None
    dense: Path
    tokenizer: Tokenizer
    merged: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The artifact's name, or the folder's."""
        return self.artifact.id if self.artifact else self.folder.resolve().name

    @property
    def parameters(self) -> int:
        """How many weights are stored."""
        return Stored(self.dense).numbers


def export(
    folder: Path, artifact: Artifact | None, target: Path, *, to: str, kind: str | None, dequantize: bool,
    licence: str | None, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Write a model as `to` ('hf', 'gguf', 'onnx' or 'peft') at `target`, and return the receipt that stands beside it.

    Args:
        artifact: its record; one of an adapter leaves as it is ('peft') or folded into its base.
        kind: number type, a name of TYPES; None: the one the weights are stored in.
        dequantize: allows an INT4 model, as the numbers that its codes stand for.
        licence: what the owner says; it goes into the model card and the GGUF keys.

    Raises:
        AthanorError: the model, the type or the target cannot be used; exit code 3: the result is not equal.
    """
    check_target(target, to, kind)
    if to == "peft":
        adapter = refuse_others(artifact, folder, kind, dequantize)
        return written(target, to, lambda work: to_peft(adapter, work / "result", licence, progress))
    base = base_of(artifact) if artifact is not None and artifact.kind == KIND else artifact
    folder = folder if base is None else base.path
    if to == "onnx" and not export_onnx.writes_text(folder):
        return written(target, to, lambda work: to_onnx_network(folder, work / "result", progress))
    tokenizer = equivalence.open_tokenizer(folder)
    if is_quantized(folder) and not dequantize:
        parent = base.record["parents"].get("model") if base else None
        raise AthanorError(
            f"{folder.name} is quantised (INT4): other readers do not know its codes",
            allowed=f"the model it was made from{f', {parent}' if parent else ''}",
            fix="name that one; or add --dequantize to export the numbers that the codes stand for",
        )

    def write(work: Path) -> dict[str, Any]:
        source = prepare(folder, artifact, tokenizer, kind, work)
        chosen = "F32" if to == "onnx" else kind or stored_type(source.dense)
        check_room(source, target, chosen)
        ways = {"hf": to_hf, "gguf": to_gguf, "onnx": to_onnx}
        return ways[to](source, work / "result", chosen, licence, progress)

    return written(target, to, write)


def written(target: Path, to: str, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Let `write` fill the folder `result` of a hidden workplace, then give what it wrote its name."""
    work = target.parent / f".{target.name}.{os.getpid()}.tmp"
    try:
        (work / "result").mkdir(parents=True)
        receipt = write(work)
        place(work / "result", target, to)
        return receipt
    except (OSError, SafetensorError) as problem:
        raise explain(problem, target) from problem
    finally:
        shutil.rmtree(work, ignore_errors=True)


def prepare(folder: Path, artifact: Artifact | None, tokenizer: Tokenizer, kind: str | None, work: Path) -> Source:
    """The weights as an ordinary checkpoint: made numbers again if they are codes, with the adapter if there is one."""
    dense, merged, generation = folder, None, generation_of(folder, tokenizer)
    if is_quantized(folder):
        dense = work / "dense"
        dequantize_checkpoint(folder, dense, generation)
        tokenizer.save(dense, jinja_of(tokenizer))
    if artifact is not None and artifact.kind == KIND:
        dtype = PLAIN_TYPES[kind if kind in PLAIN_TYPES else stored_type(dense)]
        merged = merge_checkpoint(artifact, dense, work / "merged", dtype, generation)
        dense = work / "merged"
        tokenizer.save(dense, jinja_of(tokenizer))
    return Source(folder, artifact, dense, tokenizer, merged)


def to_hf(source: Source, result: Path, kind: str, licence: str | None, progress: Progress) -> dict[str, Any]:
    """A folder that `transformers` loads: weights (copied, where the type stays), config, tokenizer, template, card."""
    progress.start("writing the checkpoint", None, "")
    verbatim = kind == stored_type(source.dense) and source.dense == source.folder
    if verbatim:
        for name in checkpoint_files(source.dense):
            shutil.copyfile(source.dense / name, result / name)
    else:
        convert_checkpoint(source.dense, result, PLAIN_TYPES[kind])
        write_json(result / "generation_config.json", generation_of(source.dense, source.tokenizer))
    source.tokenizer.save(result, jinja_of(source.tokenizer))
    progress.start("reading it again and comparing", None, "")
    written = Tokenizer.load(result)
    receipt = {
        **head(source, "hf", kind, "the folder was loaded again by Athanor's own reader"),
        "logits": compare_models(source, lambda: equivalence.open_network(result), lambda: filler_of(result)),
        "token_ids": equivalence.compare_tokenizers(source.tokenizer, written),
        "chat_template": equivalence.compare_template(source.tokenizer, written.chat_template, written),
    }
    equivalence.refuse_unequal(receipt, exact=lossless(source, kind))
    card = model_card(
        source.name, source.artifact, read_object(result / "config.json"), source.parameters, licence,
        chats=written.chat_template is not None,
    )  # fmt: skip
    (result / "README.md").write_text(card, encoding="utf-8")
    return finish(receipt, result, "receipt.json", progress)


def to_gguf(source: Source, result: Path, kind: str, licence: str | None, progress: Progress) -> dict[str, Any]:
    """One file that llama.cpp loads."""
    progress.start("writing the GGUF file", None, "")
    path = result / "model.gguf"
    about = {
        # llama.cpp changes special tokens when the name holds certain words: it is not left to chance
        "name": f"Athanor model of {quantity(source.parameters)} parameters",
        "description": f"exported from {source.name}",
        **({"license": licence} if licence else {}),
    }  # fmt: skip
    write_model(source.dense, path, TYPES[kind], about)
    progress.start("reading it again and comparing", None, "")
    file = GgufFile(path)
    read = read_tokenizer(file.values)
    receipt = {
        **head(source, "gguf", kind, "the file was read by Athanor's own reader, every tensor made numbers again"),
        "types": count_types(file),
        "notes": list(file.values.get("athanor.notes", [])),
        "logits": compare_models(
            source, lambda: read_model(file, source.dense), lambda: gguf_filler(file, source.dense)
        ),
        "token_ids": {
            **equivalence.compare_tokenizers(source.tokenizer, read, alike(source.tokenizer, file.values)),
            "cut_by": file.values["tokenizer.ggml.pre"],
            "known_differences": differences(source.tokenizer, file.values),
        },
        "chat_template": equivalence.compare_template(
            source.tokenizer, file.values.get("tokenizer.chat_template"), reader_of(file.values, source.tokenizer)
        ),
    }  # fmt: skip
    equivalence.refuse_unequal(receipt, exact=lossless(source, kind))
    return finish(receipt, result, "model.receipt.json", progress)


def reader_of(values: Mapping[str, Any], tokenizer: Tokenizer) -> Tokenizer | None:
    """What reads chats as llama.cpp does, where it puts spaces that our tokenizer may not put; None: it puts none."""
    if values["tokenizer.ggml.model"] not in (PIECES_KIND, gguf_unigram.KIND):
        return None
    read = read_tokenizer(values)
    return Tokenizer(read.core, tokenizer.config, pieces=read.pieces)


def to_onnx(source: Source, result: Path, kind: str, licence: str | None, progress: Progress) -> dict[str, Any]:
    """A folder with one graph, for prompts and answers, and the tokenizer."""
    export_onnx.refuse_large(source.parameters)
    measured = export_onnx.write_language_model(source.dense, source.tokenizer, result, progress)
    receipt = {**head(source, "onnx", kind, measured["how"]), **measured, **({"license": licence} if licence else {})}
    equivalence.refuse_unequal(receipt, exact=False)
    return finish(receipt, result, "receipt.json", progress)


def to_onnx_network(folder: Path, result: Path, progress: Progress) -> dict[str, Any]:
    """A folder with the graphs of a network that writes no text."""
    return finish(export_onnx.write_network(folder, result, progress), result, "receipt.json", progress)


# ------------------------------------------------------------------------------------------------------- the receipt


def head(source: Source, to: str, kind: str, how: str) -> dict[str, Any]:
    """What was compared with what."""
    files = {name: hash_file(source.folder / name) for name in travelling_files(source.folder)}
    return {
        "format": to, "type": kind, "how": how, "athanor": athanor.__version__, "torch": torch.__version__,
        "source": {"model": source.name, "quantized": is_quantized(source.folder), "files": files},
        **({} if source.merged is None else {"merged": source.merged}),
        "computed_in": str(compare_type(source) or "the stored type").removeprefix("torch."),
    }  # fmt: skip


def compare_models(
    source: Source,
    load: Callable[[], LanguageModel | EncoderDecoder],
    stream: Callable[[], tuple[TransformerConfig, Fill]],
) -> dict[str, Any]:
    """The source's behaviour and the result's, one of the two models in memory at a time.

    Args:
        load: gives the result as a model.
        stream: gives what reads it tensor by tensor, for models above `equivalence.SMALL`: they are run layer by layer.
    """
    dtype = compare_type(source)
    if dtype is not None:
        found = equivalence.observe(load().to(dtype), source.tokenizer)
        before = equivalence.observe(equivalence.open_network(source.dense).to(dtype), source.tokenizer)
    else:
        stored = PLAIN_TYPES[stored_type(source.dense)]
        found = equivalence.observe_streamed(*stream(), source.tokenizer, stored)
        before = equivalence.observe_streamed(*filler_of(source.dense), source.tokenizer, stored)
    return equivalence.compare_behaviour(before, found)


def compare_type(source: Source) -> torch.dtype | None:
    """The number type both models compute in: float32 for small ones; None: as stored, layer by layer."""
    return torch.float32 if source.parameters <= equivalence.SMALL else None


def lossless(source: Source, kind: str) -> bool:
    """Whether the numbers are stored without loss: the same type, or float32, which holds every other."""
    return kind in ("F32", stored_type(source.dense))


def finish(receipt: dict[str, Any], result: Path, name: str, progress: Progress) -> dict[str, Any]:
    """Add the files with their hashes, and write the receipt beside them."""
    files = {path.name: {"bytes": path.stat().st_size, "hash": hash_file(path)} for path in sorted(result.iterdir())}
    receipt = {**receipt, "files": files}
    write_json(result / name, receipt)
    progress.finish()
    return receipt


def count_types(file: GgufFile) -> dict[str, int]:
    """How many tensors are stored in each number type."""
    names = [entry.type.name for entry in file.tensors.values()]
    return {name: names.count(name) for name in sorted(set(names))}


# --------------------------------------------------------------------------------------------------- files and places


def checkpoint_files(folder: Path) -> list[str]:
    """config.json, generation_config.json where there is one, and the weights with their index."""
    names = ["config.json", *(name for name in ("generation_config.json", INDEX) if (folder / name).is_file())]
    return names + sorted(path.name for path in folder.glob("*.safetensors"))


def travelling_files(folder: Path) -> list[str]:
    """Everything that makes a model: its checkpoint and its tokenizer."""
    return checkpoint_files(folder) + [name for name in TOKENIZER_FILES if (folder / name).is_file()]


def stored_type(folder: Path) -> str:
    """The number type of a checkpoint's weights."""
    dtype = Stored(folder).dtype()
    return next(name for name, one in PLAIN_TYPES.items() if one == dtype)


def check_target(target: Path, to: str, kind: str | None) -> None:
    """Refuse a type that the format does not know, and a target that exists or has no place to be."""
    if to == "hf" and kind is not None and kind not in PLAIN_TYPES:
        raise AthanorError(
            f"--type {kind.lower()}: Hugging Face folders hold plain numbers", allowed=", ".join(PLAIN_TYPES).lower(),
            fix="athanor export --to gguf, for blocks",
        )  # fmt: skip
    if to == "onnx" and kind not in (None, "F32"):
        raise AthanorError(f"--type {kind.lower()}: ONNX graphs are written in float32", allowed="f32")
    if to == "gguf" and target.suffix != ".gguf":
        raise AthanorError(
            f"--out {target}: readers know GGUF files by their name", allowed="a name that ends in .gguf"
        )
    for path in (target, receipt_of(target)) if to == "gguf" else (target,):
        if path.exists() or path.is_symlink():
            raise AthanorError(f"{path} exists already", fix="choose another --out, or delete it first")
    if not target.parent.is_dir():
        raise AthanorError(f"there is no folder {target.parent}", fix=f"mkdir -p {target.parent}")


def check_room(source: Source, target: Path, kind: str) -> None:
    """Refuse before writing what the disk cannot hold."""
    needed = source.parameters * TYPES[kind].size // TYPES[kind].numbers
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise AthanorError(f"the disk is full: about {size(needed)} are needed for {target}, {size(free)} are free",
                           fix="free some space, or choose another disk with --out")  # fmt: skip


def receipt_of(target: Path) -> Path:
    """Where the receipt of a GGUF file stands."""
    return target.with_suffix(".receipt.json")


def place(result: Path, target: Path, to: str) -> None:
    """Sync what was written and give it its name; the receipt of a GGUF file first, so that no file is without one."""
    for path in result.iterdir():
        sync_file(path)
    if to == "gguf":
        os.rename(result / "model.receipt.json", receipt_of(target))
        os.rename(result / "model.gguf", target)
    else:
        sync_folder(result)
        os.rename(result, target)
    sync_folder(target.parent)


def explain(problem: Exception, target: Path) -> Exception:
    """Disk errors as what the user can do; the safetensors library hides the system's words in an error of its own."""
    if isinstance(problem, SafetensorError) and any(
        word in str(problem) for word in ("No space", "too large", "quota")
    ):
        problem = OSError(28, "No space left on device")
    if not isinstance(problem, OSError):
        return problem
    explained = explain_disk_error(problem, target)
    if isinstance(explained, AthanorError):
        explained.fix = explained.fix.replace("--store", "--out")
    return explained
