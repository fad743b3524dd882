"""Draw which package imports which: ``python docs/draw_architecture.py`` makes the picture out of the imports."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "isles24_zarr"
PICTURE = HERE / "architecture.svg"
WIDTH, ROW, BOX, HEIGHT = 1060, 96, 112, 38


def imported() -> dict[str, set[str]]:
    """Return the packages that each one imports when it runs; what is imported for types alone is left out."""
    rooms = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    found: dict[str, set[str]] = {room: set() for room in rooms}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in found:
            continue
        tree = ast.parse(path.read_text())
        typing = {id(node) for block in tree.body if isinstance(block, ast.If) for node in ast.walk(block)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("isles24_zarr."):
                other = (node.module or "").split(".")[1]
                if other in found and other != room and id(node) not in typing:
                    found[room].add(other)
    return found


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out arrows that others imply: a reader follows those."""

    def reach(room: str) -> set[str]:
        return {room}.union(*(reach(other) for other in graph[room]))

    return {
        room: {other for other in others if not any(other in reach(via) for via in others - {other})}
        for room, others in graph.items()
    }


def drawing() -> str:
    """Return the picture as SVG: each package above all that it imports."""
    graph = imported()

    def depth(room: str) -> int:
        return max((depth(other) + 1 for other in graph[room]), default=0)

    rows: dict[int, list[str]] = {}
    for room in graph:
        rows.setdefault(depth(room), []).append(room)
    highest = max(rows)
    places = {}
    for level, rooms in rows.items():
        for number, room in enumerate(sorted(rooms)):
            places[room] = ((number + 0.5) * WIDTH / len(rooms), (highest - level) * ROW + 30)
    size = f"0 0 {WIDTH} {(highest + 1) * ROW}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif" font-size="15">',
        '<defs><marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path d="M0 0L8 4L0 8z" fill="#777"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{(highest + 1) * ROW}" fill="#fff"/>',
    ]
    for room, others in reduced(graph).items():
        x, y = places[room]
        for other in sorted(others):
            to_x, to_y = places[other]
            parts.append(
                f'<path d="M{x:.0f} {y + HEIGHT / 2:.0f}C{x:.0f} {y + ROW * 0.6:.0f} {to_x:.0f} {to_y - ROW * 0.6:.0f} '
                f'{to_x:.0f} {to_y - HEIGHT / 2:.0f}" fill="none" stroke="#777" marker-end="url(#end)"/>'
            )
    for room, (x, y) in sorted(places.items()):
        parts.append(
            f'<rect x="{x - BOX / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{BOX}" height="{HEIGHT}" rx="6" '
            f'fill="#eef3f8" stroke="#33587a"/><text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{room}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawing())
