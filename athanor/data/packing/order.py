"""When a training read which token: kept in an index, without the tokens themselves.

A folder of the order holds what the batches depend on: where each document's tokens begin, and of a mixture its shares.
Which steps read a text follows from that, the settings of the training, and arithmetic (`batches`, `mixed`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from athanor.base.errors import AthanorError
from athanor.base.files import link_or_copy, read_json
from athanor.data.packing.batches import Batches, Numbers, Rows
from athanor.data.packing.mixed import MixedBatches
from athanor.data.packing.mixture import MIXTURE, measured_mixture, open_batches
from athanor.store.artifact import Artifact

STARTS, LANGUAGES = "train-starts.npy", "languages.json"
PACKING = "packing.npy"
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "seq_length")  # what families call it in config.json
Steps = dict[str, list[int]]  # by stage of the training: pretrained, finetuned


def keep_order(shards: Artifact, folder: Path) -> None:
    """Put what the order of batches depends on into the new `folder`; every file is verified first."""
    for name in shards.record["files"]:
        last = name.rpartition("/")[2]
        if last in (STARTS, LANGUAGES, MIXTURE) or last.startswith("language-"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(shards.file(name), folder / name)


def plan_of(model: Artifact) -> dict[str, int]:
    """What tells the steps of a training; empty for a model that was trained elsewhere, and for an adapter whose
    settings leave the context to the model beneath it."""
    settings = model.record["settings"]
    if "steps" not in settings:
        return {}
    config = read_json(model.file("config.json")) if "config.json" in model.record["files"] else {}
    context = settings.get("context") or next((config[key] for key in CONTEXT_KEYS if key in config), None)
    if context is None:
        return {}
    kept = {key: settings[key] for key in ("steps", "rows", "seed", "document_rows") if key in settings}
    if settings.get("group_by_length"):
        kept["rows"] = 1  # packing.npy then tells the group that is a whole step
    return {**kept, "context": context}


class TokenTable:
    """The part of `TokenFiles` that the order of training depends on: where each document's tokens begin."""

    def __init__(self, folder: Path):
        self.starts_D: Numbers = np.load(folder / STARTS)
        self.tokens = int(self.starts_D[-1])

    def read(self, start: int, stop: int) -> Numbers:
        """Not kept in an index: only the order of training is asked here."""
        raise AthanorError("a document index holds no tokens", fix="read them from the packed corpus")

    def document_row(self, number: int) -> dict[str, Any]:
        """Not kept here: the index knows its documents' names itself."""
        raise AthanorError("a document index holds no tokens", fix="read the row from the packed corpus")


class ReadingOrder:
    """Which steps of pretraining and fine-tuning read a document or a conversation.

    Args:
        folder: filled by `keep_order`.
        plans: by stage (pretrained, finetuned) its steps, rows, seed and context, for fine-tuning also document_rows.
        rows_of_conversations: the packed row of each conversation; None: no fine-tuning.
    """

    def __init__(self, folder: Path, plans: Mapping[str, Mapping[str, int]], rows_of_conversations: Numbers | None):
        self.folder, self.plans, self.rows_of_conversations = folder, plans, rows_of_conversations
        self.by = read_json(folder / MIXTURE)["by"] if (folder / MIXTURE).is_file() else ""
        self.batches: dict[str, Batches | MixedBatches] = {}
        for stage, plan in plans.items():
            first = stage == "pretrained"
            rows = plan["rows"] if first else plan.get("document_rows", 0)
            steps = plan["steps"] if first else None  # fine-tuning reads the last stage of a curriculum alone
            if rows:
                self.batches[stage] = open_batches(folder, plan["context"], rows, plan["seed"], steps, TokenTable)

    def of_document(self, source: str, number: int, start: int, stop: int) -> Steps:
        """The steps of each stage that read tokens `start` to `stop` of document `number` of a packed corpus.

        Args:
            source: its name in the mixture; empty where there is none.
        """
        name, number = self._share(source, number)
        found: Steps = {}
        for stage, batches in self.batches.items():
            before = self.plans[stage]["steps"]
            if isinstance(batches, Batches):
                found[stage] = batches.steps_of(number, before, start, stop)
            else:
                read = name in batches.names  # a weight of 0: never
                found[stage] = batches.steps_of(name, number, before, start, stop) if read else []
        return found

    def of_conversation(self, number: int) -> Steps:
        """The steps of fine-tuning that read a conversation."""
        plan = self.plans.get("finetuned")
        if plan is None or self.rows_of_conversations is None:
            return {}
        rows = Rows(int(self.rows_of_conversations.max()) + 1, plan["rows"], plan["seed"])
        row = self.rows_of_conversations[number]
        return {"finetuned": rows.steps_of(np.array([row], dtype=np.int64), plan["steps"])}

    def measured(self) -> dict[str, Any]:
        """By stage, how often its documents were read: epochs, and of a mixture those of every source."""
        return {stage: measured_mixture(one, self.plans[stage]["steps"]) for stage, one in self.batches.items()}

    def _share(self, source: str, number: int) -> tuple[str, int]:
        """What the mixture's shares call a document: its source and number, or its language and number in that."""
        if self.by != "language":
            return source, number
        codes: dict[str, list[str]] = {
            path.parent.name: read_json(path) for path in sorted(self.folder.glob(f"*/{LANGUAGES}"))
        }
        for code in codes[source]:
            before = 0
            for folder, known in codes.items():
                if code in known:
                    documents = np.load(self.folder / folder / f"language-{known.index(code):03d}.npy")
                    place = int(np.searchsorted(documents, number))
                    if folder == source and place < len(documents) and documents[place] == number:
                        return code, before + place
                    before += len(documents)
        raise AthanorError(f"document {number} of {source} has no language in the mixture", fix="mix the sources again")
