"""Draws which package imports which, from the code.

python scripts/dev/import_graph.py --out=docs/images/import_graph.svg

A box is a package with the outside libraries that it imports; a row is a level, so every arrow
points down. An arrow that follows from others is omitted, and so are those to `errors`, which every
package may import.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from softbio_jax import command
from structure import drawing, imports

_OUT = flags.DEFINE_string("out", "docs/images/import_graph.svg", "The SVG file to write.")


def main(_: Sequence[str]) -> None:
    path = pathlib.Path(_OUT.value)
    path.write_text(drawing.draw(imports.boxes(), imports.imports()))
    print(f"wrote {path}")


if __name__ == "__main__":
    command.run(main)
