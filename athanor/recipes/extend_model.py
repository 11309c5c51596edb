"""The step `extend`: a model with more tokens in its tokenizer, its embedding and its head.

What the model knew stays: old ids, old rows and old logits are compared after everything was written and read again,
and the receipt holds what came of it. The new rows begin as `athanor.tokens.extend` says; training teaches them more.

Shapes: B = 1 text, T tokens of it, V token ids.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from athanor.base.errors import EXIT_REFUSED, AthanorError
from athanor.base.files import write_json
from athanor.base.progress import Progress
from athanor.base.settings import Settings
from athanor.data.shards import read_shards
from athanor.inference.dequantize import is_quantized
from athanor.inference.equivalence import SMALL, TEXTS
from athanor.models.convert import load_checkpoint, read_object, save_checkpoint
from athanor.models.extend import extend_vocabulary
from athanor.models.language import LanguageModel
from athanor.models.settings import read_config
from athanor.store.artifact import Artifact
from athanor.tokens.chat import jinja_of
from athanor.tokens.extend import ExtensionPlan, as_rows, extend
from athanor.tokens.tokenizer import Tokenizer

RECEIPT, NEW_TOKENS = "receipt.json", "new_tokens.json"
MODEL, DOCUMENTS = "model", "documents"
ROUNDING = 1e-5  # of the largest logit: what a wider matrix product may round otherwise in float32


class ExtendSettings(Settings):
    """What to add."""

    words: tuple[str, ...] = ()
    """New tokens, matched wherever they stand in a text."""
    special: tuple[str, ...] = ()
    """New special tokens, put in by programs only: text that spells one stays text."""
    count: int = Field(default=0, ge=0)
    """Tokens to learn from the documents (byte-level BPE only); fewer where fewer pairs repeat."""
    seed: int = Field(default=1, ge=0)
    """Of the noise on the rows of special tokens."""


def check(settings: ExtendSettings, texts: bool) -> None:
    """Refuse settings that add nothing, or that have nothing to learn from.

    Raises:
        AthanorError: says what is missing.
    """
    if settings.count and not texts:
        raise AthanorError(
            f"count={settings.count} tokens are to be learnt, but there are no texts to learn them from",
            fix="name texts: --texts FOLDER",
        )
    if not (settings.words or settings.special or settings.count):
        raise AthanorError(
            "there is nothing to add",
            allowed="words (--words FILE), special tokens (--special TOKEN), or a count of tokens to learn from texts "
            "(--texts FOLDER --count NUMBER)",
        )


def extend_model(
    settings: ExtendSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write the larger checkpoint with its tokenizer, new_tokens.json and the receipt.

    Args:
        parents: `model`, and where there are texts to learn from or to count tokens on, `documents`.

    Raises:
        AthanorError: nothing to add, a token that is there already, a model without rows to add to, or (exit code 3)
            a result that is not the old model on old tokens.
    """
    source, documents = parents[MODEL], parents.get(DOCUMENTS)
    check(settings, documents is not None)
    source.verify()
    refuse_quantized(source.path)
    tokenizer = Tokenizer.load(source.path)
    progress.start("choosing new tokens", None, "")
    larger, plan = extend(tokenizer, settings.words, settings.special, _texts(documents), settings.count)
    larger.save(folder, jinja_of(larger))  # ours must break the new special tokens in text, too
    written = Tokenizer.load(folder)
    receipt: dict[str, Any] = {
        "how": "the larger model and its tokenizer were written, read again and put beside the old ones; `texts` "
        "counts tokens on the texts that were given, the same that new tokens are learnt from",
        "source": {MODEL: source.id},
        "token_ids": compare_ids(tokenizer, written, plan),
        **({"texts": count_tokens(tokenizer, written, documents)} if documents is not None else {}),
    }
    progress.start("adding rows and comparing", None, "")
    model, more = write_model(source.path, folder, plan, settings.seed, tokenizer)
    receipt = {**receipt, **more}
    refuse_changed(receipt)
    write_json(folder / NEW_TOKENS, as_rows(plan))
    write_json(folder / RECEIPT, receipt)
    progress.finish(vocabulary=plan.after)
    saved = receipt["texts"]["saved"] if documents is not None else None
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()), "context": model.config.max_positions,
        "vocabulary": plan.after, "new_tokens": plan.after - plan.before, "tokens_saved": saved,
    }  # fmt: skip


def refuse_quantized(folder: Path) -> None:
    """Refuse a model whose rows are stored as codes.

    Raises:
        AthanorError: it is quantised.
    """
    if is_quantized(folder):
        raise AthanorError(
            f"{folder.name} is quantised: its embedding holds codes, and new rows cannot be put beside them",
            fix="extend the model that it was made from, then quantise that",
        )


