"""What a run shows at its end: the curve, the figures, a few answers of the INT4 model, and how to go on."""

from collections.abc import Mapping
from typing import TextIO

from athanor.base.records import read_records
from athanor.base.tables import duration, size, text_table
from athanor.base.words import say
from athanor.recipes.report import PAGE
from athanor.store.artifact import Artifact, Store

SHOWN = ("addition", "sorting_numbers", "next_day", "number_words")  # one held-out problem of each, in each language


def show_end(made: Mapping[str, Artifact], store: Store, stream: TextIO) -> None:
    """Print curves and figures, let the quantised model answer, and say what to do next."""
    for name in ("pretrain", "finetune"):
        if name in made:
            print(draw_curve(name, made[name]), file=stream)
    if "evaluate" in made:
        print(_figures(made["evaluate"]), file=stream)
    if "quantize" in made and "skills" in made:
        _answer(made["quantize"], made["skills"], stream)
    report = made["report"].path / PAGE
    print(f"\n{say('report', '报告')}: {report}", file=stream)
    print(say("go on:", "接下来："), file=stream)
    for command, meaning in (
        ("athanor chat", say("talk to it", "与它对话")),
        ("athanor serve", say("OpenAI's interface and a chat page at http://127.0.0.1:8000/", "OpenAI 接口与聊天网页")),
        ('athanor why "Return a list of the words in the string"', say("who taught it this", "这句话从哪学来")),
        ("athanor lineage", say("what was made of what", "产物的来历")),
    ):
        print(f"  {command:<58} {meaning}", file=stream)


def show_cost(made: Mapping[str, Artifact], stream: TextIO) -> None:
    """Print what each training was estimated to take, and what it took; nothing where nothing was estimated."""
    rows = []
    for name, artifact in made.items():
        planned, measured = artifact.record.get("expected") or {}, artifact.measurements
        if not planned.get("flops") or "train_flops" not in measured:
            continue
        rows.append([
            name, duration(planned["seconds"]), duration(measured["seconds"]),
            size(planned["memory"]), size(measured["peak_memory"]),
            f"{planned['flops']:.3g}", f"{measured['train_flops']:.3g}" if measured["train_flops"] else "–",
        ])  # fmt: skip
    if rows:
        header = [say("training", "训练"), say("time planned", "预计用时"), say("took", "实际"),
                  say("memory planned", "预计内存"), say("peak", "峰值"), say("FLOPs planned", "预计 FLOPs"),
                  say("measured", "实测")]  # fmt: skip
        print("\n" + text_table(header, rows), file=stream)


def draw_curve(title: str, model: Artifact) -> str:
    """The loss of a training run as text."""
    from uniplot import plot_to_string

    rows = list(read_records(model.file("metrics.jsonl")))
    named = f"{title}: {say('loss (nats per token) by step', '损失（每词元 nat）随步数')}"
    return "\n" + plot_to_string(
        [row["loss"] for row in rows], [row["step"] for row in rows], title=named, lines=True, character_set="braille",
        width=64, height=10,
    )  # fmt: skip


def _figures(evaluation: Artifact) -> str:
    figures = evaluation.measurements
    languages = sorted({name.split("_")[1] for name in figures if name.startswith("accuracy_")})
    header = ["", say("pretrained", "预训练后"), say("fine-tuned", "微调后")]
    rows = [[
        say("bits per byte", "每字节比特") + f" (LZMA {figures['lzma_bits_per_byte']:.3f})",
        f"{figures['bits_per_byte_before']:.3f}", f"{figures['bits_per_byte_after']:.3f}",
    ]]  # fmt: skip
    for language in languages:
        share = [f"{100 * figures[f'accuracy_{language}_{role}']:.1f} %" for role in ("before", "after")]
        rows.append([say(f"held-out problems, {language}", f"留出题目 {language}"), *share])
        count = [str(figures[f"skills_passed_{language}_{role}"]) for role in ("before", "after")]
        rows.append([say(f"skills at 90 % or more, {language}", f"达到 90 % 的技能 {language}"), *count])
    return "\n" + text_table(header, rows)


def _answer(model: Artifact, conversations: Artifact, stream: TextIO) -> None:
    """Let the quantised model answer who it is, and the last held-out problem of a few skills, right or wrong."""
    from athanor.data.instruct.names import EXAM
    from athanor.data.instruct.skills import check
    from athanor.inference.runtime import open_model
    from athanor.inference.sampling import Sampling
    from athanor.tokens.conversation import Turn

    last = {(row["meta"]["skill"], row["meta"]["language"]): row for row in read_records(conversations.file(EXAM))}
    asked = [("Who are you?", None), ("你是谁？", None)]
    for (skill, _), row in last.items():
        if skill in SHOWN:
            asked.append((row["messages"][0]["content"], row["meta"]["answer"]))
    runtime = open_model(model.path)
    prompts = [runtime.chat_prompt([Turn("user", question)]) for question, _ in asked]
    given = runtime.engine.generate_batch(prompts, Sampling(max_tokens=64))
    print("\n" + say("the INT4 model answers:", "INT4 模型回答："), file=stream)
    for (question, expected), completion in zip(asked, given, strict=True):
        verdict = "" if expected is None else " ✓" if check(completion.text, expected) else f" ✗ ({expected})"
        print(f"  » {question}\n    {completion.text.strip()}{verdict}", file=stream)
