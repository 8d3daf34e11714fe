"""Which package imports which, and how large they are, from the code."""

from __future__ import annotations

import ast
import collections
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

ROOT = pathlib.Path(__file__).resolve().parents[3]
PACKAGE = "softbio_jax"
SCRIPTS = "scripts"
GROUND = "errors"  # imported everywhere, so no arrow leads there

# Libraries that the image names where they are imported, by their usual names.
_LIBRARIES = {
    "flax": "Flax",
    "grain": "Grain",
    "matplotlib": "Matplotlib",
    "onnx": "ONNX",
    "optax": "optax",
    "orbax": "Orbax",
    "tensorboardX": "tensorboardX",
    "tensorflow_datasets": "TFDS",
    "torch": "torch",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Box:
    """A package of the image: its name, its size and the outside libraries that it imports."""

    name: str
    modules: int
    lines: int
    libraries: tuple[str, ...] = ()


def sizes(folder: str) -> dict[str, int]:
    """Returns the lines of each module of a folder of the repository; empty files do not count."""
    found = {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in _modules(folder)
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
            libraries=tuple(said for library, said in _LIBRARIES.items() if library in outside[name]),
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
