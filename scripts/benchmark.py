"""Times this package beside PyTorch with timm and peft, on this machine, taking turns.

  python scripts/benchmark.py --suite=cpu --out=DIR [--only=lora-b16,start] [--repeats=3]

Same shapes, same batch, same type; after a warm-up the sides repeat their step one after the other
(A B A B ...), so that other load on the machine affects both alike; the side whose turn it is not is
stopped. Writes benchmark.json and benchmark.md, a table, after every case. Both sides may live in one
environment (the extra "parity"), or the torch side in another that --torch_python names.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks.comparison import machine, results, runner, suites
from benchmarks.comparison.case import Case
from softbio_jax import command, files
from softbio_jax.errors import UserError

_SUITE = flags.DEFINE_enum("suite", "cpu", ["cpu", "gpu"], "Which cases.")
_OUT = flags.DEFINE_string("out", None, "Where to write benchmark.json and benchmark.md.")
_ONLY = flags.DEFINE_list("only", [], "Names of the cases to run; all by default.")
_REPEATS = flags.DEFINE_integer("repeats", 0, "Repetitions of each case; 0: its own number.")
_REMAT = flags.DEFINE_string("remat", "", "Remat policy of this package's steps; default: its own.")
_TINY = flags.DEFINE_bool("tiny", False, "Use the smallest encoder, on any device, to try the code.")
_MINUTES = flags.DEFINE_float(
    "minutes",
    None,
    "Start no case that may end later; 0: no limit. Default: 7.5 on a GPU, else 0.",
    lower_bound=0,
)
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "The interpreter that has torch, timm and peft."
)

_GPU_MINUTES = 7.5


def main(_: Sequence[str]) -> None:
    if _OUT.value is None:
        raise UserError("a flag is missing", where="--out", fix="see --help")
    out = pathlib.Path(_OUT.value)
    chosen = suites.choose(
        _SUITE.value, _ONLY.value, scratch=str(out / "scratch"), remat=_REMAT.value, small=_TINY.value
    )
    platform = "cpu" if _TINY.value else _SUITE.value
    start = runner.starter(torch_python=_TORCH_PYTHON.value, platform=platform)
    found = machine.describe(runner.describe(start, platform))
    print(machine.line(found), flush=True)

    out.mkdir(parents=True, exist_ok=True)

    def keep(measured: list[dict[str, Any]], left: dict[str, str]) -> None:
        values = {"machine": found, "results": measured, "not_run": left}
        files.write_text(out / "benchmark.json", json.dumps(values, indent=1))
        tables = [machine.line(found), results.markdown(measured), results.predictions(measured)]
        if left:
            tables.append("Not run: " + "; ".join(f"{name} ({why})" for name, why in left.items()) + ".")
        files.write_text(out / "benchmark.md", "\n\n".join(filter(None, tables)) + "\n")

    def measure(case: Case) -> dict[str, Any]:
        result = runner.run(case, start, repeats=_REPEATS.value)
        print(results.row(result), flush=True)
        return result

    minutes = _GPU_MINUTES if _MINUTES.value is None and platform == "gpu" else _MINUTES.value or 0
    failed = runner.run_all(chosen, measure, keep, seconds=60 * minutes)
    print(f"wrote {out}/benchmark.json and {out}/benchmark.md")
    if failed:
        name, why = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(chosen)} cases ended in an error",
            where=name,
            found=why,
            fix=f"see {out}/benchmark.json; run --only={','.join(failed)} again",
        )


if __name__ == "__main__":
    command.run(main)
