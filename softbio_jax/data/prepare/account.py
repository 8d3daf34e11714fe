"""The account of a split: what became of every row, and the index of those that were kept."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from softbio_jax.data.index import Index
from softbio_jax.data.prepare.rows import Rejection, Row, Skip
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING, TASKS


@dataclasses.dataclass(frozen=True)
class Checked:
    """A row whose picture decodes: its encoded bytes and the SHA-256 of what the source held."""

    row: Row
    data: bytes
    digest: bytes


class Account:
    """Counts what happened to the rows of one split and collects its index.

    Args:
      split: the split's name.
      tasks: the tasks that the data set labels.
      columns: the audit columns.
    """

    def __init__(self, split: str, *, tasks: Sequence[str], columns: Sequence[str]):
        self.split = split
        self.rows_read = 0
        self.rejected: list[Rejection] = []
        self.skipped: collections.Counter[str] = collections.Counter()
        self.masked: collections.Counter[str] = collections.Counter()
        self._ids: dict[str, str] = {}  # id -> where it was first told of
        self._labels: dict[str, list[int]] = {task: [] for task in tasks}
        self._columns: dict[str, list[str]] = {name: [] for name in columns}
        self._digests: list[bytes] = []

    def __len__(self) -> int:
        return len(self._ids)

    def skip(self, skip: Skip) -> None:
        self.rows_read += 1
        self.skipped[skip.reason] += 1

    def reject(self, rejection: Rejection) -> None:
        self.rows_read += 1
        self.rejected.append(rejection)

    def keep(self, checked: Checked) -> bool:
        """Adds an example; False when its id was there already, which rejects the row."""
        row = checked.row
        if row.id in self._ids:
            self.reject(_duplicate(row, first=self._ids[row.id]))
            return False
        self.rows_read += 1
        self._ids[row.id] = row.where
        for task, values in self._labels.items():
            values.append(row.labels.get(task, MISSING))
        for name, column in self._columns.items():
            column.append(row.columns.get(name, ""))
        for task, reason in row.masked.items():
            self.masked[f"{task}: {reason}"] += 1
        self._digests.append(checked.digest)
        return True

    def verify(self, *, max_rejected: float) -> None:
        """Stops when nothing is left or too much was rejected.

        Args:
          max_rejected: the share of rejected rows, 0 to 1, above which the split is given up.

        Raises:
          UserError: tells the first rejected rows.
        """
        share = len(self.rejected) / max(self.rows_read, 1)
        if share <= max_rejected and len(self):
            return
        told = 3 if len({rejection.reason for rejection in self.rejected}) > 1 else 1
        first = "; ".join(str(rejection) for rejection in self.rejected[:told])
        raise UserError(
            "too many rows were rejected" if len(self) else "no row can be used",
            where=f"split {self.split!r}",
            expected=f"at most {max_rejected:.1%} of the rows" if len(self) else "pictures",
            found=f"{len(self.rejected)} of {self.rows_read} ({first})" if first else self._left(),
            fix="repair the source, or raise --max_rejected" if len(self) else self._cure(),
        )

    def _left(self) -> str:
        reasons = ", ".join(self.skipped)
        return f"{self.rows_read} rows, all left out ({reasons})" if reasons else "no rows"

    def _cure(self) -> str:
        reasons = {rejection.reason for rejection in self.rejected}
        if reasons == {"no such file"}:
            return "check --source (csv: --images, the folder that the paths start at)"
        return "repair the source" if reasons else "label rows of this split, or remove it"

    def index(self) -> Index:
        """Turns what was kept into the split's index."""
        return Index(
            ids=np.array(list(self._ids), dtype=np.str_),
            labels={t: np.array(v, dtype=np.int32) for t, v in self._labels.items()},
            columns={c: np.array(v, dtype=np.str_) for c, v in self._columns.items()},
            digests=np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 32),
        )

    def report(self) -> dict:
        """Summarises the split: rows read, kept, rejected, masked, and the class counts."""
        index = self.index()
        return {
            "rows_read": self.rows_read,
            "kept": len(self),
            "skipped": self.skipped.total(),
            "skipped_by_reason": dict(self.skipped),
            "rejected": len(self.rejected),
            "rejected_by_reason": dict(collections.Counter(r.reason for r in self.rejected)),
            "rejected_rows": [r.to_json() for r in self.rejected],
            "masked_by_reason": dict(self.masked),
            "missing": {t: int((v == MISSING).sum()) for t, v in index.labels.items()},
            "class_counts": {
                task: dict(zip(TASKS[task].classes, _counts(task, labels), strict=True))
                for task, labels in index.labels.items()
            },
            "fingerprint": index.fingerprint(),
        }

    def to_json(self) -> dict[str, Any]:
        """Writes the account in JSON's types, for `add_json`."""
        return {
            "rows_read": self.rows_read,
            "rejected": [r.to_json() for r in self.rejected],
            "skipped": dict(self.skipped),
            "masked": dict(self.masked),
            "ids": self._ids,
            "labels": self._labels,
            "columns": self._columns,
            "digests": [digest.hex() for digest in self._digests],
        }

    def add_json(self, part: dict[str, Any]) -> None:
        """Adds the account of a part of the split behind what is there."""
        self.rows_read += part["rows_read"]
        self.rejected += [Rejection(**r) for r in part["rejected"]]
        self.skipped.update(part["skipped"])
        self.masked.update(part["masked"])
        self._ids.update(part["ids"])
        for task, values in self._labels.items():
            values += part["labels"][task]
        for name, column in self._columns.items():
            column += part["columns"][name]
        self._digests += [bytes.fromhex(digest) for digest in part["digests"]]


