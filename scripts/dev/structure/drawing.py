"""A layered graph of packages as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from structure.imports import GROUND, Box, reduced
from structure.layout import BOX, chains, levels, places, row_of

_ROW, _MARGIN = 104, 28
# Fill and border by level, from the bottom up.
_COLOURS = (
    ("#e8f1ec", "#5c8a72"),
    ("#e3f0f1", "#4d8a90"),
    ("#e3edf6", "#4c7fa8"),
    ("#e6e9f7", "#5c6fb1"),
    ("#ece6f6", "#7a64ab"),
    ("#f4e5f2", "#9c5f95"),
    ("#f8e6ea", "#ad5f74"),
    ("#faeadf", "#b5744a"),
)


def draw(packages: Mapping[str, Box], graph: Mapping[str, set[str]]) -> str:
    """Returns the image as SVG; the same code gives the same text."""
    arrows = reduced(graph)
    drawn = [name for name in packages if name != GROUND]
    level, (wide, high) = levels(drawn, arrows), BOX
    centre = places(level, arrows)
    left = min(centre.values()) - wide / 2 - _MARGIN
    width = max(centre.values()) + wide / 2 + _MARGIN - left
    top = max(level.values())
    at = {name: (round(x - left), _MARGIN + (top - row_of(name, level)) * _ROW) for name, x in centre.items()}
    ground = _MARGIN + (top + 1) * _ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {ground + high + 12}" '
        'font-family="system-ui, Helvetica, Arial, sans-serif" text-anchor="middle">',
        "<title>Which package imports which</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0.5 7.5 4 0 7.5z" fill="#6b7280"/></marker>'
        "</defs>",
        '<rect width="100%" height="100%" rx="10" fill="#fcfcfb"/>',
    ]
    for chain in chains(level, arrows):
        lines.append(
            f'<path id="{chain[0]}-{chain[-1]}" d="{_curve([at[stop] for stop in chain])}" '
            'fill="none" stroke="#6b7280" stroke-width="1.3" marker-end="url(#tip)"/>'
        )
    for name in drawn:
        x, y = at[name]
        lines += _box(packages[name], x - wide / 2, y, wide, _COLOURS[level[name] % len(_COLOURS)])
    if GROUND in packages:
        inner = width - 2 * _MARGIN
        lines += _box(packages[GROUND], _MARGIN, ground, inner, ("#f0efec", "#8b877d"))
    return "\n".join([*lines, "</svg>", ""])


def _curve(stops: Sequence[tuple[int, int]]) -> str:
    """Returns the path from the first box through the rows between to the top of the last one."""
    path = f"M{stops[0][0]} {stops[0][1] + BOX[1]}"
    for (x, y), (to_x, to_y) in itertools.pairwise(stops):
        y += BOX[1]
        last = (to_x, to_y) == stops[-1]
        end = to_y - 2 if last else to_y
        bend = (end - y) / 2
        path += f"C{x} {y + bend:.0f} {to_x} {end - bend:.0f} {to_x} {end}"
        path += "" if last else f"V{to_y + BOX[1]}"
    return path


def _box(box: Box, x: float, y: float, width: float, colours: tuple[str, str]) -> Iterator[str]:
    fill, border = colours
    module = "module" if box.modules == 1 else "modules"
    middle = x + width / 2
    y_text = y if box.libraries else y + 7
    yield (
        f'<g id="{box.name}" data-modules="{box.modules}" data-lines="{box.lines}">'
        f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{BOX[1]}" rx="7" fill="{fill}" '
        f'stroke="{border}" stroke-width="1.2"/>'
    )
    yield (
        f'<text x="{middle:.0f}" y="{y_text + 22}" font-size="15" font-weight="600" '
        f'fill="#1f2933">{box.name}</text>'
    )
    yield (
        f'<text x="{middle:.0f}" y="{y_text + 38}" font-size="11.5" fill="#52606d">'
        f"{box.modules} {module}, {box.lines:,} lines</text>"
    )
    if box.libraries:
        yield (
            f'<text x="{middle:.0f}" y="{y + 53}" font-size="10.5" font-style="italic" '
            f'fill="{border}">{", ".join(box.libraries)}</text>'
        )
    yield "</g>"
