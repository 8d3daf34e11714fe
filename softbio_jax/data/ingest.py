"""Checks every picture of a split in parallel and keeps account of what becomes of each row."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures

import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.index import Index
from softbio_jax.data.journal import Entry, Journal
from softbio_jax.data.rows import Outcome, Rejection, Row, Skip
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING, TASKS

_IN_FLIGHT_PER_THREAD = 16  # bounds the memory, whatever the size of the data set


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
        self._ids: dict[str, None] = {}
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
            self.reject(Rejection(row.id, "duplicate row"))
            return False
        self.rows_read += 1
        self._ids[row.id] = None
        for task, values in self._labels.items():
            values.append(row.labels.get(task, MISSING))
        for name, column in self._columns.items():
            column.append(row.columns.get(name, ""))
        for task, reason in row.masked.items():
            self.masked[f"{task}: {reason}"] += 1
        self._digests.append(checked.digest)
        return True

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
            "rejected_rows": [dataclasses.asdict(r) for r in self.rejected],
            "masked_by_reason": dict(self.masked),
            "missing": {t: int((v == MISSING).sum()) for t, v in index.labels.items()},
            "class_counts": {
                task: dict(zip(TASKS[task].classes, _counts(task, labels), strict=True))
                for task, labels in index.labels.items()
            },
            "fingerprint": index.fingerprint(),
        }


def ingest(
    rows: Iterable[Outcome],
    account: Account,
    *,
    threads: int,
    max_rejected: float,
    transform: Callable[[Row, bytes], bytes],
    journal: Journal | None,
    on_row: Callable[[], None] = lambda: None,
) -> Iterator[Checked]:
    """Reads and checks the pictures of `rows`, in order, with a bounded number in flight.

    Args:
      rows: what a builder yields.
      account: gets every row, kept or rejected.
      threads: how many pictures are decoded at once.
      max_rejected: the share of rejected rows, 0 to 1, above which the split is given up.
      transform: (row, encoded bytes as read) -> encoded bytes to store; raises
        UndecodableImage for a broken picture.
      journal: the pictures that an earlier run checked, and that this one does, if any.
      on_row: called once a row, for a progress bar.

    Yields:
      The rows that become examples.

    Raises:
      UserError: nothing is left, or more than `max_rejected` of the rows were rejected.
    """

    def check(row: Outcome) -> Checked | Rejection | Skip:
        if not isinstance(row, Row):
            return row
        try:
            data = row.read()
            digest = hashlib.sha256(data).digest()
            known = journal.get(row.id) if journal is not None else None
            if known is not None and known.digest == digest:
                return Checked(row, data if known.data is None else known.data, digest)
            return Checked(row, transform(row, data), digest)
        except FileNotFoundError:
            return Rejection(row.id, "no such file")
        except OSError as error:
            return Rejection(row.id, f"cannot be read: {error.strerror}")
        except decode.UndecodableImage as error:
            return Rejection(row.id, str(error))

    for result in _ordered_map(check, rows, threads=threads):
        on_row()
        if isinstance(result, Skip):
            account.skip(result)
        elif isinstance(result, Rejection):
            account.reject(result)
        elif account.keep(result):
            if journal is not None:
                _remember(journal, result)
            yield result
    if journal is not None:
        journal.close()
    share = len(account.rejected) / max(account.rows_read, 1)
    if share > max_rejected or not len(account):
        first = "; ".join(f"{r.path}: {r.reason}" for r in account.rejected[:3])
        raise UserError(
            "too many rows were rejected" if len(account) else "no row can be used",
            where=f"split {account.split!r}",
            expected=f"at most {max_rejected:.1%} of the rows" if len(account) else "pictures",
            found=f"{len(account.rejected)} of {account.rows_read} ({first or 'no rows'})",
            fix="repair the source, or raise --max_rejected" if len(account) else "check --source",
        )


def _remember(journal: Journal, checked: Checked) -> None:
    known = journal.get(checked.row.id)
    if known is None or known.digest != checked.digest:
        own = hashlib.sha256(checked.data).digest() != checked.digest
        journal.add(checked.row.id, Entry(checked.digest, checked.data if own else None))


def _ordered_map(function: Callable, items: Iterable, *, threads: int) -> Iterator:
    iterator = iter(items)
    pending: collections.deque[futures.Future] = collections.deque()
    with futures.ThreadPoolExecutor(threads) as pool:
        try:
            for item in itertools.islice(iterator, threads * _IN_FLIGHT_PER_THREAD):
                pending.append(pool.submit(function, item))
            while pending:
                result = pending.popleft().result()
                for item in itertools.islice(iterator, 1):
                    pending.append(pool.submit(function, item))
                yield result
        finally:
            for future in pending:
                future.cancel()


def _counts(task: str, labels: np.ndarray) -> list[int]:
    known = labels[labels != MISSING]
    return np.bincount(known, minlength=TASKS[task].num_classes).tolist()
