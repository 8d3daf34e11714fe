"""Draws which package imports which, and prints how large the modules are, both from the code.

python scripts/import_graph.py --out=docs/images/import_graph.svg

A box is a package, with the outside libraries that come in there; a row is a level, so every arrow
points down. An arrow that follows from others is left out, and so are those to `errors`, which
everything may raise.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import itertools
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence

from absl import flags

from softbio_jax import command

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "softbio_jax"
SCRIPTS = "scripts"
GROUND = "errors"  # imported everywhere, so no arrow leads there

_OUT = flags.DEFINE_string("out", None, "The SVG file to write; by default only sizes are printed.")

# Libraries that the picture names where they are imported, by the names that people call them.
_LIBRARIES = {
    "flax": "Flax", "grain": "Grain", "matplotlib": "Matplotlib", "onnx": "ONNX",
    "optax": "optax", "orbax": "Orbax", "tensorboardX": "tensorboardX",
    "tensorflow_datasets": "TFDS", "torch": "torch",
}  # fmt: skip
_BOX, _ROW, _GAP, _MARGIN = (172, 62), 104, 26, 28
# Fill and border by level, from the bottom up.
_COLOURS = (
    ("#e8f1ec", "#5c8a72"), ("#e3f0f1", "#4d8a90"), ("#e3edf6", "#4c7fa8"), ("#e6e9f7", "#5c6fb1"),
    ("#ece6f6", "#7a64ab"), ("#f4e5f2", "#9c5f95"), ("#f8e6ea", "#ad5f74"), ("#faeadf", "#b5744a"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Box:
    """A package of the picture, how large it is and which outside libraries it imports."""

    name: str
    modules: int
    lines: int
    libraries: tuple[str, ...] = ()


def main(_: Sequence[str]) -> None:
    rows = {"the package": sizes(PACKAGE), "scripts": sizes(SCRIPTS)}
    for name, lengths in rows.items():
        print(f"{name}: {len(lengths)} modules, {sum(lengths.values()):,} lines, ", end="")
        largest = max(lengths, key=lambda path: (lengths[path], path))
        print(f"median {statistics.median(lengths.values()):.0f}, ", end="")
        print(f"largest {lengths[largest]} ({largest})")
    if _OUT.value:
        path = pathlib.Path(_OUT.value)
        path.write_text(draw(boxes(), imports()))
        print(f"wrote {path}")


def sizes(folder: str) -> dict[str, int]:
    """Returns the lines of each module of a folder of the repository; empty files do not count."""
    found = {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines())
        for path in _modules(folder)
    }
    return {path: lines for path, lines in found.items() if lines}


def boxes() -> dict[str, Box]:
    """Returns the packages: the top level's folders and files, and the scripts as one."""
    lengths = collections.defaultdict[str, list[int]](list)
    outside = collections.defaultdict[str, set[str]](set)
    for path, lines in (sizes(PACKAGE) | sizes(SCRIPTS)).items():
        if part := _part(path):
            lengths[part].append(lines)
            outside[part] |= {name.split(".")[0] for name in _imported(ROOT / path)}
    return {
        name: Box(
            name=name,
            modules=len(found),
            lines=sum(found),
            libraries=tuple(
                said for library, said in _LIBRARIES.items() if library in outside[name]
            ),
        )
        for name, found in sorted(lengths.items())
    }


def imports() -> dict[str, set[str]]:
    """Returns package -> the packages it imports, at a module's top or inside a function."""
    found = collections.defaultdict[str, set[str]](set)
    for folder in (PACKAGE, SCRIPTS):
        for path in _modules(folder):
            own = _part(path.relative_to(ROOT).as_posix())
            for name in _imported(path):
                parts = name.split(".")
                if own and parts[0] == PACKAGE and len(parts) > 1 and parts[1] != own:
                    found[own].add(parts[1])
    return dict(sorted(found.items()))


