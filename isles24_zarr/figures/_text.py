"""How wide a text is, and lines of it that fit, before there is a figure to draw them on."""

from __future__ import annotations

import functools


@functools.lru_cache(maxsize=256)
def text_inches(text: str, points: float, *, bold: bool = False) -> float:
    """Return the width of a text."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    if not text.strip():
        return 0.0
    font = FontProperties(size=points, weight="bold" if bold else "normal")
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)  # dollars are no formulas
    # what is drawn is a little wider: letters begin and end at whole dots
    return float(width) / 72 * 1.03


def wrapped_text(text: str, inches: float, points: float, *, bold: bool = False) -> list[str]:
    """Return a text as lines that fit into a width, by words; a word that does not is cut. Wide gaps part first."""
    first, gap, rest = text.partition("  ")
    if gap and text_inches(text, points, bold=bold) > inches:
        return [line for part in (first, rest) for line in wrapped_text(part, inches, points, bold=bold)]
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if text_inches(longer, points, bold=bold) <= inches:
            lines = [*lines[:-1], longer]
        else:
            lines.append(shortened_text(word, inches, points, bold=bold))
    return [line.strip() for line in lines if line.strip()]


def shortened_text(text: str, inches: float, points: float, *, bold: bool = False) -> str:
    """Return a text, or as much of it as fits, and an ellipsis."""
    if text_inches(text, points, bold=bold) <= inches:
        return text
    fits = next((n for n in range(len(text), 0, -1) if text_inches(f"{text[:n]}…", points, bold=bold) <= inches), 0)
    return f"{text[:fits]}…"


def counted(number: int, noun: str) -> str:
    """Write how many there are of something."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
