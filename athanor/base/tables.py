"""Numbers, durations and tables as people read them."""

from collections.abc import Sequence
from typing import Any


def quantity(value: float) -> str:
    """'950', '12.3 k', '4.56 M', '1.23 G', '3.15e+23': three or four significant digits."""
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}" if abs(value) < 100 * size else f"{value / size:.0f}{letter}"
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def size(count: float) -> str:
    """Bytes in decimal units: '12.3 MB'."""
    text = quantity(count)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def duration(seconds: float) -> str:
    """'0.4 s', '9 s', '1:05', '2:01:05', '3 days', '12 years'."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    if whole < 2 * 86400:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    days = seconds / 86400
    return f"{days:,.0f} days" if days < 2 * 365.25 else f"{days / 365.25:,.0f} years"


def text_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in plain text, columns aligned (wide characters counted as two), numbers to the right."""
    from rich.cells import cell_len

    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(header))]
    right = [all(_is_number(row[column]) for row in cells[1:]) for column in range(len(header))]
    lines = []
    for row in cells:
        padded = []
        for cell, width, to_the_right in zip(row, widths, right, strict=True):
            blank = " " * (width - cell_len(cell))
            padded.append(blank + cell if to_the_right else cell + blank)
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return bool(text) and (text[0].isdigit() or (text[0] in "-+." and len(text) > 1))
