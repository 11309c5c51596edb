"""The table of steps: what a recipe can do. A new capability is one function and one row here.

A step is a function `(settings, parents, folder, progress) -> measurements` that fills `folder` with the files of one
artifact. `parents` maps the role a parent plays to its artifact; a role that takes several has a name for each, and
they reach the step as 'role.name' (`store.artifact.several` gathers them).
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.settings import Settings, nearest


@dataclass(frozen=True)
class Step:
    """One row of the table.

    Attributes:
        function: 'module:function', imported only when the step is planned.
        settings: name of the settings class in the same module.
        makes: kind of the artifact.
        needs: roles of its parents, each a name that the recipe's `from` gives to another step. A role that ends in
            `?` may be left out; one in `+` takes one or more parents by name (`sources: {web: a step, books: b}`), one
            in `*` any number.
        fingerprint: name of a function `(settings) -> str` in the same module that says what the step reads from
            outside the store; it becomes part of the artifact's name.
        volatile: the files hold measured times, so two runs differ.
    """

    function: str
    settings: str
    makes: str
    needs: tuple[str, ...] = ()
    fingerprint: str | None = None
    volatile: bool = False

    @property
    def module(self) -> str:
        return self.function.partition(":")[0]

    @property
    def roles(self) -> dict[str, str]:
        """Role to its sign: "", "?", "+" or "*"."""
        return {role.rstrip("?+*"): role[len(role.rstrip("?+*")) :] for role in self.needs}

    def load(self) -> Callable[..., dict[str, Any]]:
        """The function itself."""
        return getattr(importlib.import_module(self.module), self.function.partition(":")[2])

    def settings_class(self) -> type[Settings]:
        """The class that checks the step's settings."""
        return getattr(importlib.import_module(self.module), self.settings)

    def outside(self, settings: Settings) -> str:
        """Fingerprint of what the step reads from outside the store; empty for most steps."""
        if self.fingerprint is None:
            return ""
        return getattr(importlib.import_module(self.module), self.fingerprint)(settings)


STEPS = {
    "read": Step("athanor.data.reading.read:read_documents", "ReadSettings", "documents", fingerprint="fingerprint"),
    "clean": Step("athanor.data.cleaning.clean:clean_documents", "CleanSettings", "corpus", ("documents",)),
    "quality": Step("athanor.data.cleaning.quality:judge_quality", "QualitySettings", "corpus", ("corpus", "curated")),
    "copies": Step(
        "athanor.data.copies.corpora:remove_corpus_copies", "CorpusCopySettings", "corpus", ("corpus", "against*")
    ),
    "repeats": Step("athanor.data.copies.corpora:remove_corpus_repeats", "RepeatSettings", "corpus", ("corpus",)),
    "decontaminate": Step(
        "athanor.data.copies.decontaminate:decontaminate", "DecontaminateSettings", "corpus",
        ("corpus", "tasks*"), fingerprint="fingerprint",
    ),
    "instruct": Step(
        "athanor.data.instruct.lessons:read_instructions", "InstructSettings", "conversations",
        fingerprint="fingerprint",
    ),
    "preferences": Step(
        "athanor.data.instruct.lessons:read_preferences", "InstructSettings", "preferences", fingerprint="fingerprint"
    ),
    "judgements": Step(
        "athanor.data.instruct.lessons:read_judgements", "InstructSettings", "judgements", fingerprint="fingerprint"
    ),
    "skills": Step("athanor.data.instruct.exercises:make_skills", "SkillsSettings", "conversations"),
    "tokenizer": Step(
        "athanor.training.tokenizer:train_tokenizer", "TokenizerSettings", "tokenizer",
        ("corpus", "also*", "conversations?"),
    ),
    "pack": Step("athanor.data.packing.pack:pack_documents", "PackSettings", "shards", ("corpus", "tokenizer")),
    "mix": Step("athanor.data.packing.mixture:mix_sources", "MixSettings", "shards", ("sources+",)),
    "pretrain": Step("athanor.training.pretrain:pretrain", "PretrainSettings", "model", ("shards", "tokenizer")),
    "finetune": Step(
        "athanor.training.sft:finetune", "FinetuneSettings", "model", ("model", "conversations", "shards?")
    ),
    "examples": Step("athanor.data.examples:read_examples", "ExampleSettings", "examples", fingerprint="fingerprint"),
    "instructions": Step(
        "athanor.data.instruct.options:write_instructions", "InstructionSettings", "conversations",
        ("tasks+", "unseen*"),
    ),
    "classify": Step("athanor.training.classify:classify", "ClassifySettings", "classifier", ("model", "examples")),
    "seq2seq": Step(
        "athanor.training.seq2seq:seq2seq", "Seq2SeqSettings", "model", ("model?", "tokenizer?", "examples+")
    ),
    "adapt": Step(
        "athanor.training.adapt:adapt", "AdaptSettings", "adapter", ("base", "conversations", "shards?")
    ),
    "merge": Step("athanor.recipes.adapters:merge_adapter", "MergeSettings", "model", ("adapter", "base")),
    "int4": Step("athanor.recipes.quantize:make_int4", "Int4Settings", "model", ("model",)),
    "quantize": Step(
        "athanor.recipes.quantize:quantize", "QuantizeSettings", "model", ("model", "corpus", "conversations")
    ),
    "evaluate": Step(
        "athanor.evaluation.evaluate:evaluate", "EvaluateSettings", "evaluation",
        ("before", "after", "corpus", "conversations", "contamination?"),
    ),
    "answers": Step(
        "athanor.evaluation.answers:judge_answers", "AnswersSettings", "evaluation",
        ("before", "after", "conversations"),
    ),
    "rank": Step(
        "athanor.evaluation.ranking:rank_options", "RankSettings", "evaluation", ("before", "after", "conversations")
    ),
    "import": Step("athanor.recipes.import_model:import_model", "ImportSettings", "model", fingerprint="fingerprint"),
    "extend": Step("athanor.recipes.extend_model:extend_model", "ExtendSettings", "model", ("model", "documents")),
    "import_adapter": Step(
        "athanor.recipes.adapters:import_adapter", "ImportAdapterSettings", "adapter", ("base",),
        fingerprint="fingerprint",
    ),
    "index": Step(
        "athanor.data.packing.index:index_documents", "IndexSettings", "index",
        ("corpus?", "sources*", "shards", "conversations?", "pretrained", "finetuned?"),
    ),
    "report": Step(
        "athanor.recipes.report:write_report", "ReportSettings", "report",
        (
            "documents", "corpus", "conversations", "tokenizer", "shards", "pretrained", "finetuned", "index",
            "evaluation", "quantized",
        ), volatile=True,
    ),
}  # fmt: skip


def step_named(name: str) -> Step:
    """The row of the table; an unknown name is answered with the nearest known one."""
    if name not in STEPS:
        raise AthanorError(f"do: {name!r} is not a step", allowed=", ".join(STEPS), fix=nearest(name, STEPS))
    return STEPS[name]
