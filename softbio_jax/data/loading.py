"""Loads local batches: labels by indexing, images by decoding, ahead of time; logs failures."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.decode import Resize
from softbio_jax.data.sources import PreparedDataset, concatenate_labels, concatenate_targets
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING

Batch = dict[str, np.ndarray]
PADDING = -1  # the number of an example that does not exist
_REASON = "reason"  # travels with the batch, as workers share no memory; removed on delivery
_REASON_BYTES = 160
T = TypeVar("T")


class Loader:
    """Loads local batches from the concatenation of data sets.

    An example whose image cannot be decoded keeps its place, with a black image and every mask
    False: replacing it by a neighbour would change the label statistics.

    Args:
      datasets: prepared data sets, concatenated in this order.
      tasks: the tasks whose labels are loaded; all MISSING where a data set lacks one.
      image_size: side S of the images in pixels.
      resize: see `decode.decode`.
    """

    def __init__(
        self, datasets: Sequence[PreparedDataset], *, tasks: Sequence[str], image_size: int, resize: Resize
    ):
        self.datasets = tuple(datasets)
        self._image_size, self._resize = image_size, resize
        self._starts = np.cumsum([0, *(len(d) for d in self.datasets)])
        self._labels = {task: concatenate_labels(self.datasets, task) for task in tasks}
        self._targets = concatenate_targets(self.datasets, tasks)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def id_of(self, example: int) -> str:
        """Returns the name of an example: the data set, the split and the id inside it."""
        dataset, number = self._locate(example)
        return f"{dataset.name}/{dataset.split}:{dataset.columns['id'][number]}"

    def load(self, examples: np.ndarray) -> Batch:
        """Loads examples (b,) of the concatenation; PADDING gives a black image without labels.

        Returns:
          image (b, S, S, 3) uint8, labels/{task} int32 (b,), mask/{task} bool (b,), for sets with
          targets also target/{task} or votes/{task} float32 (b, K), and the reason why an image could
          not be decoded, bytes (b,), empty where it could.
        """
        one_opencv_thread()
        images = np.zeros((len(examples), self._image_size, self._image_size, 3), np.uint8)
        reasons = np.zeros(len(examples), f"S{_REASON_BYTES}")
        usable = examples != PADDING
        for place in np.flatnonzero(usable):
            dataset, number = self._locate(int(examples[place]))
            try:
                images[place] = decode.decode(dataset[number], size=self._image_size, resize=self._resize)
            except decode.UndecodableImage as error:
                reasons[place] = str(error).encode()[:_REASON_BYTES]
                usable[place] = False
        batch: Batch = {"image": images, _REASON: reasons}
        for task, labels in self._labels.items():
            batch[f"labels/{task}"] = np.where(usable, labels[examples], np.int32(MISSING))
            batch[f"mask/{task}"] = batch[f"labels/{task}"] != MISSING
        for task, targets in self._targets.items():
            batch |= targets.batch(task, np.where(usable, examples, np.int64(PADDING)))
        return batch

    def _locate(self, example: int) -> tuple[PreparedDataset, int]:
        which = int(np.searchsorted(self._starts, example, side="right")) - 1
        return self.datasets[which], example - int(self._starts[which])


@dataclasses.dataclass(frozen=True)
class Rejected:
    """An example whose image could not be decoded, and why."""

    id: str
    reason: str


class RejectionLog:
    """Lists the examples that could not be decoded and stops the run when there are too many.

    `max_rejected`, 0 to 1, is the share of all examples that may be rejected.
    """

    def __init__(self, loader: Loader, *, max_rejected: float):
        self._loader = loader
        self._limit = max_rejected * len(loader)
        self._seen: set[int] = set()
        self.rejected: list[Rejected] = []

    def deliver(self, batch: Batch, examples: np.ndarray) -> Batch:
        """Removes the reasons from a loaded batch and records them.

        Raises:
          UserError: more examples than allowed are broken; names them.
        """
        reasons = batch.pop(_REASON)
        for place in np.flatnonzero(reasons != b""):
            example = int(examples[place])
            if example not in self._seen:
                self._seen.add(example)
                reason = bytes(reasons[place]).decode(errors="replace")
                self.rejected.append(Rejected(self._loader.id_of(example), reason))
        if len(self.rejected) > self._limit:
            expected = f"at most {int(self._limit)} of {len(self._loader)}"
            found = "; ".join(f"{r.id}: {r.reason}" for r in self.rejected)
            fix = "prepare the data again, or raise max_rejected"
            raise UserError("too many images cannot be decoded", expected=expected, found=found, fix=fix)
        return batch


@functools.cache
def one_opencv_thread() -> None:
    """Makes OpenCV use one thread in this process."""
    # Grain's threads already fill the cores; OpenCV's own would fight with them.
    import cv2

    cv2.setNumThreads(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads ahead, in threads or in worker processes.

    Args:
      workers: number of worker processes; 0 uses threads of this process.
      threads: threads in this process or in each worker; 0: one per core, shared by the workers.
      batches: batches held ready, over all workers.
      setting: the name of the user's setting of `workers`, for errors.
    """

    workers: int
    threads: int
    batches: int
    setting: str = "--config.data.workers"

    def __call__(self, make: Callable[[int], T], start: int, stop: int) -> Iterator[T]:
        """Yields make(start), ..., make(stop - 1) in this order, made ahead of time."""
        import grain

        cores = max(1, (os.cpu_count() or 1) // max(self.workers, 1))
        ahead = max(1, self.batches // max(self.workers, 1))
        # Slicing the steps, not the batches, among the workers keeps their order and number.
        dataset = grain.MapDataset.range(start, stop).map(make)
        batches = dataset.to_iter_dataset(
            grain.ReadOptions(num_threads=self.threads or cores, prefetch_buffer_size=ahead)
        )
        if self.workers:
            from absl import flags

            if not flags.FLAGS.is_parsed():  # Grain reads them, and only absl's own main parses them
                flags.FLAGS.mark_as_parsed()
            _silence_tracker()
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
            return _FromWorkers(iter(batches), self.workers, self.setting)
        return iter(batches)


class _FromWorkers(Iterator[T]):
    """The batches of worker processes, or a UserError once one of them is dead."""

    def __init__(self, batches: Iterator[T], workers: int, setting: str):
        self._batches, self._workers, self._setting = batches, workers, setting

    def __next__(self) -> T:
        try:
            return next(self._batches)
        except RuntimeError as error:
            if (found := _DEAD.search(str(error))) is None:
                raise
            raise UserError(
                "a process that reads images has ended",
                where=f"{self._setting}={self._workers}",
                found=_how_ended(int(found[1])),
                fix=f"start again with more memory or a lower {self._setting} (0 reads in threads)",
            ) from error

    def close(self) -> None:
        close(self._batches)


_DEAD = re.compile(r"Worker process was terminated unexpectedly with exit code (-?\d+)")  # Grain's words


def _how_ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "SIGKILL, which the system sends when memory runs out"
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _silence_tracker() -> None:
    """Keeps Python's resource tracker from warning about the batches of a killed process, which it frees."""
    option = "ignore:resource_tracker:UserWarning"
    if option not in sys.warnoptions:  # passed to the tracker, which is not running yet
        sys.warnoptions.append(option)


def close(iterator: Iterator) -> None:
    """Stops the threads and worker processes of a reader's iterator."""
    iterator.close()  # type: ignore[attr-defined]
