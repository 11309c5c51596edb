"""The step `import`: a Hugging Face folder becomes a model artifact, verified, with its receipt."""

import shutil
from pathlib import Path
from typing import Any

import torch

from athanor.base.errors import AthanorError
from athanor.base.files import hash_file, hash_json, write_json
from athanor.base.progress import Progress
from athanor.base.settings import Settings
from athanor.inference import equivalence
from athanor.models.convert import INDEX, read_object, refuse_pickles
from athanor.models.seq2seq import EncoderDecoderConfig
from athanor.models.settings import read_config
from athanor.store.artifact import Artifact
from athanor.tokens.chat import check_vocabulary, jinja_of, special_ids
from athanor.tokens.tokenizer import Tokenizer

RECEIPT = "receipt.json"
CHECKPOINT_FILES = ("config.json", "generation_config.json", INDEX)
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "vocab.json",
    "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "tiktoken.model",
    "added_tokens.json", "ice_text.model", "tekken.json", "spm.model", "source.spm", "target.spm",
)  # fmt: skip


class ImportSettings(Settings):
    """What to import."""

    path: str
    """A folder that holds config.json, weights and tokenizer files."""


def fingerprint(settings: ImportSettings) -> str:
    """A hash that changes whenever a file of the checkpoint does."""
    return hash_json(file_hashes(folder_of(settings)))


def import_model(
    settings: ImportSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Copy the checkpoint, write its tokenizer files anew, and compare what was written with what was given.

    Raises:
        AthanorError: a pickle, a family or setting we cannot run, a damaged file, or a tokenizer or chat template that
            is Python code, unknown or unsafe.
    """
    source = folder_of(settings)
    tokenizer = equivalence.open_tokenizer(source)
    progress.start("reading the checkpoint", None, "")
    record = {key: value for key, value in read_object(source / "config.json").items() if key != "quantization_config"}
    family, config = read_config(record, str(source / "config.json"))
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in family.build(config).parameters())
    check_vocabulary(tokenizer, config.vocabulary, source)
    before = equivalence.observe_folder(source, tokenizer)
    progress.start("copying and comparing", None, "")
    hashes = file_hashes(source)
    for name in hashes:
        if name in CHECKPOINT_FILES or name.endswith(".safetensors"):
            shutil.copyfile(source / name, folder / name)
    if "generation_config.json" not in hashes and tokenizer.native:  # of others, config.json may know it
        write_json(folder / "generation_config.json", special_ids(tokenizer))
    tokenizer.save(folder, jinja_of(tokenizer))
    written = Tokenizer.load(folder)
    receipt = {
        "how": "the copy was loaded again and run beside the source",
        "source": {"files": hashes},
        "logits": equivalence.compare_behaviour(before, equivalence.observe_folder(folder, tokenizer)),
        "token_ids": equivalence.compare_tokenizers(tokenizer, written),
        "chat_template": equivalence.compare_template(tokenizer, written.chat_template, written),
    }
    equivalence.refuse_unequal(receipt, exact=True)
    write_json(folder / RECEIPT, receipt)
    progress.finish()
    return {"parameters": parameters, "context": longest(config), "source": hashes}


def longest(config: Any) -> int:
    """Positions that a network has, of its source where it reads one."""
    return config.encoder.max_positions if isinstance(config, EncoderDecoderConfig) else config.max_positions


def folder_of(settings: ImportSettings) -> Path:
    """The folder that is meant, if it can be one.

    Raises:
        AthanorError: it is missing, holds a pickle, or no config.json.
    """
    folder = Path(settings.path).expanduser()
    if not folder.is_dir():
        raise AthanorError(f"there is no folder {folder}", fix="name the folder that holds config.json and the weights")
    refuse_pickles(folder)
    if not (folder / "config.json").is_file():
        raise AthanorError(
            f"{folder} holds no config.json", fix="name the folder that holds config.json and the weights"
        )
    return folder


def file_hashes(folder: Path) -> dict[str, str]:
    """Name and hash of every file that makes the model; others in the folder are not read."""
    names = [name for name in (*CHECKPOINT_FILES, *TOKENIZER_FILES) if (folder / name).is_file()]
    names += sorted(
        path.name for ending in ("*.safetensors", "*.tiktoken") for path in folder.glob(ending) if path.is_file()
    )
    return {name: hash_file(folder / name) for name in names}
