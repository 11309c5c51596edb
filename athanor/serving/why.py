"""The training documents behind an answer, as rows for the page and for `--json`."""

from collections.abc import Callable, Sequence
from typing import Any

from athanor.store.index import Span

Row = dict[str, Any]
StepOf = Callable[[int], int | None]


def span_rows(spans: Sequence[Span], step_of: StepOf | None = None) -> list[Row]:
    """Spans of the document index as JSON rows: text, start, end, count, matches.

    Args:
        step_of: from a document's number to the training step that first saw it; None when that is not known.
    Returns:
        one row per span; a match has document, number, offset (characters), line, step, before, after.
    """
    return [_span_row(span, step_of) for span in spans]


def _span_row(span: Span, step_of: StepOf | None) -> Row:
    matches = [
        {
            "document": place.document,
            "number": place.number,
            "offset": place.character_offset,
            "line": place.line,
            "step": step_of(place.number) if step_of else None,
            "before": place.before,
            "after": place.after,
        }
        for place in span.occurrences
    ]
    return {"text": span.text, "start": span.start, "end": span.end, "count": span.count, "matches": matches}
