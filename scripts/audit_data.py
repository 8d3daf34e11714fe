"""Searches prepared data for duplicates, leaks between splits, and broken or odd images.

  python scripts/audit_data.py --data=DIR[,DIR] --out=DIR [--drop=FILE]

Writes audit.json and audit.html, and the verdict beside the records, whose hash a training run
records in its checkpoints. The page shows the images of every pair: keep it as private as the data.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from softbio_jax import command
from softbio_jax.errors import UserError

_DATA = flags.DEFINE_list("data", [], "Folders of prepared data; all their splits are audited.")
_OUT = flags.DEFINE_string("out", None, "Where to write audit.json and audit.html.")
_DROP = flags.DEFINE_string("drop", None, "Where to write a CSV table of the copies to remove.")
_SHOWN = 10  # contradictions


def main(_: Sequence[str]) -> None:
    from softbio_jax import files
    from softbio_jax.console import Console
    from softbio_jax.data import index, sources
    from softbio_jax.data.audit import expected, findings, groups, page
    from softbio_jax.data.prepare import prepare

    if not _DATA.value or _OUT.value is None:
        raise UserError("a flag is missing", where="--data, --out", fix="see --help")
    out = files.local(_OUT.value, what="an audit")
    _check_distinct([pathlib.Path(directory) for directory in _DATA.value])
    if _DROP.value is not None:
        files.check_own(_DROP.value, ",".join(groups.DROP_COLUMNS), where="--drop")
    datasets, sets = [], []
    for directory in _DATA.value:
        report = prepare.read_report(directory)
        for split in report["splits"]:
            datasets.append(sources.open_prepared(directory, split))
            sets.append(expected.set_of(report["dataset"], report["protocol"]))
    digests = [findings.digests_of(d.directory, d.split) for d in datasets]
    found = findings.audit(datasets, sets=sets, digests=digests, console=Console())
    files.write_text(out / "audit.html", page.as_html(found, datasets))
    files.write_text(out / "audit.json", json.dumps(found, indent=2) + "\n")
    if _DROP.value is not None:
        files.write_text(_DROP.value, groups.drop_list(found["groups"]))
    for directory in _DATA.value:
        index.store_verdict(directory, found["verdict"])
    fix = "correct the labels of the source and prepare it again"
    for name, part in found["splits"].items():
        for task, swapped in (part["expected"] or {"exchanged": {}})["exchanged"].items():
            print(f"{name}: {task} classes in another order: {swapped}; fix: {fix}")
    _show_contradictions([group for group in found["groups"] if group["labels_differ"]])
    for key, value in found["verdict"].items():
        if isinstance(value, int):
            print(f"{key.replace('_', ' '):<20} {value:,}")
    print(f"verdict {found['verdict']['sha256']}")
    print(f"wrote {out}/audit.html and audit.json")
    if _DROP.value is not None:
        copies = sum(group["size"] - 1 for group in found["groups"])
        print(f"wrote {_DROP.value}: {copies:,} images to remove")


def _check_distinct(folders: Sequence[pathlib.Path]) -> None:
    """Checks that no set is named twice, as its images were copies, and that --drop can tell sets apart."""
    seen: dict[str, pathlib.Path] = {}
    for folder in folders:
        key = folder.resolve().name if _DROP.value is not None else str(folder.resolve())
        if (other := seen.setdefault(key, folder)) is not folder:
            same = other.resolve() == folder.resolve()
            raise UserError(
                "the same set twice" if same else "two sets of one name",
                where="--data",
                expected="each set once" if same else "names that the table of --drop can tell apart",
                found=f"{other}, {folder}",
                fix="name each set once" if same else "rename the folder of one, or omit --drop",
            )


def _show_contradictions(groups: Sequence[dict[str, Any]]) -> None:
    for group in groups[:_SHOWN]:
        for task in group["labels_differ"]:
            shown = [(side, _label(side, task)) for side in group["images"]]
            sides = [f"{side['split']} {side['id']} {label}" for side, label in shown if label]
            listed = ", ".join(sides[:_SHOWN])
            more = f" and {len(sides) - _SHOWN:,} more" if len(sides) > _SHOWN else ""
            print(f"{task} labels of copies differ: {listed}{more}")
    if len(groups) > _SHOWN:
        print(
            f"and {len(groups) - _SHOWN:,} more images whose copies have other labels (groups of audit.json)"
        )


def _label(side: Mapping[str, Any], task: str) -> str:
    return side["labels"].get(task) or " or ".join(side["possible"].get(task, ()))


if __name__ == "__main__":
    command.run(main)
