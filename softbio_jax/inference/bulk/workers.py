"""Crops that are decoded ahead, in worker processes of Grain."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from softbio_jax.data import loading
from softbio_jax.errors import UserError
from softbio_jax.inference import images
from softbio_jax.inference.bulk.parquet import TableImage, TableReader

_EACH = 32  # images that a worker decodes and hands over together


def squares(names: Sequence[str], *, size: int, workers: int) -> Iterator[tuple[np.ndarray, str]]:
    """Yields the square of every image, (S, S, 3) uint8, and the reason why there is none, or "".

    Args:
      names: files and `TableImage`s; "" for one that is not needed, whose square is black.
      size: the side S in pixels.
      workers: processes that decode.

    Raises:
      UserError: a worker has ended.
    """
    reader = loading.Reader(workers=workers, threads=0, batches=2 * workers, setting="--workers")
    batches = reader(_Decode(tuple(names), size), 0, -(-len(names) // _EACH))
    try:
        for batch in batches:
            reasons = (bytes(reason).decode("utf-8", "surrogateescape") for reason in batch["reason"])
            yield from zip(batch["square"], reasons, strict=True)
    finally:
        loading.close(batches)


@dataclasses.dataclass(frozen=True)
class _Decode:
    """Number of a part -> its squares and reasons; not a closure, so that workers can receive it."""

    names: tuple[str, ...]
    size: int

    def __call__(self, part: int) -> dict[str, np.ndarray]:
        loading.one_opencv_thread()
        names = self.names[part * _EACH : (part + 1) * _EACH]
        found = np.zeros((len(names), self.size, self.size, 3), np.uint8)
        reasons = [b""] * len(names)
        for place, name in enumerate(names):
            try:
                if name:
                    encoded = _reader().read(name) if isinstance(name, TableImage) else name
                    found[place] = images.square(encoded, size=self.size, where=name)
            except UserError as error:
                reasons[place] = str(error).encode("utf-8", "surrogateescape")
        return {"square": found, "reason": np.array(reasons)}


@functools.cache
def _reader() -> TableReader:
    """Returns the reader of a process, which keeps its place in a table."""
    return TableReader()
