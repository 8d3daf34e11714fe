"""Measures what comparing every record with the index adds to an epoch's reading.

python scripts/benchmarks/record_checks.py --data=data/prepared/fairface --split=train

Prints the CPU time of this process per image, with the comparison and without it, of reading and
decoding one image and of loading a batch; then that of augmenting a batch on the CPU, which a run
does too. Each is the mean of the smallest of several rounds, in which the two kinds alternate.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags

from softbio_jax import command

_DATA = flags.DEFINE_string("data", None, "A prepared folder.", required=True)
_SPLIT = flags.DEFINE_string("split", "train", "Its split.")
_SIZE = flags.DEFINE_integer("size", 224, "Side of the decoded images in pixels.")
_IMAGES = flags.DEFINE_integer("images", 480, "At most this many images in a round.")
_BATCH = flags.DEFINE_integer("batch_size", 32, "Images per batch.")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Rounds of each kind.")


def main(argv: Sequence[str]) -> None:
    del argv
    from softbio_jax.data import decode, sources
    from softbio_jax.data.loading import Loader

    dataset = sources.open_prepared(_DATA.value, _SPLIT.value)
    size, count, batch = _SIZE.value, min(_IMAGES.value, len(dataset)), min(_BATCH.value, len(dataset))
    loader = Loader([dataset], tasks=tuple(dataset.labels), image_size=size, resize="fast")
    batches = [np.arange(start, start + batch) for start in range(0, count - batch + 1, batch)]
    bytes_each = sum(len(dataset[i]) for i in range(count)) / count
    print(f"{count} images, {bytes_each:,.0f} bytes each on average; us of CPU per image")
    augmenting = _augmenting(loader.load(batches[0])["image"])
    cases: list[tuple[str, Sequence[Any], int, Callable[[Any], object], float]] = [
        ("read, decode", range(count), 1, lambda i: decode.decode(dataset[i], size=size), 0.0),
        ("load a batch", batches, batch, loader.load, augmenting),
    ]
    for name, units, per, work, more in cases:
        compared, plain = (1e6 * seconds / per for seconds in _alternate(work, units))
        print(
            f"{name:<14} {compared:8.2f} with the comparison, {plain:8.2f} without: {_share(compared, plain)}"
        )
        if more:
            print(f"{'and augment':<14} {more:8.2f} more: {_share(compared + more, plain + more)}")


def _alternate(work: Callable[[Any], Any], units: Sequence[Any]) -> tuple[float, float]:
    """Returns the seconds of `work(unit)` with the comparison and without it, means over the units."""
    from softbio_jax.data import sources

    reading = {False: sources.PreparedDataset.__getitem__, True: _read}
    best = np.full((2, len(units)), np.inf)
    try:
        # Every second round in the other order: what is read a second time is in the cores' caches.
        for turn, number, place in itertools.product(range(_ROUNDS.value), range(len(units)), range(2)):
            kind = (turn + place) % 2
            sources.PreparedDataset.__getitem__ = reading[bool(kind)]  # type: ignore[method-assign]
            best[kind, number] = min(best[kind, number], _cpu(work, units[number]))
    finally:
        sources.PreparedDataset.__getitem__ = reading[False]  # type: ignore[method-assign]
    compared, plain = best.mean(axis=1)
    return float(compared), float(plain)


def _read(dataset: Any, example: int) -> bytes:
    """`PreparedDataset.__getitem__` without the comparison."""
    try:
        features = dataset._source[dataset.records.item(example)]
        image: bytes = features["image"].bytes_list.value[0]
    except Exception as error:
        raise dataset._damaged(example, error) from error
    return image


def _augmenting(images: np.ndarray) -> float:
    """Returns the microseconds per image of the default augmentation on this process' CPU devices."""
    import jax

    from softbio_jax.data.augment import AugmentConfig, augment

    index, key = np.arange(len(images)), jax.random.key(0)
    call = jax.jit(functools.partial(augment, config=AugmentConfig()))
    jax.block_until_ready(call(images, key, index))
    seconds = [_cpu(lambda: jax.block_until_ready(call(images, key, index))) for _ in range(_ROUNDS.value)]
    return 1e6 * min(seconds) / len(images)


def _cpu(work: Callable[..., Any], *arguments: Any) -> float:
    begun = time.process_time()
    work(*arguments)
    return time.process_time() - begun


def _share(compared: float, plain: float) -> str:
    return f"the comparison adds {compared - plain:.2f} us, {100 * (compared / plain - 1):.2f} %"


if __name__ == "__main__":
    command.run(main)
