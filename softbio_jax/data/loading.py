"""One process' slice of a batch: labels by indexing, pictures by decoding, failures on record."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.sources import PreparedDataset, concatenate_labels
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING

Batch = dict[str, np.ndarray]
_REASON = "reason"  # travels with the batch, as workers share no memory; removed on delivery
_REASON_BYTES = 160
PADDING = -1


class Loader:
    """Makes local batches from the concatenation of data sets.

    An example whose picture does not decode keeps its place, with a black picture and every
    mask False: taking a neighbour instead would change the label statistics.

    Args:
      datasets: prepared data sets, concatenated in this order.
      tasks: the tasks to give labels of; all MISSING where a data set lacks one.
      image_size: side S of the pictures in pixels.
      resize: see `decode.decode`.
    """

    def __init__(
        self,
        datasets: Sequence[PreparedDataset],
        *,
        tasks: Sequence[str],
        image_size: int,
        resize: decode.Resize,
    ):
        self.datasets = tuple(datasets)
        self.tasks = tuple(tasks)
        self.image_size = image_size
        self.resize = resize
        self.starts = np.cumsum([0, *(len(d) for d in self.datasets)])
        self.labels = {task: concatenate_labels(self.datasets, task) for task in self.tasks}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def id_of(self, row: int) -> str:
        """Names an example: the data set and the id inside it."""
        dataset, example = self._locate(row)
        return f"{dataset.name}/{dataset.split}:{dataset.columns['id'][example]}"

    def load(self, rows: np.ndarray) -> Batch:
        """Loads the examples `rows` (b,) of the concatenation; PADDING gives an empty row.

        Returns:
          image (b, S, S, 3) uint8, labels/{task} int32 (b,), mask/{task} bool (b,), and the
          reason why a picture could not be decoded, bytes (b,), empty where it could.
        """
        _one_opencv_thread()
        images = np.zeros((len(rows), self.image_size, self.image_size, 3), np.uint8)
        reasons = np.zeros(len(rows), f"S{_REASON_BYTES}")
        usable = rows != PADDING
        for position in np.flatnonzero(usable):
            dataset, example = self._locate(int(rows[position]))
            try:
                data = dataset[example]
                images[position] = decode.decode(data, size=self.image_size, resize=self.resize)
            except decode.UndecodableImage as error:
                reasons[position] = str(error).encode()[:_REASON_BYTES]
                usable[position] = False
        batch: Batch = {"image": images, _REASON: reasons}
        for task, labels in self.labels.items():
            batch[f"labels/{task}"] = np.where(usable, labels[rows], np.int32(MISSING))
            batch[f"mask/{task}"] = batch[f"labels/{task}"] != MISSING
        return batch

    def _locate(self, row: int) -> tuple[PreparedDataset, int]:
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.datasets[number], row - int(self.starts[number])


@dataclasses.dataclass(frozen=True)
class Rejected:
    """An example whose picture could not be decoded, and why."""

    id: str
    reason: str


class RejectionLog:
    """Lists the examples that could not be decoded and stops the run when they are too many.

    Args:
      loader: knows the names of the examples.
      max_rejected: the share of all examples, 0 to 1, that may be rejected.
    """

    def __init__(self, loader: Loader, *, max_rejected: float):
        self._loader = loader
        self._limit = max_rejected * len(loader)
        self._rows: set[int] = set()
        self.rejected: list[Rejected] = []

    def deliver(self, batch: Batch, rows: np.ndarray) -> Batch:
        """Takes the reasons out of a loaded batch and records them.

        Raises:
          UserError: more examples than allowed are broken; tells them.
        """
        reasons = batch.pop(_REASON)
        for position in np.flatnonzero(reasons != b""):
            row = int(rows[position])
            if row not in self._rows:
                self._rows.add(row)
                reason = bytes(reasons[position]).decode(errors="replace")
                self.rejected.append(Rejected(self._loader.id_of(row), reason))
        if len(self.rejected) > self._limit:
            raise UserError(
                "too many pictures cannot be decoded",
                expected=f"at most {int(self._limit)} of {len(self._loader)}",
                found="; ".join(f"{r.id}: {r.reason}" for r in self.rejected),
                fix="prepare the data again, or raise max_rejected",
            )
        return batch


@functools.cache
def _one_opencv_thread() -> None:
    # Grain's threads already fill the cores; OpenCV's own would fight with them.
    import cv2

    cv2.setNumThreads(1)


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
