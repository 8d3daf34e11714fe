"""Measures the data pipeline on this machine: reading, decoding, preparing, memory.

  python scripts/benchmarks/data.py --out=DIR [--pictures=DIR_OF_JPEGS] [--fairface=DIR]

Rates are per second of processor time, so that other work on the machine does not count: images
a second on one core. Writes benchmark_data.json.
"""

from __future__ import annotations

import json
import pathlib
import platform
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from softbio_jax import command
from softbio_jax.errors import UserError

_OUT = flags.DEFINE_string("out", None, "Where to write benchmark_data.json.")
_PICTURES = flags.DEFINE_string("pictures", None, "JPEGs to use; default: drawn faces.")
_FAIRFACE = flags.DEFINE_string("fairface", None, "A FairFace folder to prepare.")
_COUNT = flags.DEFINE_integer("count", 512, "Number of images of the decoding benchmark.")
_BATCHES = flags.DEFINE_integer("batches", 60, "Batches of 64 that each rate is measured over.")


def main(_: Sequence[str]) -> None:
    from probes import data as data_probe

    if _OUT.value is None:
        raise UserError("a flag is missing", where="--out", fix="see --help")
    results: dict = {"machine": platform.machine(), "python": platform.python_version()}
    results["date"] = time.strftime("%Y-%m-%d")
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        jpegs = data_probe.jpegs(_PICTURES.value, count=_COUNT.value)
        results["reading"] = data_probe.reading(jpegs, folder, batches=_BATCHES.value)
        _show("images per second and core", results["reading"])
        results["memory_growth_mib"] = data_probe.memory_growth(folder / "source")
        print(f"memory growth over a pass of the pipeline: {results['memory_growth_mib']:.1f} MiB")
        if _FAIRFACE.value:
            results["fairface"] = data_probe.fairface(_FAIRFACE.value, folder)
            _show("FairFace", results["fairface"])
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    (out / "benchmark_data.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"wrote {out}/benchmark_data.json")


def _show(title: str, values: dict[str, float]) -> None:
    print(title)
    for name, value in values.items():
        print(f"  {name:<44} {value:>10,.2f}")


if __name__ == "__main__":
    command.run(main)
