"""The outcome of every row of a split: an account for its report and index, a journal to resume."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from softbio_jax.data.index import Index
from softbio_jax.data.partial import targets, years
from softbio_jax.data.prepare.rows import Rejection, Row, Skip
from softbio_jax.errors import UserError
from softbio_jax.escaping import one_line
from softbio_jax.safety import damage
from softbio_jax.tasks import MISSING, TASKS


@dataclasses.dataclass(frozen=True)
class Checked:
    """A row whose image decodes: the bytes to store and the SHA-256 of the source's bytes."""

    row: Row
    data: bytes
    digest: bytes


class Account:
    """Counts what happened to the rows of one split and collects its index."""

    def __init__(self, split: str, *, tasks: Sequence[str], columns: Sequence[str]):
        self.split = split
        self.rows_read = 0
        self.rejected: list[Rejection] = []
        self.skipped: collections.Counter[str] = collections.Counter()
        self.left_out: list[str] = []  # files that were skipped
        self.masked: collections.Counter[str] = collections.Counter()
        self._ids: dict[str, str] = {}  # id -> label file and row
        self._labels: dict[str, list[int]] = {task: [] for task in tasks}
        self._columns: dict[str, list[str]] = {name: [] for name in columns}
        self._digests: list[bytes] = []
        self._checks: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._ids)

    def skip(self, skip: Skip) -> None:
        self.rows_read += 1
        self.skipped[skip.reason] += 1
        self.left_out += [f"{one_line(skip.path)}: {skip.reason}"] if skip.path else []

    def reject(self, rejection: Rejection) -> None:
        self.rows_read += 1
        self.rejected.append(rejection)

    def keep(self, checked: Checked) -> bool:
        """Adds an example and returns True; a row whose id is taken is rejected instead."""
        row = checked.row
        if row.id in self._ids:
            first = self._ids[row.id]
            found = f"the same image in {first}" if first else "the same image before"
            expected, fix = "one row per image", "delete one of them; the first was kept"
            self.reject(
                Rejection(row.id, "duplicate row", where=row.where, expected=expected, found=found, fix=fix)
            )
            return False
        self.rows_read += 1
        self._ids[row.id] = row.where
        for task, values in self._labels.items():
            values.append(row.labels.get(task, MISSING))
        for name, column in self._columns.items():
            column.append(row.columns.get(name, ""))
        self.masked.update(f"{task}: {reason}" for task, reason in row.masked.items())
        self._digests.append(checked.digest)
        self._checks.append(damage.checks_of(checked.data))
        return True

    def verify(self, *, max_rejected: float) -> None:
        """Checks the split's outcome.

        Raises:
          UserError: no row was kept, or a larger share than `max_rejected`, 0 to 1, was rejected;
            names the first rejected rows.
        """
        share = len(self.rejected) / max(self.rows_read, 1)
        if share <= max_rejected and len(self):
            return
        where, reasons = f"split {self.split!r}", {rejection.reason for rejection in self.rejected}
        shown = self.rejected[: 3 if len(reasons) > 1 else 1]
        found = f"{len(self.rejected)} of {self.rows_read} ({'; '.join(map(str, shown))})"
        if len(self):
            what, expected = "too many rows were rejected", f"at most {max_rejected:.1%} of the rows"
            fix = "repair the source, or raise --max_rejected"
            raise UserError(what, where=where, expected=expected, found=found, fix=fix)
        if not shown:
            skipped = f"{self.rows_read} rows, all skipped ({', '.join(self.skipped)})"
            found = skipped if self.skipped else "no rows"
        fix = "repair the source" if reasons else "label rows of this split, or remove it"
        if reasons == {"no such file"}:
            fix = "check --source (csv: --images, the folder that the paths start at)"
        raise UserError("no row can be used", where=where, expected="images", found=found, fix=fix)

    def index(self) -> Index:
        """Returns the split's index of the kept rows."""
        return Index(
            ids=np.array(list(self._ids), dtype=np.str_),
            labels={t: np.array(v, dtype=np.int32) for t, v in self._labels.items()},
            columns={c: np.array(v, dtype=np.str_) for c, v in self._columns.items()},
            digests=np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 32),
            checks=np.array(self._checks, np.uint32).reshape(-1, 2),
        )

    def report(self) -> dict[str, Any]:
        """Summarises the split: rows read, kept, rejected, masked, class counts, full and partial labels."""
        index = self.index()
        rows = years.Rows(index.labels, index.columns, index.ids, f"split {self.split!r}")
        return {
            "rows_read": self.rows_read,
            "kept": len(self),
            "skipped": self.skipped.total(),
            "skipped_by_reason": dict(self.skipped),
            "files_left_out": self.left_out,
            "rejected": len(self.rejected),
            "rejected_by_reason": dict(collections.Counter(r.reason for r in self.rejected)),
            "rejected_rows": [r.to_json() for r in self.rejected],
            "masked_by_reason": dict(self.masked),
            "missing": {t: int((v == MISSING).sum()) for t, v in index.labels.items()},
            "class_counts": {
                task: {name: int((labels == i).sum()) for i, name in enumerate(TASKS[task].classes)}
                for task, labels in index.labels.items()
            },
            "labels": {task: found.counts() for task, found in targets.in_columns(rows).items()},
            "fingerprint": index.fingerprint(),
        }

    def to_json(self) -> dict[str, Any]:
        """Returns the account as JSON values, for `add_json`."""
        return {
            "rows_read": self.rows_read,
            "rejected": [r.to_json() for r in self.rejected],
            "skipped": dict(self.skipped),
            "left_out": self.left_out,
            "masked": dict(self.masked),
            "ids": self._ids,
            "labels": self._labels,
            "columns": self._columns,
            "digests": [digest.hex() for digest in self._digests],
            "checks": self._checks,
        }

    def add_json(self, part: dict[str, Any]) -> None:
        """Appends the account of the next part of the split."""
        self.rows_read += part["rows_read"]
        self.rejected += [Rejection(**r) for r in part["rejected"]]
        self.skipped.update(part["skipped"])
        self.left_out += part["left_out"]
        self.masked.update(part["masked"])
        self._ids.update(part["ids"])
        for task, values in self._labels.items():
            values += part["labels"][task]
        for name, column in self._columns.items():
            column += part["columns"][name]
        self._digests += [bytes.fromhex(digest) for digest in part["digests"]]
        self._checks += [(sample, whole) for sample, whole in part["checks"]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """An image that decodes: the SHA-256 of its bytes, and the bytes to store, None for the same."""

    digest: bytes
    data: bytes | None


class Journal:
    """Entries by row id in one file, created if it is missing, that outlives a killed process.

    `get` may be called from several threads, `add` from one.
    """

    def __init__(self, path: pathlib.Path):
        # Threads may share a connection, but not use it at the same time.
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # With a write-ahead log an entry costs no wait for the disk; one process writes at a time.
        for setting in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
            self._database.execute(f"PRAGMA {setting}")
        columns = "id TEXT PRIMARY KEY, digest BLOB, data BLOB"
        self._database.execute(f"CREATE TABLE IF NOT EXISTS entries ({columns})")

    def get(self, row_id: str) -> Entry | None:
        """Returns the entry of a row, if there is one."""
        query = "SELECT digest, data FROM entries WHERE id = ?"
        with self._lock:
            found = self._database.execute(query, (row_id,)).fetchone()
        return Entry(*found) if found else None

    def add(self, row_id: str, entry: Entry) -> None:
        """Writes the entry of a row, replacing an earlier one."""
        values = (row_id, entry.digest, entry.data)
        with self._lock:
            self._database.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", values)

    def close(self) -> None:
        self._database.close()