def reduced(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Returns the arrows that do not follow from others, without those to the ground."""

    def reached(start: str) -> set[str]:
        return set().union(*({other} | reached(other) for other in graph.get(start, ())))

    return sorted(
        (name, other)
        for name in graph
        for other in graph[name] - {GROUND}
        if not any(other in reached(between) for between in graph[name])
    )


def levels(names: Sequence[str], arrows: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Returns the row of each package, 0 the lowest: right below the lowest that imports it."""
    below = collections.defaultdict[str, list[str]](list)
    above = collections.defaultdict[str, list[str]](list)
    for name, other in arrows:
        below[name].append(other)
        above[other].append(name)

    def height(name: str) -> int:
        return 1 + max(map(height, below[name]), default=-1)

    def level(name: str) -> int:
        return min(map(level, above[name])) - 1 if above[name] else height(name)

    return {name: level(name) for name in names}


def chains(level: Mapping[str, int], arrows: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Returns what each arrow passes from top to bottom: a box, a bend a row between, a box."""
    return [
        [name, *(f"{name}-{other}@{row}" for row in _between(level[name], level[other])), other]
        for name, other in arrows
    ]


def places(level: Mapping[str, int], arrows: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Returns the horizontal centre of each box and bend: near what leads to it, apart in a row."""
    passed = chains(level, arrows)
    rows = {name: _row(name, level) for chain in passed for name in chain} | dict(level)
    above = collections.defaultdict[str, list[str]](list)
    for chain in passed:
        for upper, lower in itertools.pairwise(chain):
            above[lower].append(upper)
    centre: dict[str, float] = {}
    for row in range(max(rows.values()), -1, -1):
        wish = {
            name: statistics.fmean([centre[upper] for upper in above[name]] or [0.0])
            for name in rows
            if rows[name] == row
        }
        order = sorted(wish, key=lambda name: (wish[name], name))
        spread = [wish[order[0]]]
        for left, right in itertools.pairwise(order):
            step = (_width(left) + _width(right)) / 2 + _GAP
            spread.append(max(wish[right], spread[-1] + step))
        # A row of several goes half way back to the middle, lest the picture drift to one side.
        middle = statistics.fmean(wish.values()) / (2 if len(wish) > 1 else 1)
        shift = middle - statistics.fmean(spread)
        centre |= {name: x + shift for name, x in zip(order, spread, strict=True)}
    return centre


def draw(packages: Mapping[str, Box], graph: Mapping[str, set[str]]) -> str:
    """Returns the picture as SVG; the same code gives the same text."""
    arrows = reduced(graph)
    drawn = [name for name in packages if name != GROUND]
    level, (wide, high) = levels(drawn, arrows), _BOX
    centre = places(level, arrows)
    left = min(centre.values()) - wide / 2 - _MARGIN
    width = max(centre.values()) + wide / 2 + _MARGIN - left
    top = max(level.values())
    at = {
        name: (round(x - left), _MARGIN + (top - _row(name, level)) * _ROW)
        for name, x in centre.items()
    }
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
    path = f"M{stops[0][0]} {stops[0][1] + _BOX[1]}"
    for (x, y), (to_x, to_y) in itertools.pairwise(stops):
        y += _BOX[1]
        last = (to_x, to_y) == stops[-1]
        end = to_y - 2 if last else to_y
        bend = (end - y) / 2
        path += f"C{x} {y + bend:.0f} {to_x} {end - bend:.0f} {to_x} {end}"
        path += "" if last else f"V{to_y + _BOX[1]}"
    return path


def _between(upper: int, lower: int) -> range:
    return range(upper - 1, lower, -1)


def _row(name: str, level: Mapping[str, int]) -> int:
    return int(name.rpartition("@")[2]) if "@" in name else level[name]


def _width(name: str) -> int:
    return 0 if "@" in name else _BOX[0]


def _box(box: Box, x: float, y: float, width: float, colours: tuple[str, str]) -> Iterator[str]:
    fill, border = colours
    module = "module" if box.modules == 1 else "modules"
    middle = x + width / 2
    y_text = y if box.libraries else y + 7
    yield (
        f'<g id="{box.name}" data-modules="{box.modules}" data-lines="{box.lines}">'
        f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{_BOX[1]}" rx="7" fill="{fill}" '
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


def _modules(folder: str) -> list[pathlib.Path]:
    return sorted(p for p in (ROOT / folder).rglob("*.py") if "__pycache__" not in p.parts)


def _part(path: str) -> str:
    """softbio_jax/train/loop.py -> train; scripts/train.py -> scripts; the top level itself: ""."""
    folder, name = path.split("/")[:2]
    return folder if folder == SCRIPTS else name.removesuffix(".py").removeprefix("__init__")


def _imported(path: pathlib.Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


if __name__ == "__main__":
    command.run(main)
