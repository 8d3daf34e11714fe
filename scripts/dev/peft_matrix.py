"""Writes the table of PEFT adapters in docs/parity.md from a run of its test.

python scripts/dev/peft_matrix.py

Runs tests/parity/test_peft_matrix.py (in an environment with torch, timm and peft) and writes what
it found, and nothing if a kind is neither equal nor refused.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from softbio_jax import command, files
from softbio_jax.errors import UserError

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_TEST = "tests/parity/test_peft_matrix.py"
_PAGE = flags.DEFINE_string("page", str(_ROOT / "docs/parity.md"), "The page with the table.")
_TABLE = re.compile(r"(<!-- table: kinds -->\n).*?(<!-- end -->)", re.DOTALL)


def main(_: Sequence[str]) -> None:
    page = pathlib.Path(_PAGE.value)
    text = page.read_text()
    if not _TABLE.search(text):
        expected, fix = "the comments 'table: kinds' and 'end'", "restore the comments"
        raise UserError("no place for the table", where=str(page), expected=expected, fix=fix)
    files.write_text(page, _TABLE.sub(lambda match: match[1] + table(_results()) + match[2], text))
    print(f"wrote {page}")


def _results() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "results.json"
        run = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "parity", _TEST, "-k", "equal"]
        done = subprocess.run(run, cwd=_ROOT, env=os.environ | {"PEFT_MATRIX": str(path)}, check=False)
        if done.returncode or not path.is_file():
            fix = "correct what the test names; the page is unchanged"
            raise UserError("the test of the kinds failed", where=_TEST, fix=fix)
        return json.loads(path.read_text())


def table(results: Mapping[str, Any]) -> str:
    """Returns the table's lines for the results of a run."""
    kinds = results["kinds"]
    equal = [found["difference"] for found in kinds.values() if found["result"] == "equal"]
    lines = [
        f"PEFT {results['peft']}, torch {results['torch']}: {len(kinds)} kinds, {len(equal)} equal"
        f" (largest difference {max(equal):.1e}), {len(kinds) - len(equal)} refused.",
        "",
        "| group | adapter | result | largest difference, if any | reason and fix |",
        "|---|---|---|---|---|",
    ]
    for name, found in kinds.items():
        difference = f"{found['difference']:.1e}" if found.get("difference") else ""
        cells = (found["group"], name, found["result"], difference, _reason(found.get("message", "")))
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _reason(message: str) -> str:
    """Returns the mistake and the fix of a message."""
    what, fix = message.partition(": ")[0], message.rpartition("; fix: ")[2]
    return f"{what}; {fix}" if message else ""


if __name__ == "__main__":
    command.run(main)
