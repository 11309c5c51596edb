"""Draws what quality.py measured: bits per byte over CPU minutes, a panel for each corpus, as SVG.

python benchmarks/training/quality_picture.py benchmarks/training/quality.jsonl docs/pictures/quality.svg
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 330, 48, 146, 40, 40  # of a panel and its margins, in pixels
FEWEST = 3  # points of a curve; shorter ones are trials of a rate
COLOURS = {"ours": "#c2410c", "nanochat": "#1d4ed8", "litgpt": "#15803d", "hf": "#6b21a8"}
NAMES = {"ours": "Athanor", "nanochat": "nanochat", "litgpt": "litgpt", "hf": "HF Trainer"}
CORPORA = {"en_gutenberg.jsonl.gz": "30 English books", "quickstart": "the quickstart's corpus"}
STYLE = "font: 12px system-ui, sans-serif; fill: #333"

Curve = dict[str, Any]


def name_of(curve: Curve) -> str:
    return NAMES[curve["name"]] + (f", {curve['rate']:g}" if curve["rate"] else "")


class Panel:
    """One corpus: its curves on common axes."""

    def __init__(self, title: str, curves: list[Curve]):
        self.title, self.curves = title, curves
        bits = [bits for curve in curves for _, bits in curve["curve"]]
        self.low, self.high = int(min(bits) * 5) / 5, int(max(bits) * 5 + 1) / 5  # whole fifths of a bit
        self.minutes = max(curve["minutes"] for curve in curves)

    def place(self, seconds: float, bits: float) -> tuple[float, float]:
        x = LEFT + seconds / 60 / self.minutes * (WIDTH - LEFT - RIGHT)
        y = TOP + (self.high - bits) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    def lines(self) -> list[str]:
        return [text(LEFT, 22, self.title, "font-weight: 600"), *self._axes(), *self._curves()]

    def _axes(self) -> list[str]:
        (left, bottom), (right, _) = self.place(0, self.low), self.place(60 * self.minutes, self.low)
        drawn = [text((left + right) / 2, HEIGHT - 6, "CPU minutes of training, one thread", "text-anchor: middle")]
        for minute in range(0, int(self.minutes) + 1, 2):
            drawn.append(text(self.place(60 * minute, 0)[0], bottom + 16, str(minute), "text-anchor: middle"))
        for fifth in range(round(self.low * 5), round(self.high * 5) + 1):
            y = self.place(0, fifth / 5)[1]
            drawn.append(f'<line x1="{left}" y1="{y}" x2="{right}" y2="{y}" stroke="#ddd"/>')
            drawn.append(text(left - 6, y + 4, f"{fifth / 5:.1f}", "text-anchor: end"))
        return drawn

    def _curves(self) -> list[str]:
        drawn, below = [], 0.0
        for curve in sorted(self.curves, key=lambda curve: -curve["curve"][-1][1]):
            points = [self.place(seconds, bits) for seconds, bits in curve["curve"]]
            colour, dash = COLOURS[curve["name"]], ' stroke-dasharray="5 3"' if curve["rate"] else ""
            path = " ".join(f"{x},{y}" for x, y in points)
            drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
            x, y = points[-1]
            below = max(y + 4, below + 14)  # names do not cover each other
            drawn.append(text(x + 6, below, f"{name_of(curve)} {curve['curve'][-1][1]:.2f}", f"fill: {colour}"))
        return drawn


def text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" style="{STYLE}; {style}">{words}</text>'


def main() -> None:
    """Read the curves at the settings that each recommends, and those at a tuned rate; draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    found: defaultdict[str, list[Curve]] = defaultdict(list)
    for line in args.curves.read_text().splitlines():
        curve = json.loads(line)
        if len(curve["curve"]) > FEWEST and curve["ours"] in ("", "{}") and curve["minutes"] >= 4:
            found[curve["corpus"]].append(curve)
    compared = [corpus for corpus in CORPORA if len(found[corpus]) > 1]
    panels = [Panel(f"bits per byte, {CORPORA[corpus]}", found[corpus]) for corpus in compared]
    total = WIDTH * len(panels)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{HEIGHT}" viewBox="0 0 {total} {HEIGHT}">',
        f'<rect width="{total}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for number, panel in enumerate(panels):
        drawn += [f'<g transform="translate({number * WIDTH} 0)">', *panel.lines(), "</g>"]
    args.picture.write_text("\n".join([*drawn, "</svg>"]) + "\n")


if __name__ == "__main__":
    main()
