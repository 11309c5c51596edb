"""The step `clean`: documents become a corpus: repaired, judged, masked, without copies, a part held out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from athanor.base.errors import AthanorError
from athanor.base.files import hash_bytes
from athanor.base.progress import Progress
from athanor.base.records import encode_record, open_text, read_records, write_records
from athanor.base.settings import Settings
from athanor.data.cleaning.boilerplate import drop_boilerplate
from athanor.data.cleaning.facts import Facts
from athanor.data.cleaning.filters import Thresholds, judge, judge_pages
from athanor.data.cleaning.language import guess_language, language_of
from athanor.data.cleaning.personal import mask_personal
from athanor.data.cleaning.repair import repair_text
from athanor.data.copies.clusters import Copy
from athanor.data.copies.deduplicate import NearCopyFinder, in_batches, rank_by
from athanor.data.copies.shingles import Places
from athanor.data.document import Document, make_document
from athanor.data.funnel import Funnel, Stage, describe_reasons
from athanor.data.rules.chinese import ChineseLimits
from athanor.data.rules.published import PublishedLimits
from athanor.data.shards import ShardWriter, read_shards
from athanor.data.split import boundary
from athanor.store.artifact import Artifact

MEGA = 1e6
FEW = ("zh", "en", "ja", "ko", "und")
BATCH, BATCH_BYTES = 256, 4_000_000  # documents judged at once
KEPT = "kept.jsonl.zst"  # in .work: what passed the filters, before near copies are removed


class CleanSettings(Settings):
    """How documents are judged and what counts as a copy."""

    tell: Literal["few", "many"] = "few"
    """Which languages are told apart: few (zh, ja, ko by their script, en by its words, und), or the 184 of the shipped
    model."""
    languages: tuple[str, ...] = ()
    """Keep only these codes, such as en, zh or de, and und for what cannot be told; empty: keep all."""
    rules: Literal["own", "published"] = "own"
    """Which rules judge: ours, patient with files that a person chose; or those published for the open web (Gopher, C4,
    FineWeb), with their own for Chinese. Code has the same rules either way."""
    filters: Thresholds = Thresholds()
    """Limits of our rules."""
    published: PublishedLimits | None = None
    """Limits of the published rules; unset: the published ones."""
    chinese: ChineseLimits | None = None
    """Limits for Chinese beside the published rules."""
    drop_boilerplate: bool = False
    """Leave out short lines that belong to a web site (menus, cookie notices, editors' signatures): for text of the
    web without markup; pages read from HTML have lost theirs."""
    mask_personal_data: bool = True
    """Replace mail addresses, phone numbers, identity and bank cards and internet addresses by [mail], [phone],
    [identity card], [bank card], [ip]."""
    copy_threshold: float = Field(default=0.7, gt=0, le=1)
    """Documents whose word runs are at least this similar (Jaccard) are copies; the longest stays."""
    copy_run: int = Field(default=5, ge=1)
    """Words (Chinese: characters) in a run."""
    heldout_share: float = Field(default=0.02, gt=0, lt=1)
    """Share of documents kept apart for evaluation, chosen by the hash of their text; at least one."""
    heldout_most_bytes: int = Field(default=4_000_000, ge=1)
    """Evaluation needs no more text than this."""

    @model_validator(mode="after")
    def _no_limits_for_nothing(self) -> "CleanSettings":
        if self.rules == "own" and (self.published is not None or self.chinese is not None):
            raise ValueError("published and chinese are limits of rules: published; here rules is own")
        unknown = sorted(set(self.languages) - set(FEW))
        if self.tell == "few" and unknown:
            raise ValueError(f"languages {', '.join(unknown)} are told apart with tell: many only, not with few")
        return self


@dataclass
class _Kept:
    """What stays in memory of the documents that passed the filters: under 600 bytes each.

    Lists are indexed by the document's number.
    """

    names: list[tuple[str, str]] = field(default_factory=list)  # id, source
    sizes: list[int] = field(default_factory=list)  # bytes of text
    hashes: list[str] = field(default_factory=list)  # of the normalised text
    by_hash: dict[str, int] = field(default_factory=dict)


def clean_documents(
    settings: CleanSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Turn the documents of `parents["documents"]` into train-*.jsonl.zst and heldout-*.jsonl.zst.

    Also writes duplicates.jsonl (removed, kept, similarity) and funnel.json.

    Raises:
        AthanorError: no document is left; the message names the reasons and the settings that relax them.
    """
    work = folder / ".work"
    work.mkdir(exist_ok=True)
    source = parents["documents"]
    funnel = Funnel("repair", "language", "quality", "exact copies", "near copies")
    kept, masked, languages = _Kept(), Counter[str](), Counter[str]()
    removed: list[dict[str, Any]] = []
    progress.start("clean", total=source.measurements.get("text_bytes", 0) / MEGA or None, unit="MB")
    with NearCopyFinder(work, settings.copy_threshold, settings.copy_run) as finder:
        with open_text(work / KEPT, "w") as file:
            for batch in _batches(read_shards(source, "documents")):
                progress.advance(sum(document.bytes for document in batch) / MEGA)
                for better in _improve(batch, settings, funnel, masked):
                    if _is_new(better, kept, funnel["exact copies"], removed):
                        languages[better.language or "und"] += 1
                        finder.add_one(better.text)
                        file.write(encode_record(better.to_row()))
        progress.finish(kept=len(kept.sizes))
        if not kept.sizes:
            funnel.write(folder)
            raise _nothing_left(funnel, settings)
        copies = finder.find(rank_by(np.array(kept.sizes)), lambda numbers: in_batches(_texts(work / KEPT, numbers)))
    _record_near_copies(copies, kept, funnel["near copies"], removed)
    write_records(folder / "duplicates.jsonl", removed)
    funnel.write(folder)
    written = _write_split(settings, kept, {copy.removed for copy in copies}, folder, work / KEPT)
    return {
        **written, "copies_exact": len(removed) - len(copies), "copies_near": len(copies),
        "masked": dict(sorted(masked.items())), "languages": dict(sorted(languages.items())),
    }  # fmt: skip


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents by the hundred, or less where they are long: rules that look at many at once are faster."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += document.bytes
        if len(batch) == BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _improve(
    documents: Iterable[Document], settings: CleanSettings, funnel: Funnel, masked: Counter[str]
) -> Iterator[Document]:
    """The documents repaired, with their language, judged and masked; without those that a stage dropped."""
    repaired = [better for document in documents if (better := _repair(document, settings, funnel)) is not None]
    stage = funnel["quality"]
    for document, reason in zip(repaired, _reasons(repaired, settings), strict=True):
        stage.enter(document.bytes)
        if reason is not None:
            stage.drop(reason, document.bytes, document.source, document.text)
            continue
        if settings.mask_personal_data:
            text, counts = mask_personal(document.text, code=document.kind == "code")
            masked.update(counts)
            document = document.with_text(text)
        stage.leave(document.bytes)
        yield document


def judge_one(document: Document, settings: CleanSettings) -> str | None:
    """Why a document by itself does not pass repair, language and quality; None where it does."""
    funnel = Funnel("repair", "language", "quality")
    for _ in _improve([document], settings, funnel, Counter()):
        return None
    return funnel.reasons()[0][0]


def _repair(document: Document, settings: CleanSettings, funnel: Funnel) -> Document | None:
    """The document repaired, with its language; None when it is empty or of a language that is not wanted."""
    size = document.bytes
    stage = funnel["repair"]
    stage.enter(size)
    text = repair_text(document.text)
    if settings.drop_boilerplate and document.kind in ("prose", "page"):
        text = repair_text(drop_boilerplate(text)[0])
    if not text:
        stage.drop("nothing left after repair", size, document.source)
        return None
    language = document.language or (language_of if settings.tell == "many" else guess_language)(text)
    document = replace(document, text=text, language=language)
    size = document.bytes
    stage.leave(size)
    stage = funnel["language"]
    stage.enter(size)
    if settings.languages and language not in settings.languages:
        stage.drop(f"language {language} not wanted (languages)", size, document.source, text)
        return None
    stage.leave(size)
    return document


def _reasons(documents: list[Document], settings: CleanSettings) -> list[str | None]:
    """Why each document is dropped, None where it stays."""
    if settings.rules == "published":
        return judge_pages(documents, settings.published, settings.chinese, settings.filters)
    return [judge(Facts(document), settings.filters) for document in documents]


def normalised_hash(text: str) -> str:
    """Hash of the text without regard to case and blanks: two documents with the same hash are exact copies."""
    return hash_bytes(" ".join(text.lower().split()).encode())


def _is_new(document: Document, kept: _Kept, stage: Stage, removed: list[dict[str, Any]]) -> bool:
    """Whether no document before has the same text; if so, it is remembered."""
    size = document.bytes
    stage.enter(size)
    digest = normalised_hash(document.text)
    first = kept.by_hash.get(digest)
    if first is not None:
        removed.append(_copy_row("exact", (document.id, document.source), kept.names[first], 1.0))
        stage.drop("exact copy", size, document.source, f"of {kept.names[first][1]}")
        return False
    kept.by_hash[digest] = len(kept.sizes)
    kept.names.append((document.id, document.source))
    kept.sizes.append(size)
    kept.hashes.append(digest)
    stage.leave(size)
    return True


def _texts(path: Path, numbers: Places) -> Iterator[str]:
    """The texts of the rows with these numbers, in order."""
    wanted = set(numbers.tolist())
    return (row["text"] for number, row in enumerate(read_records(path)) if number in wanted)


def _copy_row(kind: str, removed: tuple[str, str], kept: tuple[str, str], similarity: float) -> dict[str, Any]:
    """One row of duplicates.jsonl; rows with the same `kept` are one cluster."""
    return {
        "kind": kind, "removed": removed[0], "removed_source": removed[1],
        "kept": kept[0], "kept_source": kept[1], "similarity": round(similarity, 4),
    }  # fmt: skip


def _record_near_copies(copies: list[Copy], kept: _Kept, stage: Stage, removed: list[dict[str, Any]]) -> None:
    by_number = {copy.removed: copy for copy in copies}
    for number, size in enumerate(kept.sizes):
        stage.enter(size)
        copy = by_number.get(number)
        if copy is None:
            stage.leave(size)
            continue
        removed.append(_copy_row("near", kept.names[number], kept.names[copy.kept], copy.similarity))
        stage.drop("near copy", size, kept.names[number][1], f"{copy.similarity:.2f} of {kept.names[copy.kept][1]}")


def choose_heldout(hashes: list[str], sizes: list[int], gone: set[int], share: float, most_bytes: int) -> set[int]:
    """Numbers of the documents kept apart: those whose hash is smallest; at least one, never all.

    The choice depends on each text alone (and on the limit in bytes), so a corpus that grows keeps its split.
    """
    there = sorted((hashes[number], number) for number in range(len(hashes)) if number not in gone)
    chosen: set[int] = set()
    total = 0
    for digest, number in there[:-1]:
        if chosen and int(digest, 16) >= share * 16 ** len(digest):
            break
        if chosen and total + sizes[number] > most_bytes:
            continue
        chosen.add(number)
        total += sizes[number]
    return chosen


def _write_split(settings: CleanSettings, kept: _Kept, gone: set[int], folder: Path, source: Path) -> dict[str, Any]:
    """Write train and held-out shards from what passed; a single document is itself cut in two."""
    heldout = choose_heldout(kept.hashes, kept.sizes, gone, settings.heldout_share, settings.heldout_most_bytes)
    with ShardWriter(folder, "train") as train, ShardWriter(folder, "heldout") as apart:
        if not heldout:
            left = next(row for number, row in enumerate(read_records(source)) if number not in gone)
            first, last = _cut_in_two(Document.from_row(left))
            train.write(first)
            apart.write(last)
        else:
            with open_text(source) as file:
                for number, line in enumerate(file):
                    if number not in gone:
                        (apart if number in heldout else train).write_line(line, kept.sizes[number])
    return {
        "documents": train.documents, "text_bytes": train.bytes,
        "heldout_documents": apart.documents, "heldout_bytes": apart.bytes,
    }  # fmt: skip


def _cut_in_two(document: Document) -> tuple[Document, Document]:
    """About the first nine tenths of a document, and the rest.

    Raises:
        AthanorError: it is a single character.
    """
    text = document.text
    place = boundary(text, max(1, int(len(text) * 0.9)))
    if not text[place:].strip():
        place = max(1, len(text.rstrip()) - 1)
    if not text[:place].strip() or not text[place:].strip():
        raise AthanorError(f"{document.source} is the only document and too short to learn from", fix="add more text")
    facts = {key: value for key, value in document.meta.items() if key != "kind"}
    return tuple(  # type: ignore[return-value]
        make_document(part, f"{document.source}/{number}", document.kind, document.language, **facts)
        for number, part in ((1, text[:place]), (2, text[place:]))
    )


def _nothing_left(funnel: Funnel, settings: CleanSettings) -> AthanorError:
    reasons = funnel.reasons()
    first = reasons[0][0] if "(" in reasons[0][0] else "too few words (minimum_words)"
    setting = first.rsplit("(", 1)[1].rstrip(")")
    homes: dict[str, type[Settings]] = {"published": PublishedLimits, "chinese": ChineseLimits}
    homes = homes if settings.rules == "published" else {}
    home = next((name for name, limits in homes.items() if setting in limits.model_fields), "filters")
    where = setting if setting in CleanSettings.model_fields else f"{home}.{setting}"
    count = funnel["repair"].documents_in
    return AthanorError(
        f"none of {count} documents passed the filters: {describe_reasons(reasons)}",
        allowed="the setting that decides stands in brackets behind each reason",
        fix=f"relax the most frequent one: {where}; or name better documents",
    )
