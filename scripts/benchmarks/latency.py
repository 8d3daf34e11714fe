"""Latency of encoders by resolution and precision, and of the ways to three answers: docs/latency.md.

  python scripts/benchmarks/latency.py --measure=docs/latency.json [--only=PE-Core-T16-384] [--seconds=5]
  python scripts/benchmarks/latency.py --report=docs/latency.json --page=docs/latency.md

The first builds every model with random weights, exports it, and times it as softbio-jax latency does; rows
that the file has are kept. The second writes the tables and the plot of a page from the file. Accuracies
come from what export.py --compare wrote of trained models, see --compared; without any, their columns are
empty.
"""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from latency_models import MODELS, WAYS, Model, write, write_way
from latency_page import write_page

from softbio_jax import command, files
from softbio_jax.errors import UserError

_MEASURE = flags.DEFINE_string("measure", None, "JSON file to which rows are added.")
_ONLY = flags.DEFINE_list("only", [], "Encoders to measure; all by default.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Of every row.", 0.0, 3600.0)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 1, "Turns of all models; a row is the one of the lowest median.", 1, 100
)
_REPORT = flags.DEFINE_string("report", None, "JSON file whose rows a page shows.")
_PAGE = flags.DEFINE_string("page", None, "The page.")
_COMPARED = flags.DEFINE_string(
    "compared", "docs/compared", "Folder of ENCODER-SIZE.json that export.py --compare wrote."
)
_THREADS = (1, 2)


def main(argv: Sequence[str]) -> None:
    del argv
    if (_MEASURE.value is None) == (_REPORT.value is None):
        raise UserError("nothing to do, or two things", where="flags", fix="pass --measure or --report")
    if _REPORT.value is not None:
        if _PAGE.value is None:
            raise UserError("a flag is missing", where="--page", fix="add --page=docs/latency.md")
        write_page(pathlib.Path(_PAGE.value), _read(_REPORT.value), pathlib.Path(_COMPARED.value))
        return
    from softbio_jax.inference import latency

    machine = latency.machine()  # before this process adds to its load
    for _ in range(_ROUNDS.value):
        for model in MODELS:
            if not _ONLY.value or model.name in _ONLY.value:
                _measure(model, machine)


def _measure(model: Model, machine: Mapping[str, Any]) -> None:
    """Adds the rows of an encoder."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = write(pathlib.Path(scratch), model)
        _time(model, "multitask", folders, machine)
    if model in WAYS:
        for way in WAYS[model]:
            with tempfile.TemporaryDirectory() as scratch:
                _time(model, way, [write_way(pathlib.Path(scratch), model, way)], machine)


def _time(model: Model, way: str, folders: Sequence[pathlib.Path], machine: Mapping[str, Any]) -> None:
    from softbio_jax.inference import latency

    rows = latency.measure([str(path) for path in folders], threads=_THREADS, seconds=_SECONDS.value)
    path = pathlib.Path(_MEASURE.value)
    values: dict[str, Any] = _read(path) if path.exists() else {"rows": []}
    kept = {_key(row): row for row in values["rows"]}
    for row in rows:
        new = dataclasses.asdict(row) | {"variant": model.name, "size": model.size, "way": way}
        old = kept.get(_key(new))
        if old is None or new["median_ms"] < old["median_ms"]:  # other work of the machine only adds time
            kept[_key(new)] = new
        print(f"{model.name} {model.size} {way} {row.format} {row.precision} x{row.threads}: ", end="")
        print(f"{row.median_ms:.2f} ms, 95 % {row.p95_ms:.2f} ms", flush=True)
    busiest = max(machine["load"], values.get("machine", machine)["load"])  # while any row was measured
    values = {"machine": {**machine, "load": busiest}, "rows": list(kept.values())}
    files.write_text(path, json.dumps(values, indent=1) + "\n")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("variant", "size", "way", "format", "precision", "threads"))


def _read(path: str | pathlib.Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pathlib.Path(path).read_text())
    return found


if __name__ == "__main__":
    command.run(main)
