"""Host pipeline: prepared data sets to the batches of one process, the same on any number of them.

The stream of samples is global. Global step s takes positions [s B, (s + 1) B) of it and process
p of P the p-th of P equal slices, so the slices together are the same global batch for every P.
Grain decodes ahead, in threads or in worker processes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from softbio_jax.data import loading, sampling
from softbio_jax.data.decode import Resize
from softbio_jax.data.loading import PADDING, Batch, Loader, Rejected, RejectionLog
from softbio_jax.data.sampling import MakeSampler, Sampler, Stream, check_stream, digest_of
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.tasks import TASKS


class Slice:
    """Step s -> positions s B + p b + [0, b) of the global stream, b = B / P.

    Args:
      batch_size: the global batch size B.
      process_index: the process p.
      process_count: the number of processes P.
    """

    def __init__(self, batch_size: int, process_index: int, process_count: int):
        self._batch_size = batch_size
        local = batch_size // process_count
        self._offsets = np.arange(process_index * local, (process_index + 1) * local)

    def positions(self, step: int) -> np.ndarray:
        """Lists the positions (b,) int64 of this process at a step."""
        return step * self._batch_size + self._offsets


class TrainRows(Slice):
    """Step -> the examples (b,) that an endless stream has at this process' positions."""

    def __init__(self, stream: Stream, batch_size: int, process_index: int, process_count: int):
        super().__init__(batch_size, process_index, process_count)
        self._stream = stream

    def __call__(self, step: int) -> np.ndarray:
        return self._stream[self.positions(step)]


class EvalRows(Slice):
    """Step -> the examples (b,) at this process' positions, PADDING past the last of N."""

    def __init__(self, size: int, batch_size: int, process_index: int, process_count: int):
        super().__init__(batch_size, process_index, process_count)
        self._size = size

    def __call__(self, step: int) -> np.ndarray:
        positions = self.positions(step)
        return np.where(positions < self._size, positions, np.int64(PADDING))


MAX_REJECTED = 0.02
_ENDLESS = 2**40  # steps: more than any training takes


class TrainBatches:
    """An endless iterator over one process' batches that resumes at any step.

    Make it with `train_batches`. `sampler` tells the size of an epoch; `rejected` lists the
    examples that could not be decoded so far.
    """

    def __init__(
        self,
        loader: Loader,
        sampler: Sampler,
        *,
        batch_size: int,
        process_index: int,
        process_count: int,
        reader: loading.Reader,
        max_rejected: float,
    ):
        self.sampler = sampler
        self._rows = TrainRows(Stream(sampler), batch_size, process_index, process_count)
        self._load = _Load(loader, self._rows)
        self._reader = reader
        self._log = RejectionLog(loader, max_rejected=max_rejected)
        fingerprints = [dataset.fingerprint for dataset in loader.datasets]
        self._stream = digest_of(sampler.digest(), batch_size, *fingerprints)
        self._step = 0
        self._batches: Iterator[Batch] | None = None

    @property
    def rejected(self) -> list[Rejected]:
        return self._log.rejected

    def __iter__(self) -> TrainBatches:
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._reader(self._load, self._step, _ENDLESS)
            # Workers that live until the interpreter ends complain about their shared memory.
            weakref.finalize(self, loading.close, self._batches)
        batch = self._log.deliver(next(self._batches), self._rows(self._step))
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """Tells where the stream stands, in JSON's types."""
        return {"step": self._step, "stream": self._stream}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken, by any number of processes and workers.

        Raises:
          UserError: the state belongs to another stream (data, seed, sampler or batch size).
        """
        check_stream(str(state["stream"]), self._stream)
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stops reading ahead, worker processes included; the next batch starts it again."""
        if self._batches is not None:
            loading.close(self._batches)
            self._batches = None


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
    """Makes the endless stream of one process' training batches.

    Args:
      datasets: prepared data sets (or `take`n rows of them), concatenated in this order.
      image_size: side S of the pictures in pixels.
      batch_size: the GLOBAL batch size B; a process gets b = B / process_count rows.
      seed: which stream.
      sampler: (data sets, seed) -> sampler over their concatenation, one of `samplers`.
      process_index: this process p.
      process_count: the number of processes P.
      tasks: the tasks to give labels of.
      resize: see `decode.decode`.
      workers: processes that decode; 0 decodes in threads of this one.
      threads: threads that decode, in each worker; 0: one a core.
      batches_ahead: batches made before they are asked for, which bounds the memory.
      max_rejected: the share of the examples that may fail to decode before the run stops.

    Returns:
      An iterator over dicts of numpy arrays: image (b, S, S, 3) uint8, labels/{task} int32 (b,),
      mask/{task} bool (b,), index int64 (b,), the position in the global stream.

    Raises:
      UserError: no examples, or a batch size that the processes cannot share.
    """
    loader = Loader(datasets, tasks=tasks, image_size=image_size, resize=resize)
    _check(loader, batch_size=batch_size, process_count=process_count)
    return TrainBatches(
        loader,
        sampler(datasets, seed),
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
        reader=loading.Reader(workers=workers, threads=threads, batches=batches_ahead),
        max_rejected=max_rejected,
    )


