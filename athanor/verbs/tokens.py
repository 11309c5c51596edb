"""athanor tokens: train a tokenizer, measure one, and add tokens to a model."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.verbs.data_read import field_option
from athanor.verbs.groups import group_of
from athanor.verbs.options import find_artifact, find_model, json_option, print_json, store_option

Named = list[tuple[str, list[tuple[str, Any]]]]  # what the user wrote, and (file's name, document) of all found there
KINDS = ("bpe", "unigram", "wordpiece")
BY = ("file", "language")
RECIPE = "quickstart"  # whose first steps read and clean the documents
COMMANDS = {  # command: (English, 中文)
    "train": ("learn a tokenizer from documents", "从文档训练分词器"),
    "report": ("what texts cost in tokens, by file or language", "文本的词元开销，按文件或语言"),
    "extend": ("add words, special tokens or learnt tokens to a model", "为模型增加词、特殊词元或学得的词元"),
}
KIND = (
    "bpe and unigram give every text back; wordpiece loses spacing",
    "bpe 与 unigram 可还原任何文本；wordpiece 会丢失空格",
)


@click.group(
    cls=group_of(COMMANDS),
    epilog="\b\nExample:  athanor tokens train ~/notes --vocabulary 8000\n"
    "          athanor tokens report tokenizer ~/notes --by language\n"
    "          athanor tokens extend finetune --texts ~/notes --count 500",
)
def command() -> None:
    """Train a tokenizer, measure what it makes of texts, or add tokens to a model that is already trained."""


# -------------------------------------------------------------------------------------------------------------- train


@command.command(
    "train",
    epilog="\b\nExample:  athanor tokens train ~/notes --kind unigram --vocabulary 8000\n"
    "          athanor tokens train python: --vocabulary 4096 skills.conversations=1",
)
@click.argument("folder")
@click.argument("overrides", nargs=-1, metavar="[STEP.KEY=VALUE]...")
@click.option("--kind", type=click.Choice(KINDS), default="bpe", show_default=True, help=say(*KIND))
@click.option("--vocabulary", type=int, required=True, help=say("how many token ids", "词元数量"))
@store_option
@json_option
def train(
    folder: str, overrides: tuple[str, ...], kind: str, vocabulary: int, store: str | None, as_json: bool
) -> None:
    """Learn a tokenizer from FOLDER (a folder, file or pattern; python: is the text that every Python carries).

    Documents are read and cleaned, and skills' conversations are made, by the steps of `athanor run quickstart`: a run
    with the same settings makes nothing of it again. STEP.KEY=VALUE changes a setting of the steps data, clean, skills
    or tokenizer.
    """
    from athanor.base.progress import make_progress
    from athanor.base.stopping import StopRequest
    from athanor.data.reading.removed import read_removed
    from athanor.recipes.recipe import load_recipe
    from athanor.recipes.resolved import until_step
    from athanor.recipes.runner import plan_recipe, run_recipe
    from athanor.store.artifact import find_store

    chosen = [f"data.path={folder}", f"tokenizer.kind={kind}", f"tokenizer.vocabulary={vocabulary}"]
    for override in overrides:
        key = override.partition("=")[0]
        if key in ("data.path", "tokenizer.kind", "tokenizer.vocabulary"):
            raise AthanorError(f"{override}: {key} is given already", fix="FOLDER, --kind and --vocabulary say it")
    recipe = replace(until_step(load_recipe(RECIPE, [*chosen, *overrides]), "tokenizer"), name="tokens")
    steps = [step.name for step in recipe.steps]
    for override in overrides:
        step, dot, _ = override.partition("=")[0].partition(".")
        if dot and step not in steps:
            raise AthanorError(f"{override}: the step {step} comes after the tokenizer", allowed=", ".join(steps))
    place = find_store(store, create_at=Path.cwd())
    plan = plan_recipe(recipe, removed=read_removed(place))
    made = run_recipe(recipe, plan, place, make_progress(StopRequest().listen()))["tokenizer"]
    if as_json:
        print_json({"artifact": made.id, **made.record})
        return
    ids, size = made.measurements["vocabulary"], made.measurements["bytes_per_token_documents"]
    click.echo(say(
        f"→ {made.id} · {ids:,} ids · {size:.2f} bytes per token of held-out documents · "
        f"athanor tokens report {made.id} TEXT",
        f"→ {made.id} · {ids:,} 个词元 · 留出文档每词元 {size:.2f} 字节 · athanor tokens report {made.id} 文本",
    ))  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- report


@command.command(
    "report",
    epilog="\b\nExample:  athanor tokens report finetune README.md README.zh.md\n"
    "          athanor tokens report ~/qwen3 'notes/*.md' --by language --json",
)
@click.argument("tokenizer")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--by", type=click.Choice(BY), default="file", show_default=True,
              help=say("one row for each file, or for each language", "按文件或按语言分行"))  # fmt: skip
@field_option
@store_option
@json_option
def report(
    tokenizer: str, texts: tuple[str, ...], by: str, text_field: str | None, store: str | None, as_json: bool
) -> None:
    """Measure what TEXTs (files, folders, patterns) cost in tokens of TOKENIZER, and what is lost.

    TOKENIZER is a folder with any model's tokenizer files, or an artifact: a tokenizer or a model. Texts are read as
    they are, without cleaning.
    """
    from athanor.data.reading.kinds import ALLOWED
    from athanor.tokens import fertility
    from athanor.tokens.tokenizer import Tokenizer

    found = Tokenizer.load(find_tokenizer(store, tokenizer))
    aside: list[Any] = []
    documents = [(text, list(_documents(text, text_field, aside))) for text in dict.fromkeys(texts)]
    read = _by_language(documents) if by == "language" else _by_file(documents)
    if not read and aside:
        detail = f"{aside[0].reason} ({aside[0].detail})" if aside[0].detail else aside[0].reason
        raise AthanorError(f"{aside[0].source} cannot be read: {detail}", allowed=ALLOWED)
    rows = fertility.report(found, read)
    if as_json:
        print_json({
            "tokenizer": tokenizer, "vocabulary": found.vocabulary, "rows": [row.as_row() for row in rows],
            "set_aside": [{"source": one.source, "reason": one.reason} for one in aside],
        })  # fmt: skip
        return
    click.echo(fertility.report_table(rows))
    for reason, count in Counter(one.reason for one in aside).most_common():
        first = next(one.source for one in aside if one.reason == reason)
        and_more = say(f" and {count - 1:,} more", f" 等 {count:,} 项") if count > 1 else ""
        click.echo(say(f"not read: {first}{and_more}: {reason}", f"未读取：{first}{and_more}：{reason}"), err=True)


def find_tokenizer(store: str | None, name: str) -> Path:
    """The folder that a tokenizer is in: named itself, or an artifact's, its tokenizer files verified.

    Raises:
        AthanorError: there is no such artifact, or it has no tokenizer.
    """
    from athanor.store.artifact import find_store

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    artifact = find_artifact(find_store(store), name)
    files = [file for file in artifact.record["files"] if file.startswith("tokenizer")]
    if not files:
        raise AthanorError(f"{artifact.id} has no tokenizer", allowed="a tokenizer-… or model-… artifact, or a folder")
    for file in files:
        artifact.file(file)
    return artifact.path


def _documents(text: str, text_field: str | None, aside: list[Any]) -> Iterator[tuple[str, Any]]:
    """(file's name, document) of everything that `text` names; what cannot be read is put aside."""
    from athanor.data.reading.read import ReadSettings
    from athanor.data.reading.readers import ReadLimits, SetAside, read_file
    from athanor.data.reading.sources import find_sources

    usual = ReadSettings()
    limits = ReadLimits(
        max_document_bytes=usual.max_document_bytes, max_line_bytes=usual.max_line_bytes, text_field=text_field
    )
    for file in find_sources(text):
        for one in read_file(file, limits):
            if isinstance(one, SetAside):
                aside.append(one)
            else:
                yield file.name, one


def _by_file(named: Named) -> dict[str, list[str]]:
    """Texts by the name of the file they are from; a name that occurs twice gets what the user wrote before it."""
    files: dict[str, list[str]] = {}
    for text, documents in named:
        found: dict[str, list[str]] = {}
        for name, document in documents:
            found.setdefault(name, []).append(document.text)
        files |= {(f"{text}: {name}" if name in files else name): rows for name, rows in found.items()}
    return files


def _by_language(named: Named) -> dict[str, list[str]]:
    from athanor.data.cleaning.language import guess_language

    languages: dict[str, list[str]] = {}
    for _, documents in named:
        for _, document in documents:
            languages.setdefault(guess_language(document.text), []).append(document.text)
    return dict(sorted(languages.items()))


# ------------------------------------------------------------------------------------------------------------- extend


@command.command(
    "extend",
    epilog="\b\nExample:  athanor tokens extend finetune --texts ~/notes --count 500\n"
    '          athanor tokens extend model-1f2e3d4c --words terms.txt --special "<|search|>"',
)
@click.argument("model")
@click.option("--words", metavar="FILE", help=say("a file of new words, one in a line", "新词文件，每行一个"))
@click.option("--special", metavar="TOKEN", multiple=True,
              help=say("a new special token (may be given again)", "新的特殊词元（可多次）"))  # fmt: skip
@click.option("--texts", metavar="FOLDER",
              help=say("texts to learn tokens from and to count tokens on", "用于学习与统计词元的文本"))  # fmt: skip
@click.option("--count", type=int, help=say("how many tokens to learn from --texts", "从 --texts 学习的词元数量"))
@click.option("--seed", type=int, default=1, show_default=True,
              help=say("of the noise on new special tokens", "新特殊词元的噪声种子"))  # fmt: skip
@store_option
@json_option
def extend(
    model: str, words: str | None, special: tuple[str, ...], texts: str | None, count: int | None, seed: int,
    store: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Add tokens to MODEL (an artifact's name or a checkpoint's folder): a new model, made from the old one.

    Old ids, rows and logits stay and are compared; new rows begin as the mean of the tokens that wrote them before.
    Fine-tuning teaches the new rows more.
    """
    from athanor.base.progress import make_progress
    from athanor.base.settings import parse_settings
    from athanor.base.stopping import StopRequest
    from athanor.data.reading.removed import read_removed
    from athanor.recipes.extend_model import ExtendSettings, check
    from athanor.recipes.runner import run_recipe
    from athanor.store.artifact import find_store
    from athanor.verbs.import_ import plan_model

    values = {"words": read_words(words) if words else (), "special": special, "count": count or 0, "seed": seed}
    settings = parse_settings(ExtendSettings, values, "extend")
    check(settings, texts is not None)
    folder, base = find_model(store, model)
    refuse_early(folder, settings)
    place = find_store(store, create_at=Path.cwd())
    progress = make_progress(StopRequest().listen())
    if base is None:
        base = run_recipe(*plan_model(str(folder)), place, progress)["import"]
    made = run_recipe(*plan_extension(settings, base, texts, read_removed(place)), place, progress)["extend"]
    if as_json:
        print_json({"artifact": made.id, **made.record, "receipt": _receipt(made)})
        return
    _show(made, base.id)


def read_words(path: str) -> tuple[str, ...]:
    """The lines of a file, each a word as it stands there; empty lines are passed over.

    Raises:
        AthanorError: the file cannot be read, is no UTF-8, or holds no word.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise AthanorError(f"{path} cannot be read: {problem.strerror}", fix="name a text file of words") from None
    except UnicodeDecodeError:
        raise AthanorError(f"{path} is not UTF-8 text", fix="save it as UTF-8, one word in a line") from None
    words = tuple(line for line in text.splitlines() if line.strip())
    if not words:
        raise AthanorError(f"{path} holds no words", allowed="one word in a line")
    return words


def refuse_early(folder: Path, settings: Any) -> None:
    """Refuse what needs no reading of texts to be refused, before anything is stored.

    Raises:
        AthanorError: the model is quantised, or a token is there already.
    """
    from athanor.recipes.extend_model import refuse_quantized
    from athanor.tokens import extend as tokens
    from athanor.tokens.tokenizer import Tokenizer

    refuse_quantized(folder)
    if settings.words or settings.special:
        tokens.extend(Tokenizer.load(folder), settings.words, settings.special)


def plan_extension(settings: Any, base: Any, texts: str | None, removed: Any) -> tuple[Any, list[Any]]:
    """The step that extends `base`, and before it the one that reads the texts, if there are any."""
    from athanor.recipes.recipe import Recipe, RecipeStep
    from athanor.recipes.runner import PlannedStep, name_step, plan_recipe

    recipe = Recipe("extend", {}, "nano", 1, ())
    first: list[PlannedStep] = []
    if texts is not None:
        first = plan_recipe(replace(recipe, steps=(RecipeStep("data", "read", {}, {"path": texts}),)), removed=removed)
    parents = {"model": base.id, **({"documents": first[0].artifact} if first else {})}
    return recipe, [*first, name_step("extend", "extend", settings, parents, {})]


def _receipt(made: Any) -> dict[str, Any]:
    from athanor.base.files import read_json

    receipt: dict[str, Any] = read_json(made.file("receipt.json"))
    return receipt


def _show(made: Any, base: str) -> None:
    receipt, found = _receipt(made), made.measurements
    ids, logits = receipt["token_ids"], receipt["logits"]
    count = found["new_tokens"]
    click.echo(say(
        f"→ {made.id} · {count:,} new tokens beside {base}'s · athanor chat {made.id}",
        f"→ {made.id} · 在 {base} 的基础上新增 {count:,} 个词元 · athanor chat {made.id}",
    ))  # fmt: skip
    click.echo("  " + say(
        f"same token ids for {ids['same']}/{ids['texts']} fixed texts, {len(ids['with_new_tokens'])} hold new tokens · "
        f"largest difference of old logits {logits['max_logit_difference']:.3g}",
        f"{ids['texts']} 段固定文字中 {ids['same']} 段词元不变，{len(ids['with_new_tokens'])} 段含新词元 · "
        f"原有 logit 最大差 {logits['max_logit_difference']:.3g}",
    ))  # fmt: skip
    if "texts" in receipt:
        texts = receipt["texts"]
        click.echo("  " + say(
            f"your texts: {texts['tokens_before']:,} tokens before, {texts['tokens_after']:,} now: "
            f"{texts['saved']:.1%} fewer",
            f"你的文本：原 {texts['tokens_before']:,} 个词元，现 {texts['tokens_after']:,} 个，少 {texts['saved']:.1%}",
        ))  # fmt: skip
    click.echo("  " + say(f"receipt: {made.path / 'receipt.json'}", f"回执：{made.path / 'receipt.json'}"))
