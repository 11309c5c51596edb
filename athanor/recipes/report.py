"""The step that writes the report: one HTML page from the records and files of everything before it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from athanor.base.page import percent, render_page, smooth
from athanor.base.progress import Progress
from athanor.base.records import read_records
from athanor.base.settings import Settings
from athanor.base.tables import duration, quantity, size
from athanor.recipes.quantize import RECEIPT, limits, losses
from athanor.store.artifact import Artifact

PAGE = "report.html"
NEXT_STEPS = (
    "athanor chat",
    "athanor serve",
    'athanor why "Return a list of the words in the string"',
    "athanor lineage",
)
SMOOTHED = 25  # steps
SAMPLES = 2  # per skill and language
COLUMNS = (
    {"key": "before", "en": "pretrained", "zh": "预训练后"},
    {"key": "after", "en": "fine-tuned", "zh": "微调后"},
    {"key": "int4", "en": "INT4", "zh": "INT4"},
)
PARTS = {
    "clean": ("clean: not in the training text", "干净：不在训练文本中"),
    "dirty": ("dirty: in the training text, word for word or in other words", "受污染：训练文本中出现过（原文或改写）"),
    "unjudged": ("too short to be told from chance", "过短，无法与巧合区分"),
    "dirty_minus_clean": ("dirty minus clean", "受污染与干净之差"),
}
LOST = {
    "kl_mean": ("mean KL divergence (nats per token)", "平均 KL 散度（每词元 nat）"),
    "disagreement": ("places where the likeliest token differs", "首选词元不同的比例"),
    "bits_lost": ("rise of bits per byte", "每字节比特数上升"),
    "accuracy_lost": ("fall of exact answers", "精确正确率下降"),
}


class ReportSettings(Settings):
    """What the page says about itself."""

    recipe: str
    """Its name; the runner fills it in."""
    about: dict[str, str] = pydantic.Field(default_factory=dict)


def write_report(
    settings: ReportSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write report.html: figures, curves, funnel, samples, the receipt, plan beside measurement, reasons."""
    progress.start("writing the report", 1, "page")
    results = json.loads(parents["evaluation"].file("results.json").read_text(encoding="utf-8"))
    receipt = json.loads(parents["quantized"].file(RECEIPT).read_text(encoding="utf-8"))
    skills = {**results["skills"], "int4": receipt["skills"]}
    page = render_page(
        Path(__file__).with_name(PAGE),
        recipe=settings.recipe,
        about={"en": settings.about.get("en", ""), "zh": settings.about.get("zh", "")},
        tiles=_tiles(parents, results, receipt, skills),
        columns=COLUMNS,
        languages=sorted(skills["after"]),
        skills=_skill_rows(skills),
        contamination=_contamination_rows(results.get("contamination")),
        bits=_bit_rows(results["bits_per_byte"], receipt),
        curves=[_curve("pretraining", parents["pretrained"]), _curve("fine-tuning", parents["finetuned"])],
        funnel=_funnel(parents),
        receipt=_receipt_rows(receipt, parents["quantized"].record["settings"]),
        steps=_step_rows(parents),
        totals=_total_rows(parents),
        samples=_samples(parents),
        continuations=results["continuations"],
        reasons=_reasons(parents),
        machine=_machine(parents["pretrained"].record),
        next_steps="\n".join(NEXT_STEPS),
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
    progress.advance()
    progress.finish()
    return {"bytes": len(page.encode())}


def _tiles(parents: Mapping[str, Artifact], results: Any, receipt: Any, skills: Any) -> list[dict[str, str]]:
    bits = results["bits_per_byte"]
    total = sum(artifact.measurements["seconds"] for artifact in parents.values())
    better = bits["before"]["value"] < bits["lzma"]
    tiles = [
        _tile(quantity(parents["pretrained"].measurements["parameters"]), "parameters", "参数量"),
        _tile(f"{bits['before']['value']:.2f}", f"bits per byte; LZMA needs {bits['lzma']:.2f}",
              f"每字节比特数；LZMA 为 {bits['lzma']:.2f}", "good" if better else "bad"),
    ]  # fmt: skip
    for language, rows in sorted(skills["after"].items()):
        passed = sum(row["value"] >= 0.9 for name, row in rows.items() if name != "all")
        count = len(rows) - 1
        state = "good" if passed >= 5 else "bad"
        tiles.append(
            _tile(
                f"{passed} / {count}", f"skills at 90 % or more · {language}", f"达到 90 % 的技能 · {language}", state
            )
        )
    share = receipt["bytes"] / receipt["bytes_before"]
    tiles.append(_tile(percent(share), f"size of the INT4 model ({size(receipt['bytes'])})",
                       f"INT4 模型大小占比（{size(receipt['bytes'])}）"))  # fmt: skip
    tiles.append(_tile(duration(total), "all steps together", "全部步骤用时"))
    return tiles


def _tile(value: str, english: str, chinese: str, state: str = "") -> dict[str, str]:
    return {"value": value, "en": english, "zh": chinese, "state": state}


def _skill_rows(skills: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = [name for name in next(iter(skills["after"].values())) if name != "all"] + ["all"]
    rows = []
    for name in names:
        cells = {
            language: {column["key"]: skills[column["key"]][language][name] for column in COLUMNS}
            for language in skills["after"]
        }
        rows.append({"skill": name.replace("_", " "), "cells": cells})
    return rows


def _contamination_rows(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Scores by language and part, and what the problems that were seen in training scored more."""
    if found is None:
        return []
    roles, rows = ("before", "after"), []
    for part, (english, chinese) in PARTS.items():
        scores = {role: found[role].get(part, {}) for role in roles}
        for language in sorted(scores["after"]):
            cells = [scores[role][language] for role in roles]
            cells = [cell if part == "dirty_minus_clean" else cell["all"] for cell in cells]
            told = [f"{percent(one['value'])} [{percent(one['low'])}, {percent(one['high'])}]" for one in cells]
            rows.append({"language": language, "en": english, "zh": chinese, "n": cells[0]["n"], "cells": told})
    return rows


def _bit_rows(bits: Mapping[str, Any], receipt: Mapping[str, Any]) -> list[dict[str, Any]]:
    def row(value: float, english: str, chinese: str, note: tuple[str, str], interval: str = "–") -> dict[str, Any]:
        return {
            "value": value,
            "en": english,
            "zh": chinese,
            "interval": interval,
            "note_en": note[0],
            "note_zh": note[1],
        }

    known = quantity(bits["bytes"])
    rows = [
        row(bits["lzma"], "LZMA", "LZMA", ("xz -9e over the same bytes in one stream", "同样字节，xz -9e 单流压缩"))
    ]
    for key, english, chinese in (("before", "pretrained", "预训练后"), ("after", "fine-tuned", "微调后")):
        one = bits[key]
        note = (f"{known}B of held-out documents", f"{known}B 留出文档")
        rows.append(row(one["value"], english, chinese, note, f"{one['low']:.3f} – {one['high']:.3f}"))
    less = ("a part of the same documents, as in the receipt", "同一批文档的一部分，见回执")
    rows.append(row(receipt["bits_before"], "fine-tuned, receipt's part", "微调后（回执部分）", less))
    rows.append(row(receipt["bits_after"], "INT4, receipt's part", "INT4（回执部分）", less))
    return rows


def _curve(title: str, model: Artifact) -> dict[str, Any]:
    rows = list(read_records(model.file("metrics.jsonl")))
    loss = [round(row["loss"], 4) for row in rows]
    return {
        "title": title, "step": [row["step"] for row in rows], "loss": loss,
        "smooth": [round(value, 4) for value in smooth(loss, SMOOTHED)],
    }  # fmt: skip


def _funnel(parents: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    rows = []
    for role in ("documents", "corpus"):
        rows += json.loads(parents[role].file("funnel.json").read_text(encoding="utf-8"))
    return rows


def _receipt_rows(receipt: Mapping[str, Any], settings: Mapping[str, Any]) -> list[dict[str, str]]:
    allowed, found = limits(dict(settings)), losses(dict(receipt))
    rows = [
        {"en": LOST[name][0], "zh": LOST[name][1], "value": f"{value:.4f}", "allowed": f"≤ {allowed[name][1]:.4f}"}
        for name, value in found.items()
    ]
    sizes = f"{size(receipt['bytes_before'])} → {size(receipt['bytes'])}"
    rows.append({"en": "size", "zh": "大小", "value": sizes, "allowed": "–"})
    rows.append({"en": "bits per weight", "zh": "每权重比特", "value": str(receipt["bits_per_weight"]), "allowed": "–"})
    return rows


def _step_rows(parents: Mapping[str, Artifact]) -> list[dict[str, str]]:
    rows = []
    for artifact in parents.values():
        planned = artifact.record["expected"]
        expected = duration(planned["seconds"]) if planned else "–"
        total = sum(file["bytes"] for file in artifact.record["files"].values())
        took = duration(artifact.measurements["seconds"])
        name = str(artifact.record["name"])
        rows.append({"name": name, "artifact": artifact.id, "planned": expected, "took": took, "size": size(total)})
    return rows


def _total_rows(parents: Mapping[str, Artifact]) -> list[dict[str, str]]:
    planned = [artifact.record["expected"] for artifact in parents.values()]
    if not all(planned):
        return []  # a step was run by itself, without an estimate
    trained = [parents[role].measurements for role in ("pretrained", "finetuned")]
    tokens, seconds = (sum(one[key] for one in trained) for key in ("tokens", "train_seconds"))
    flops, planned_tokens = (sum(one[key] for one in planned) for key in ("flops", "tokens"))
    took = sum(artifact.measurements["seconds"] for artifact in parents.values())
    peak = max(artifact.measurements["peak_memory"] for artifact in parents.values())
    parameters = max(one["parameters"] for one in planned)
    hoped = flops / sum(one["seconds"] for one in planned if one["flops"])
    return [
        _total("parameters", "参数量", f"{parameters:,}", f"{trained[0]['parameters']:,}"),
        _total("training tokens", "训练词元", f"{planned_tokens:,}", f"{tokens:,}"),
        _total("training speed", "训练速度", f"{quantity(hoped)}FLOP/s", f"{quantity(flops / seconds)}FLOP/s"),
        _total("peak memory", "内存峰值", size(max(one["memory"] for one in planned)), size(peak)),
        _total("time of these steps", "以上步骤用时", duration(sum(one["seconds"] for one in planned)), duration(took)),
    ]


def _total(english: str, chinese: str, planned: str, measured: str) -> dict[str, str]:
    return {"en": english, "zh": chinese, "planned": planned, "measured": measured}


def _samples(parents: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    answers = list(read_records(parents["evaluation"].file("answers.jsonl")))
    answers += read_records(parents["quantized"].file("answers.jsonl"))
    by_question: dict[tuple[str, str, str], dict[str, Any]] = {}
    counts: dict[tuple[str, str], int] = {}
    for answer in answers:
        place = answer["skill"], answer["language"], answer["question"]
        if place not in by_question:
            counts[place[:2]] = counts.get(place[:2], 0) + 1
            if counts[place[:2]] > SAMPLES:
                continue
            by_question[place] = {"question": answer["question"], "expected": answer["expected"], "answers": {}}
        by_question[place]["answers"][answer["model"]] = {"text": answer["given"][:200], "right": answer["right"]}
    nothing = {"text": "–", "right": False}
    return [
        {**row, "answers": {column["key"]: row["answers"].get(column["key"], nothing) for column in COLUMNS}}
        for row in by_question.values()
    ]


def _reasons(parents: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    return [
        {"key": f"{artifact.record['name']}.{key}", "value": artifact.record["settings"][key], "reason": reason}
        for artifact in parents.values()
        for key, reason in artifact.record["reasons"].items()
    ]


def _machine(record: Mapping[str, Any]) -> str:
    here = record["machine"]
    memory = size(here["memory"])
    what = f"{here['system']} {here['processor']}, {here['cores']} cores, {memory}"
    return f"{what} · Athanor {record['version']}, code {record['code']}"
