"""Which filters a document of a corpus passed: read from the records of the steps that made the corpus."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from athanor.base.records import read_records
from athanor.data.cleaning.filters import rules_for
from athanor.data.document import Document
from athanor.data.funnel import read_funnel
from athanor.data.rules.fast import RULE_SETS
from athanor.store.artifact import Artifact, Store

FUNNEL, DUPLICATES = "funnel.json", "duplicates.jsonl"
READ = "documents"
BEFORE = ("corpus", READ)  # roles of what a corpus was made from


def way_of(corpus: Artifact) -> list[Artifact]:
    """The corpus and what it was made from, document by document, back to what was read; the oldest first."""
    store = Store(corpus.path.parent.parent)
    way = [corpus]
    while True:
        parents = way[-1].record.get("parents", {})
        before = next((parents[role] for role in BEFORE if role in parents), None)
        if before is None or not store.has(before):
            return way[::-1]
        way.append(store.get(before))


def filters_of(corpus: Artifact) -> list[dict[str, Any]]:
    """One row for each step on the corpus's way: step, artifact, stages, and which rules judged."""
    rows = []
    for artifact in way_of(corpus):
        record = artifact.record
        if record["kind"] == READ:
            continue  # reading judges nothing
        stages = [row["stage"] for row in read_funnel(artifact.path)] if FUNNEL in record["files"] else []
        settings = record.get("settings", {})
        rows.append({
            "step": record.get("name", record["kind"]), "artifact": artifact.id, "stages": stages,
            "rules": settings.get("rules"),
        })  # fmt: skip
    return rows


def copies_of(corpus: Artifact) -> Counter[str]:
    """By a document's id: how many copies of it were removed on the corpus's way, in its favour."""
    counts: Counter[str] = Counter()
    for artifact in way_of(corpus):
        if DUPLICATES in artifact.record["files"]:
            counts.update(row["kept"] for row in read_records(artifact.file(DUPLICATES)))
    return counts


def passed(filters: Sequence[Mapping[str, Any]], kind: str, language: str | None) -> list[dict[str, Any]]:
    """The filters that a document of this kind and language passed, step by step: step, artifact, filters."""
    return [
        {"step": row["step"], "artifact": row["artifact"],
         "filters": [_told(stage, row["rules"], kind, language) for stage in row["stages"]]}
        for row in filters
    ]  # fmt: skip


def _told(stage: str, rules: str | None, kind: str, language: str | None) -> str:
    """A stage with the rules it applied to such a document."""
    if stage == "language":
        return f"language: {language or 'und'}"
    if stage != "quality" or rules is None:
        return stage
    return f"quality: {', '.join(rule_names(rules, kind, language))}"


def rule_names(rules: str, kind: str, language: str | None) -> list[str]:
    """Names of the rules that judge a document: ours one by one, the published ones as sets."""
    if rules == "published" and kind != "code":
        return ["Chinese rules"] if language == "zh" else list(RULE_SETS)
    document = Document(id="", text="", source="", language=language, meta={"kind": kind})
    return [rule.__name__ for rule in rules_for(document)]
