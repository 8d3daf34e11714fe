"""The labels of a prepared split in one small file, read without any image, and what is beside it.

The index binds the records to their labels: it holds the id of every record, which the record holds
too, and checks of the bytes that the record stores. Indices written before it did lack the checks.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from softbio_jax import files
from softbio_jax.errors import UserError
from softbio_jax.safety import damage, untrusted

REPORT = "report.json"  # of the preparation, beside the records
_VERDICT = "audit_verdict.json"  # of the last audit, for training runs to record
_VERDICT_FIX = "delete it, or run scripts/audit_data.py again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """Everything about the N examples of a split except their pixels."""

    ids: np.ndarray  # (N,) str, unique
    labels: dict[str, np.ndarray]  # task -> (N,) int32, MISSING where unknown
    columns: dict[str, np.ndarray]  # audit column -> (N,) str
    digests: np.ndarray  # (N, 32) uint8, the SHA-256 of each encoded image of the source
    # (N, 2) uint32 of each record's stored bytes, see `damage.checks_of`; None in older indices
    checks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """Returns the SHA-256 (hex) over ids, labels by task name, image digests, columns and checks.

        Without checks, columns are left out too, as in the fingerprints of that time.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        digest.update("\n".join(self.ids.tolist()).encode())
        for task in sorted(self.labels):
            digest.update(f"\n{task}\n".encode())
            digest.update(self.labels[task].astype("<i4").tobytes())
        digest.update(np.ascontiguousarray(self.digests).tobytes())
        if self.checks is not None:
            for name in sorted(self.columns):
                digest.update("\n".join(["", name, *self.columns[name].tolist()]).encode())
            digest.update(np.ascontiguousarray(self.checks, "<u4").tobytes())
        return digest.hexdigest()


def path_of(directory: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the path of a split's index."""
    return directory / f"index_{split}.npz"


def write(index: Index, directory: pathlib.Path, split: str) -> None:
    """Writes the index of a split beside its records, with its own fingerprint."""
    arrays = {"ids": index.ids, "digests": index.digests, "fingerprint": np.array(index.fingerprint())}
    arrays |= {} if index.checks is None else {"checks": index.checks}
    arrays |= {f"labels/{task}": values for task, values in index.labels.items()}
    arrays |= {f"columns/{name}": values for name, values in index.columns.items()}
    # numpy's stubs confuse the keywords with its own flag.
    np.savez_compressed(path_of(directory, split), **arrays)  # type: ignore[arg-type]


def read(directory: pathlib.Path, split: str) -> Index:
    """Reads the index of a split.

    Raises:
      UserError: no such split, or a file that is not an index.
    """
    path = path_of(directory, split)
    if not path.is_file():
        splits = sorted(p.stem.removeprefix("index_") for p in directory.glob("index_*.npz"))
        raise UserError(
            "no such prepared split",
            where=f"{directory}, split {split!r}",
            expected=f"one of {', '.join(splits)}" if splits else "a folder of prepared records",
            found="" if splits else ("an empty or other folder" if directory.is_dir() else "none"),
            fix="check the path and the split, or run scripts/prepare_data.py",
        )
    untrusted.check_archive(path, stored=False, what="an index", fix="run scripts/prepare_data.py again")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        index = Index(
            ids=arrays["ids"],
            labels=_under("labels/", arrays),
            columns=_under("columns/", arrays),
            digests=arrays["digests"],
            checks=arrays.get("checks"),
        )
        _check_shapes(index)
    except Exception as error:
        if damage.refusal(error):
            raise
        fix = "run scripts/prepare_data.py again"
        raise UserError("a broken index", where=str(path), found=damage.reason(error), fix=fix) from error
    if "fingerprint" in arrays:
        check_fingerprint(index, str(arrays["fingerprint"]), path, of="the index")
    return index


def check_fingerprint(index: Index, written: str, path: pathlib.Path, *, of: str) -> None:
    """Raises UserError unless the index has the fingerprint that was written.

    Args:
      index: the index.
      written: the fingerprint.
      path: of the index.
      of: where the fingerprint was written.
    """
    if (found := index.fingerprint()) != written:
        raise UserError(
            "prepared data was edited",
            where=str(path),
            expected=f"the fingerprint in {of}, {written[:12]}",
            found=found[:12],
            fix="correct the source instead and run scripts/prepare_data.py again",
        )


def read_report(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the report of a prepared folder; raises UserError if there is none or it is damaged."""
    path = pathlib.Path(directory).expanduser() / REPORT
    if not path.is_file():
        where, fix = str(directory), "run scripts/prepare_data.py"
        raise UserError("not prepared data", where=where, expected=REPORT, found="none", fix=fix)
    report = untrusted.read_json(path, wrong="a damaged report", fix=_REPORT_FIX, own=True)
    for key, kind in (("dataset", str), ("protocol", dict), ("splits", dict)):
        if not isinstance(report.get(key), kind):
            raise broken_report(path, found=f"no {key}")
    return report


def broken_report(path: pathlib.Path, *, found: str) -> UserError:
    """Returns the error of a report that lacks something."""
    return UserError("a damaged report", where=str(path), found=found, fix=_REPORT_FIX)


_REPORT_FIX = "restore it from a copy, or run scripts/prepare_data.py again"


def store_verdict(directory: str | os.PathLike, verdict: Mapping[str, Any]) -> None:
    """Writes an audit's verdict beside the records of a prepared folder."""
    text = json.dumps(verdict, indent=2, sort_keys=True) + "\n"
    files.write_text(pathlib.Path(directory) / _VERDICT, text)


def load_verdict(directory: str | os.PathLike) -> dict[str, Any] | None:
    """Returns `findings.audit`'s "verdict" of a prepared folder; None if it was never audited.

    Raises:
      UserError: the file is damaged.
    """
    path = pathlib.Path(directory) / _VERDICT
    if not path.is_file():
        return None
    verdict = untrusted.read_json(path, wrong="a damaged verdict of an audit", fix=_VERDICT_FIX, own=True)
    if not isinstance(verdict.get("sha256"), str):
        raise UserError("a damaged verdict of an audit", where=str(path), found="no sha256", fix=_VERDICT_FIX)
    return verdict


def _check_shapes(index: Index) -> None:
    """Raises ValueError unless every array has N rows of its type."""
    n = len(index.ids)
    for name, values, kind, shape in [
        ("ids", index.ids, "U", (n,)),
        ("digests", index.digests, "u", (n, 32)),
        *((f"labels/{task}", values, "i", (n,)) for task, values in index.labels.items()),
        *((f"columns/{column}", values, "U", (n,)) for column, values in index.columns.items()),
        *([] if index.checks is None else [("checks", index.checks, "u", (n, 2))]),
    ]:
        if values.shape != shape or values.dtype.kind != kind:
            raise ValueError(f"{name} is {values.dtype.name} {values.shape}, not {shape}")


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
