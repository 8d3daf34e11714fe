"""Host pipeline: prepared data sets to the batches of one process.

The stream of examples is global. Global step s takes its positions [s B, (s + 1) B) and process p
of P loads the p-th of P equal slices, so the global batches are the same for every P. Grain decodes
ahead, in threads or in worker processes.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from softbio_jax.data import loading, sampling
from softbio_jax.data.decode import Resize
from softbio_jax.data.loading import PADDING, Batch, Loader, Reader, Rejected, RejectionLog
from softbio_jax.data.sampling import MakeSampler, Sampler, Stream, check_stream, digest_of
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.tasks import TASKS

MAX_REJECTED = 0.02
_ENDLESS = 2**40  # steps: more than any training takes


@dataclasses.dataclass(frozen=True)
class Slice:
    """The part of each global batch that one process loads: b = B / P of its B examples.

    Raises:
      UserError: P does not divide B.
    """

    batch_size: int  # B, global
    process_index: int = 0  # p
    process_count: int = 1  # P

    def __post_init__(self) -> None:
        if self.batch_size <= 0 or self.batch_size % self.process_count:
            expected, found = f"a multiple of {self.process_count} processes", str(self.batch_size)
            what, fix = "the processes cannot share the batch", "change the batch size"
            raise UserError(what, where="batch_size", expected=expected, found=found, fix=fix)

    def positions(self, step: int) -> np.ndarray:
        """Returns the positions s B + p b + [0, b) of the global stream, (b,) int64."""
        local = self.batch_size // self.process_count
        return step * self.batch_size + self.process_index * local + np.arange(local)


@dataclasses.dataclass(frozen=True)
class _InOrder:
    """Every example once, then PADDING."""

    size: int

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        return np.where(positions < self.size, positions, np.int64(PADDING))


@dataclasses.dataclass(frozen=True)
class _Load:
    """Step -> loaded batch; not a closure, so that it can be sent to worker processes."""

    loader: Loader
    stream: Stream | _InOrder
    part: Slice

    def __call__(self, step: int) -> Batch:
        return self.loader.load(self.examples(step)) | {"index": self.part.positions(step)}

    def examples(self, step: int) -> np.ndarray:
        """Returns the examples (b,) int64 of a step."""
        return self.stream[self.part.positions(step)]


class _Batches:
    """Loads the examples at a process' positions ahead of time and logs the rejected ones."""

    def __init__(self, load: _Load, reader: Reader, *, max_rejected: float):
        if not len(load.loader):
            raise UserError("no examples", where="the prepared data sets", fix="check their splits")
        self._load, self._reader = load, reader
        self._log = RejectionLog(load.loader, max_rejected=max_rejected)

    @property
    def rejected(self) -> list[Rejected]:
        """The examples so far that could not be decoded."""
        return self._log.rejected


