"""Writes the tables of docs/training_parity.md from the comparisons that `parity.py --training --save` kept.

python scripts/dev/training_table.py --measured=docs/training_parity.json
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from softbio_jax import command
from softbio_jax.console import markdown

_DOCS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs"
_MEASURED = flags.DEFINE_string(
    "measured", str(_DOCS / "training_parity.json"), "The comparisons, as --save writes them."
)
_PAGE = flags.DEFINE_string("page", str(_DOCS / "training_parity.md"), "The page with the tables.")
KINDS = {
    "loss": "losses",
    "statistics": "batch statistics",
    "gradient": "gradients",
    "first_moment": "first moments",
    "second_moment": "second moments",
    "value": "values",
}


def main(argv: Sequence[str]) -> None:
    del argv
    from softbio_jax.thesis.study import tables

    measured = json.loads(pathlib.Path(_MEASURED.value).read_text())
    found = {dtype: table(measured, dtype) for dtype in ("float64", "float32")}
    tables.fill(pathlib.Path(_PAGE.value), found)


def table(measured: Mapping[str, Any], dtype: str) -> str:
    """Returns a row per comparison of a type, the largest difference of each kind."""
    rows = []
    for name, found in sorted(measured.items()):
        if found["dtype"] != dtype:
            continue
        cells = [_cell(found, kind) for kind in KINDS]
        title = name.removesuffix(f", {dtype}")
        rows.append([title, str(found["steps"]), *cells, str(found["seconds"])])
    return markdown(["training", "steps", *KINDS.values(), "seconds"], rows)


def _cell(found: Mapping[str, Any], kind: str) -> str:
    own = found["worst"][kind]["difference"]
    if "torch" not in found:
        return f"{own:.1e}"
    return f"{own:.1e} / {found['torch'][kind]['difference']:.1e} = {found['times'][kind]:.2f}"


if __name__ == "__main__":
    command.run(main)