class EvalBatches:
    """One process' batches of one pass over a data set, every example exactly once.

    Make it with `eval_batches`. `len` is the number of batches, the same on every process;
    `rejected` lists the examples that could not be decoded so far.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        batch_size: int,
        process_index: int,
        process_count: int,
        reader: loading.Reader,
        max_rejected: float,
    ):
        self._rows = EvalRows(len(loader), batch_size, process_index, process_count)
        self._load = _Load(loader, self._rows)
        self._reader = reader
        self._log = RejectionLog(loader, max_rejected=max_rejected)
        self._num_batches = -(-len(loader) // batch_size)

    @property
    def rejected(self) -> list[Rejected]:
        return self._log.rejected

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        batches = self._reader(self._load, 0, len(self))
        try:
            for step, batch in enumerate(batches):
                rows = self._rows(step)
                batch = self._log.deliver(batch, rows)
                yield batch | {"valid": rows != PADDING, "example": rows}
        finally:
            loading.close(batches)


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
    """Makes one pass over a data set in its own order, padded to whole batches at the end.

    Args:
      dataset: a prepared data set.
      batch_size: the GLOBAL batch size B.
      **: as in `train_batches`.

    Returns:
      An iterable with a length, over the dicts of `train_batches` with two keys more: valid bool
      (b,), False for padding, and example int64 (b,), the number of the example, -1 for padding.
      A picture that cannot be decoded is valid with every mask False.

    Raises:
      UserError: no examples, or a batch size that the processes cannot share.
    """
    loader = Loader([dataset], tasks=tasks, image_size=image_size, resize=resize)
    _check(loader, batch_size=batch_size, process_count=process_count)
    return EvalBatches(
        loader,
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
        reader=loading.Reader(workers=workers, threads=threads, batches=batches_ahead),
        max_rejected=max_rejected,
    )


class _Load:
    """Local step -> loaded batch; an object and not a closure, so that workers can be sent it."""

    def __init__(self, loader: Loader, rows: TrainRows | EvalRows):
        self._loader = loader
        self._rows = rows

    def __call__(self, step: int) -> Batch:
        batch = self._loader.load(self._rows(step))
        return batch | {"index": self._rows.positions(step)}


def _check(loader: Loader, *, batch_size: int, process_count: int) -> None:
    if not len(loader):
        raise UserError("no examples", where="the prepared data sets", fix="check their splits")
    if batch_size <= 0 or batch_size % process_count:
        raise UserError(
            "the processes cannot share the batch",
            where="batch_size",
            expected=f"a multiple of {process_count} processes",
            found=str(batch_size),
            fix="change the batch size",
        )
