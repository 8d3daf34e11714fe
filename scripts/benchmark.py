"""Times this package beside PyTorch with timm and peft, on this machine, taking turns.

  python scripts/benchmark.py --suite=cpu --out=DIR [--only=lora-b16,start] [--repeats=3]

Same shapes, same batch, same type; after a warm-up the sides repeat their step one after the other
(A B A B ...), so that other load on the machine affects both alike. Writes benchmark.json after
every case and benchmark.md, a table, at the end. Both sides may live in one environment (the extra
"parity"), or the torch side in another that --torch_python names.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from benchmarks.comparison import machine, results, runner, suites
from softbio_jax import command, files
from softbio_jax.errors import UserError

_SUITE = flags.DEFINE_enum("suite", "cpu", ["cpu", "gpu"], "Which cases.")
_OUT = flags.DEFINE_string("out", None, "Where to write benchmark.json and benchmark.md.")
_ONLY = flags.DEFINE_list("only", [], "Names of the cases to run; all by default.")
_REPEATS = flags.DEFINE_integer("repeats", 0, "Repetitions of each case; 0: its own number.")
_REMAT = flags.DEFINE_string("remat", "", "Remat policy of this package's steps; default: its own.")
_TINY = flags.DEFINE_bool("tiny", False, "Use the smallest encoder, on any device, to try the code.")
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "The interpreter that has torch, timm and peft."
)


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
    measured = []
    for case in chosen:
        measured.append(runner.run(case, start, repeats=_REPEATS.value))
        print(results.row(measured[-1]), flush=True)
        found_so_far = json.dumps({"machine": found, "results": measured}, indent=1)
        files.write_text(out / "benchmark.json", found_so_far)
    text = f"{machine.line(found)}\n\n{results.markdown(measured)}\n"
    files.write_text(out / "benchmark.md", text)
    print(f"wrote {out}/benchmark.json and {out}/benchmark.md")


if __name__ == "__main__":
    command.run(main)