def write_model(
    source: Path, folder: Path, plan: ExtensionPlan, seed: int, tokenizer: Tokenizer
) -> tuple[LanguageModel, dict[str, Any]]:
    """Write the larger checkpoint under its family's names, and compare it with the old one.

    Returns:
        the larger model as it was read again, and for the receipt `weights` and `logits`.
    """
    record = read_object(source / "config.json")
    family, _ = read_config(record, str(source / "config.json"))
    old = load_checkpoint(source)
    try:
        larger = extend_vocabulary(old, plan.pieces(), plan.before, seed)
    except ValueError as problem:  # the tokenizer and the model do not belong together
        raise AthanorError(f"{source}: the model cannot take new tokens: {problem}") from None
    save_checkpoint(larger, folder, generation=_generation(source, record), family=family.name)
    del larger
    new = load_checkpoint(folder)
    return new, {"weights": compare_weights(old, new, plan), "logits": compare_logits(old, new, plan, tokenizer)}


def compare_ids(before: Tokenizer, after: Tokenizer, plan: ExtensionPlan) -> dict[str, Any]:
    """On how many of the fixed texts both give the same ids; texts in which a new token stands are named apart."""
    same, shorter, different = 0, [], []
    new = {row.id for row in plan.rows}
    for text in TEXTS:
        old_ids, new_ids = before.encode(text), after.encode(text)
        if old_ids == new_ids:
            same += 1
        elif new & set(new_ids) and before.decode(old_ids) == after.decode(new_ids):
            shorter.append(text)
        else:
            different.append(text)
    return {"texts": len(TEXTS), "same": same, "with_new_tokens": shorter, "different": different}


def count_tokens(before: Tokenizer, after: Tokenizer, documents: Artifact) -> dict[str, Any]:
    """Tokens of the documents by the old tokenizer and by the new one, and the share saved."""
    count = size = 0
    for document in read_shards(documents, DOCUMENTS):
        count += 1
        size += document.bytes
    old, new = (sum(len(ids) for ids in one.encode_corpus(_texts(documents))) for one in (before, after))
    return {
        "documents": count, "bytes": size, "tokens_before": old, "tokens_after": new,
        "saved": round(1 - new / max(1, old), 4),
    }  # fmt: skip


def compare_weights(old: LanguageModel, new: LanguageModel, plan: ExtensionPlan) -> dict[str, Any]:
    """How many tensors are the same to the bit, the old rows of the grown ones included."""
    before, after = old.state_dict(), new.state_dict()
    rows = {row.id for row in plan.rows}
    different = sorted(before.keys() ^ after.keys())
    grown = []
    for name in before.keys() & after.keys():
        one, other = before[name], after[name]
        if name in ("tokens.weight", "head.weight", "head.bias"):
            grown.append(name)
            kept = [row for row in range(len(one)) if row not in rows]
            one, other = one[kept], other[kept]
        if not torch.equal(one, other):
            different.append(name)
    return {"tensors": len(before), "grown": sorted(grown), "different": sorted(different)}


@torch.inference_mode()
def compare_logits(old: LanguageModel, new: LanguageModel, plan: ExtensionPlan, tokenizer: Tokenizer) -> dict[str, Any]:
    """Logits of the old ids on the fixed texts, written in old ids; and the probability that new tokens take there.

    Both models compute in float32 from here on, large ones as they are stored.
    """
    if sum(weight.numel() for weight in old.parameters()) <= SMALL:
        old.float()
        new.float()
    most = max(1, old.config.max_positions // 2)
    positions, difference, largest, taken = 0, 0.0, 0.0, 0.0
    for text in TEXTS:
        ids_BT = torch.tensor([tokenizer.encode(text)[:most]])
        if not ids_BT.numel():
            continue
        before_TV, after_TV = old(ids_BT)[0].float(), new(ids_BT)[0].float()
        known_TV = before_TV[:, : plan.before]
        difference = max(difference, _largest(known_TV - after_TV[:, : plan.before]))
        largest = max(largest, _largest(known_TV))
        taken += after_TV[:, : plan.after].softmax(-1)[:, plan.before :].sum().item()
        positions += ids_BT.numel()
    room = max(ROUNDING, 2 * torch.finfo(old.tokens.weight.dtype).eps)
    return {
        "positions": positions, "max_logit_difference": difference, "allowed": room * largest,
        "probability_of_new_tokens": taken / positions,
    }  # fmt: skip


def refuse_changed(receipt: dict[str, Any]) -> None:
    """Refuse a larger model that is not the old one on old tokens.

    Raises:
        AthanorError (exit code 3): names what changed.
    """
    ids, weights, logits = receipt["token_ids"], receipt["weights"], receipt["logits"]
    wrong = ""
    if ids["different"]:
        wrong = f"{len(ids['different'])} texts have other token ids, such as {ids['different'][0]!r:.60}"
    elif weights["different"]:
        wrong = f"{weights['different'][0]} has changed"
    elif not logits["max_logit_difference"] <= logits["allowed"]:
        wrong = f"the logits of old tokens differ by {logits['max_logit_difference']:.3g}"
    if wrong:
        raise AthanorError(f"the result was refused: {wrong}", code=EXIT_REFUSED)


def _texts(documents: Artifact | None) -> Iterator[str]:
    if documents is not None:
        for document in read_shards(documents, DOCUMENTS):
            yield document.text


def _generation(source: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The old model's settings for generation, and the ids that its config.json names."""
    path = source / "generation_config.json"
    named = {key: value for key, value in record.items() if key.endswith("_token_id") and value is not None}
    return named | (read_object(path) if path.is_file() else {})


def _largest(numbers: Tensor) -> float:
    return numbers.abs().max().item()
