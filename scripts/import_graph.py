"""Draws which package imports which, and prints how large the modules are, both from the code.

python scripts/import_graph.py --out=docs/images/import_graph.svg

A box is a package, with the outside libraries that come in there; a row is a level, so every arrow
points down. An arrow that follows from others is left out, and so are those to `errors`, which
everything may raise.
"""

import pathlib
import statistics
from collections.abc import Sequence

from absl import flags
from structure import imports, picture

from softbio_jax import command

_OUT = flags.DEFINE_string("out", None, "The SVG file to write; by default only sizes are printed.")


def main(_: Sequence[str]) -> None:
    rows = {
        "the package": imports.sizes(imports.PACKAGE),
        "scripts": imports.sizes(imports.SCRIPTS),
    }
    for name, lengths in rows.items():
        print(f"{name}: {len(lengths)} modules, {sum(lengths.values()):,} lines, ", end="")
        largest = max(lengths, key=lambda path: (lengths[path], path))
        print(f"median {statistics.median(lengths.values()):.0f}, ", end="")
        print(f"largest {lengths[largest]} ({largest})")
    if _OUT.value:
        path = pathlib.Path(_OUT.value)
        path.write_text(picture.draw(imports.boxes(), imports.imports()))
        print(f"wrote {path}")


if __name__ == "__main__":
    command.run(main)
