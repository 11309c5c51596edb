"""One HTML file that opens without a network: the template, the chart library and the numbers, all inside it."""

import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from athanor.base.tables import duration, quantity, size

WEB = Path(__file__).parent / "web"


def render_page(template: Path, **values: Any) -> str:
    """Fill a template with values; text is escaped, scripts and styles are inlined."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"quantity": quantity, "size": size, "duration": duration, "percent": percent}
    return environment.get_template(template.name).render(
        chart_script=Markup((WEB / "uPlot.iife.min.js").read_text(encoding="utf-8")),
        chart_style=Markup((WEB / "uPlot.min.css").read_text(encoding="utf-8")),
        to_json=to_json,
        **values,
    )


def to_json(value: Any) -> Markup:
    """JSON that is safe inside a script element: no `<` can end it."""
    return Markup(json.dumps(value, ensure_ascii=False).replace("<", "\\u003c"))


def percent(value: float) -> str:
    """'97.5 %'."""
    return f"{100 * value:.1f} %"


def smooth(values: list[float], span: int) -> list[float]:
    """Running mean over the last `span` values, for curves."""
    smoothed: list[float] = []
    total = 0.0
    for place, value in enumerate(values):
        total += value - (values[place - span] if place >= span else 0.0)
        smoothed.append(total / min(place + 1, span))
    return smoothed