def _duplicate(row: Row, *, first: str) -> Rejection:
    return Rejection(
        row.id,
        "duplicate row",
        where=row.where,
        expected="one row a picture",
        found=f"the same picture in {first}" if first else "the same picture before",
        fix="delete one of them; the first was kept",
    )


def _counts(task: str, labels: np.ndarray) -> list[int]:
    known = labels[labels != MISSING]
    return np.bincount(known, minlength=TASKS[task].num_classes).tolist()


# Length of the id, SHA-256 of the source's picture, whether bytes of its own are stored, and
# how many.
_HEAD = struct.Struct("<I32s?I")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A picture that decodes: the SHA-256 of its source, and what to store.

    Args:
      digest: 32 bytes.
      data: the bytes to store; None where they are the source's own.
    """

    digest: bytes
    data: bytes | None


class Journal:
    """Entries by row id in one file; what was written whole survives the end of the process.

    Args:
      path: the file; made if it is not there.
    """

    def __init__(self, path: pathlib.Path):
        path.touch()
        self._file = path.open("r+b")
        self._places: dict[str, int] = {}
        end, size = 0, path.stat().st_size
        while end + _HEAD.size <= size:
            id_length, _, _, data_length = _HEAD.unpack(os.pread(self._descriptor, _HEAD.size, end))
            following = end + _HEAD.size + id_length + data_length
            if following > size:
                break  # cut off while it was written
            row_id = os.pread(self._descriptor, id_length, end + _HEAD.size).decode()
            self._places[row_id] = end
            end = following
        self._file.truncate(end)
        self._file.seek(end)
        self._end = end

    def __len__(self) -> int:
        return len(self._places)

    def get(self, row_id: str) -> Entry | None:
        """Looks a row up; safe to call from several threads."""
        place = self._places.get(row_id)
        if place is None:
            return None
        head = os.pread(self._descriptor, _HEAD.size, place)
        id_length, digest, own, data_length = _HEAD.unpack(head)
        data = os.pread(self._descriptor, data_length, place + _HEAD.size + id_length)
        return Entry(digest, data if own else None)

    def add(self, row_id: str, entry: Entry) -> None:
        """Writes the entry of a row; from one thread only."""
        name, data = row_id.encode(), entry.data or b""
        head = _HEAD.pack(len(name), entry.digest, entry.data is not None, len(data))
        self._file.write(head + name + data)
        self._file.flush()
        self._places[row_id] = self._end
        self._end += len(head) + len(name) + len(data)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @property
    def _descriptor(self) -> int:
        return self._file.fileno()
