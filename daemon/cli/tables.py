"""Rows to aligned columns, and numbers to what people read. Pure functions of their arguments."""

from collections.abc import Sequence

GAP = "  "


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as their widest cell; the last one is left ragged."""
    lines = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return [GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def in_bytes(count: float) -> str:
    """1536 → 1.5 kB. Decimal, as network and disk makers count."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def in_count(count: float) -> str:
    """12300 → 12.3k."""
    for unit in ("", "k", "M", "G"):
        if count < 1000:
            return f"{count:.0f}{unit}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}T"


def in_time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    hours = seconds // 3600
    if hours < 48:
        return f"{hours:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{hours // 24:.0f} d {hours % 24:.0f} h"


def number(value: object, digits: int = 3) -> str:
    """A measured number, or a dash while there is none."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "-"


def short_id(text: str) -> str:
    """A peer's or run's id where a person only has to tell it from others."""
    return text if len(text) <= 16 else f"{text[:4]}…{text[-8:]}"
