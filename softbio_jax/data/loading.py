"""One process' slice of a batch: labels by indexing, pictures by decoding, failures on record."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

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
