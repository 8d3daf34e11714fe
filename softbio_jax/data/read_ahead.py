"""Grain, which makes batches before they are asked for, in threads or in worker processes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """How to read ahead.

    Args:
      workers: processes; 0 stays in this one.
      threads: threads in this process or in each worker; 0: one a core, shared by the workers.
      batches: batches held ready, in all.
    """

    workers: int
    threads: int
    batches: int

    def __call__(self, make: Callable[[int], T], start: int, stop: int) -> Iterator[T]:
        """Iterates over make(start), ..., make(stop - 1) in this order, made ahead of time."""
        import grain

        cores = max(1, (os.cpu_count() or 1) // max(self.workers, 1))
        ahead = max(1, self.batches // max(self.workers, 1))
        # Slicing the steps, not the batches, among the workers keeps their order and number.
        dataset = grain.MapDataset.range(start, stop).map(make)
        batches = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=self.threads or cores, prefetch_buffer_size=ahead)
        )
        if self.workers:
            _parse_absl_flags()
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        return iter(batches)


def close(iterator: Iterator) -> None:
    """Stops the threads and the worker processes of a reader's iterator."""
    iterator.close()  # type: ignore[attr-defined]


def _parse_absl_flags() -> None:
    # Grain reads absl flags in its parent process; outside of an absl main nobody parsed them.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