class TrainBatches(_Batches):
    """An endless iterator over one process' batches that resumes at any step.

    Make it with `train_batches`. `sampler.epoch_size` is the number of examples per epoch.
    """

    def __init__(self, loader: Loader, sampler: Sampler, part: Slice, reader: Reader, *, max_rejected: float):
        super().__init__(_Load(loader, Stream(sampler), part), reader, max_rejected=max_rejected)
        self.sampler = sampler
        fingerprints = [dataset.fingerprint for dataset in loader.datasets]
        self._stream = digest_of(sampler.digest(), part.batch_size, *fingerprints)
        self._step = 0
        self._batches: Iterator[Batch] | None = None

    def __iter__(self) -> TrainBatches:
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._reader(self._load, self._step, _ENDLESS)
            # Workers that live until the interpreter ends complain about their shared memory.
            weakref.finalize(self, loading.close, self._batches)
        batch = self._log.deliver(next(self._batches), self._load.examples(self._step))
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Returns the place in the stream as JSON values."""
        return {"step": self._step, "stream": self._stream}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken, by any number of processes and workers.

        Raises:
          UserError: the state belongs to another stream (data, seed, sampler or batch size).
        """
        check_stream(str(state["stream"]), self._stream)
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stops reading ahead, including worker processes; the next batch restarts it."""
        if self._batches is not None:
            loading.close(self._batches)
            self._batches = None


class EvalBatches(_Batches):
    """One process' batches of one pass over a data set, every example exactly once.

    Make it with `eval_batches`. Its length is the number of batches, the same on every process.
    """

    def __init__(self, loader: Loader, part: Slice, reader: Reader, *, max_rejected: float):
        super().__init__(_Load(loader, _InOrder(len(loader)), part), reader, max_rejected=max_rejected)
        self._num_batches = -(-len(loader) // part.batch_size)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        batches = self._reader(self._load, 0, len(self))
        try:
            for step, batch in enumerate(batches):
                examples = self._load.examples(step)
                batch = self._log.deliver(batch, examples)
                yield batch | {"valid": examples != PADDING, "example": examples}
        finally:
            loading.close(batches)


def train_batches(
    datasets: Sequence[PreparedDataset],
    *,
    image_size: int,
    batch_size: int,
    seed: int = 0,
    sampler: MakeSampler = sampling.natural,
    process_index: int = 0,
    process_count: int = 1,
    tasks: Sequence[str] = tuple(TASKS),
    resize: Resize = "fast",
    workers: int = 0,
    threads: int = 0,
    batches_ahead: int = 4,
    max_rejected: float = MAX_REJECTED,
) -> TrainBatches:
    """Returns the endless stream of one process' training batches.

    Args:
      datasets: prepared data sets (or `take`n examples of them), concatenated in this order.
      image_size: side S of the images in pixels.
      batch_size: the GLOBAL batch size B; each process loads b = B / process_count examples.
      seed: of the sampler.
      sampler: (data sets, seed) -> sampler over their concatenation, from `sampling.make`.
      process_index: this process p.
      process_count: the number of processes P.
      tasks: the tasks whose labels are loaded.
      resize: see `decode.decode`.
      workers: processes that decode; 0 decodes in threads of this process.
      threads: decoding threads in each worker; 0: one per core.
      batches_ahead: batches loaded in advance, which bounds the memory.
      max_rejected: the share of examples that may fail to decode before the run stops.

    Returns:
      An iterator over dicts of numpy arrays: image (b, S, S, 3) uint8, labels/{task} int32 (b,),
      mask/{task} bool (b,), index int64 (b,), the position in the global stream.

    Raises:
      UserError: no examples, or a batch size that the processes cannot share.
    """
    return TrainBatches(
        Loader(datasets, tasks=tasks, image_size=image_size, resize=resize),
        sampler(datasets, seed),
        Slice(batch_size, process_index, process_count),
        Reader(workers=workers, threads=threads, batches=batches_ahead),
        max_rejected=max_rejected,
    )


def eval_batches(
    dataset: PreparedDataset,
    *,
    image_size: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    tasks: Sequence[str] = tuple(TASKS),
    resize: Resize = "fast",
    workers: int = 0,
    threads: int = 0,
    batches_ahead: int = 4,
    max_rejected: float = MAX_REJECTED,
) -> EvalBatches:
    """Returns one pass over a data set in its own order; the last batch is padded.

    The arguments and errors are those of `train_batches`.

    Returns:
      An iterable with a length, over the dicts of `train_batches` with two more keys: valid bool
      (b,), False for padding, and example int64 (b,), the number of the example, -1 for padding.
      An image that cannot be decoded is valid with every mask False.
    """
    return EvalBatches(
        Loader([dataset], tasks=tasks, image_size=image_size, resize=resize),
        Slice(batch_size, process_index, process_count),
        Reader(workers=workers, threads=threads, batches=batches_ahead),
        max_rejected=max_rejected,
    )
