"""Learning curves of one run or several, for the terminal and as one HTML file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.page import render_page, smooth
from athanor.base.words import say

METRICS = "metrics.jsonl"
MOST_POINTS = 2000  # of a curve in a page: more than a screen has columns
HIGHER = ("accuracy", "macro_f1", "pearson", "spearman")  # watched figures of which more is better; of losses less is
CONSTANT = ("chance", "most_frequent_class")  # what knowing nothing reaches
Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Rows of a metrics file, of a finished run or of one that is being written: a line without its end is left out."""
    if not path.is_file():
        raise AthanorError(f"there is no {path}", fix="name a model that was trained here, or a run that is training")
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def draw_in_terminal(runs: Mapping[str, Sequence[Row]], width: int = 78) -> str:
    """Loss by step of every run in one plot, spikes and skipped steps told below it."""
    from uniplot import plot_to_string

    known = {name: [row for row in rows if row["loss"] is not None] for name, rows in runs.items()}
    if not all(known.values()):
        return say("no step has a loss yet", "还没有任何一步的损失")
    plot = plot_to_string(
        [smooth([row["loss"] for row in rows], span_of(rows)) for rows in known.values()],
        [[row["step"] for row in rows] for rows in known.values()],
        title=say("loss (nats, smoothed) by step", "损失（nat，平滑）随步数"),
        legend_labels=list(known),
        lines=True,
        character_set="braille",
        width=width - 14,
        height=16,
    )
    return "\n".join(["\n" + plot, *(line for name, rows in runs.items() for line in told(name, rows))])


def told(name: str, rows: Sequence[Row]) -> list[str]:
    """What a curve does not show: where it ends, held-out loss, spikes and steps left out."""
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    last = smooth(losses, span_of(rows))[-1]
    parts = [f"{name}: {len(rows):,} {say('steps', '步')}, {say('loss', '损失')} {losses[0]:.3f} → {last:.3f}"]
    watched = [row for row in rows if "watched" in row]
    for key in watched[-1]["watched"] if watched else ():
        figure = key.rpartition("/")[2]
        part = f"{key} {watched[-1]['watched'][key]:.3f}"
        if figure not in CONSTANT:
            better = max if figure in HIGHER else min
            best = better(watched, key=lambda row: row["watched"][key])
            part += f" ({say('best', '最佳')} {best['watched'][key]:.3f} {say('at step', '于第')} {best['step']})"
        parts.append(part)
    lines = [" · ".join(parts)]
    for word, chinese, steps in (
        ("spikes at", "损失突跳于", [row["step"] for row in rows if row.get("spike")]),
        ("no number at", "非数值于", [row["step"] for row in rows if row.get("skipped") == "no number"]),
        ("left out", "跳过", [row["step"] for row in rows if row.get("skipped") == "left out"]),
    ):
        if steps:
            more = f" … ({len(steps)})" if len(steps) > 8 else ""
            lines.append(f"  {say(word, chinese)} {', '.join(map(str, steps[:8]))}{more}")
    return lines


def span_of(rows: Sequence[Row]) -> int:
    """Steps to smooth over: a fiftieth of the run."""
    return max(1, len(rows) // 50)


def draw_page(runs: Mapping[str, Sequence[Row]]) -> str:
    """One HTML file with every curve of every run: loss, held-out, parts, gradient norm, learning rate, trouble."""
    return render_page(
        Path(__file__).with_name("curves.html"), runs=[_curves(name, rows) for name, rows in runs.items()]
    )


def _curves(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    stride = -(-len(rows) // MOST_POINTS)
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    smoothed = iter(smooth(losses, span_of(rows)))
    smooth_of = {row["step"]: next(smoothed) for row in rows if row["loss"] is not None}
    marked = [row for row in rows if row.get("spike") or "skipped" in row]
    shown = sorted(
        {row["step"]: row for row in (*rows[::stride], *rows[-1:], *marked)}.values(), key=lambda r: r["step"]
    )
    parts = sorted({part for row in rows for part in row.get("parts", {})})
    return {
        "name": name,
        "step": [row["step"] for row in shown],
        "loss": [row["loss"] for row in shown],
        "smooth": [smooth_of.get(row["step"]) for row in shown],
        "norm": [row["norm"] for row in shown],
        "rate": [row["rate"] for row in shown],
        "parts": {part: [row.get("parts", {}).get(part) for row in shown] for part in parts},
        "watched": [{"step": row["step"], **row["watched"]} for row in rows if "watched" in row],
        "marks": [{"step": row["step"], "what": row.get("skipped") or "spike"} for row in marked],
        "samples": [{"step": row["step"], "texts": row["samples"]} for row in rows if row.get("samples")],
        "told": told(name, rows) if losses else [],
    }
