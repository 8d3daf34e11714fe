"""Checks every image of a split in parallel, with a bounded number in memory."""

from __future__ import annotations

import collections
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures

from softbio_jax.console import QUIET, Console, Meter
from softbio_jax.data import decode, listing
from softbio_jax.data.prepare.account import Account, Checked, Entry, Journal
from softbio_jax.data.prepare.rows import Outcome, Rejection, Row, Skip

_IN_FLIGHT_PER_THREAD = 16  # bounds the memory


def ingest(
    rows: Iterable[Outcome],
    account: Account,
    *,
    threads: int,
    transform: Callable[[Row, bytes], bytes],
    journal: Journal | None = None,
    console: Console = QUIET,
    meter: Meter | None = None,
) -> Iterator[Checked]:
    """Reads and checks the images of `rows` and yields, in order, the rows that become examples.

    Args:
      account: records every row, kept or rejected.
      threads: number of images decoded at the same time.
      transform: (row, encoded bytes as read) -> encoded bytes to store; raises
        UndecodableImage for a broken image.
      journal: the images that an earlier run checked; new ones are added.
      console: its `check` is called for every row.
      meter: counts the rows.
    """

    def check(row: Outcome) -> Checked | Rejection | Skip:
        if not isinstance(row, Row):
            return row
        if problem := listing.name_problem(row.id):
            return Rejection(listing.shown(row.id), problem, where=row.where, fix="rename it")
        try:
            data = row.read()
            digest = hashlib.sha256(data).digest()
            known = journal.get(row.id) if journal is not None else None
            if known is not None and known.digest == digest:
                return Checked(row, data if known.data is None else known.data, digest)
            return Checked(row, transform(row, data), digest)
        except FileNotFoundError:
            expected = str(row.image) if isinstance(row.image, pathlib.Path) else ""
            fix = "put it there or delete the row"
            return Rejection(row.id, "no such file", where=row.where, expected=expected, fix=fix)
        except OSError as error:
            return Rejection(row.id, f"cannot be read: {error.strerror}", where=row.where)
        except decode.UndecodableImage as error:
            return Rejection(row.id, str(error), where=row.where)

    for result in _ordered_map(check, rows, threads=threads):
        console.check()
        if meter is not None:
            meter.add()
        if isinstance(result, Skip):
            account.skip(result)
        elif isinstance(result, Rejection):
            account.reject(result)
        elif account.keep(result):
            if journal is not None:
                _remember(journal, result)
            yield result


def _remember(journal: Journal, checked: Checked) -> None:
    known = journal.get(checked.row.id)
    if known is None or known.digest != checked.digest:
        changed = hashlib.sha256(checked.data).digest() != checked.digest
        journal.add(checked.row.id, Entry(checked.digest, checked.data if changed else None))


def _ordered_map(function: Callable, items: Iterable, *, threads: int) -> Iterator:
    iterator = iter(items)
    pending: collections.deque[futures.Future] = collections.deque()
    with futures.ThreadPoolExecutor(threads) as pool:
        try:
            for item in itertools.islice(iterator, threads * _IN_FLIGHT_PER_THREAD):
                pending.append(pool.submit(function, item))
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in itertools.islice(iterator, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()
