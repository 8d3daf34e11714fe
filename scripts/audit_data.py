"""Searches prepared data for duplicates, leaks between splits, and broken or odd images.

  python scripts/audit_data.py --data=DIR[,DIR] --out=DIR

Writes audit.json and audit.html, and the verdict beside the records, whose hash a training run
records in its checkpoints. The page shows the images of every pair: keep it as private as the data.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from softbio_jax import command
from softbio_jax.errors import UserError

_DATA = flags.DEFINE_list("data", [], "Folders of prepared data; all their splits are audited.")
_OUT = flags.DEFINE_string("out", None, "Where to write audit.json and audit.html.")


def main(_: Sequence[str]) -> None:
    from softbio_jax import files
    from softbio_jax.console import Console
    from softbio_jax.data import sources
    from softbio_jax.data.audit import expected, findings, page, verdict
    from softbio_jax.data.prepare import prepare

    if not _DATA.value or _OUT.value is None:
        raise UserError("a flag is missing", where="--data, --out", fix="see --help")
    datasets, sets = [], []
    for directory in _DATA.value:
        report = prepare.read_report(directory)
        for split in report["splits"]:
            datasets.append(sources.open_prepared(directory, split))
            sets.append(expected.set_of(report["dataset"], report["protocol"]))
    digests = [findings.digests_of(d.directory, d.split) for d in datasets]
    found = findings.audit(datasets, sets=sets, digests=digests, console=Console())
    out = pathlib.Path(_OUT.value)
    files.write_text(out / "audit.html", page.as_html(found, datasets))
    files.write_text(out / "audit.json", json.dumps(found, indent=2) + "\n")
    for directory in _DATA.value:
        verdict.store(directory, found["verdict"])
    fix = "correct the labels of the source and prepare it again"
    for name, part in found["splits"].items():
        for task, swapped in (part["expected"] or {"exchanged": {}})["exchanged"].items():
            print(f"{name}: {task} classes in another order: {swapped}; fix: {fix}")
    for key, value in found["verdict"].items():
        if isinstance(value, int):
            print(f"{key.replace('_', ' '):<20} {value:,}")
    print(f"verdict {found['verdict']['sha256']}")
    print(f"wrote {out}/audit.html and audit.json")


if __name__ == "__main__":
    command.run(main)
