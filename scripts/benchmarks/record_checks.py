"""Measures what comparing every record with the index adds to reading and decoding an epoch.

python scripts/benchmarks/record_checks.py --data=data/prepared/fairface --split=train

Prints the CPU time per image of this process, with the comparison and without it: the mean over the
images of the smallest of several rounds, which alternate.
"""

import itertools
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from softbio_jax import command

_DATA = flags.DEFINE_string("data", None, "A prepared folder.", required=True)
_SPLIT = flags.DEFINE_string("split", "train", "Its split.")
_SIZE = flags.DEFINE_integer("size", 224, "Side of the decoded images in pixels.")
_IMAGES = flags.DEFINE_integer("images", 500, "At most this many images in a round.")
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Rounds of each kind.")


def main(argv: Sequence[str]) -> None:
    del argv
    from softbio_jax.data import decode, sources

    dataset = sources.open_prepared(_DATA.value, _SPLIT.value)
    count = min(_IMAGES.value, len(dataset))
    compare = sources.PreparedDataset._compare
    best = {name: np.full(count, np.inf) for name in ("with", "without")}
    # Every second round in the other order: what is read a second time is in the cores' caches.
    for turn, example, number in itertools.product(range(_ROUNDS.value), range(count), range(2)):
        name = ("with", "without")[(turn + number) % 2]
        sources.PreparedDataset._compare = compare if name == "with" else lambda *_: None  # type: ignore[method-assign]
        begun = time.process_time()
        decode.decode(dataset[example], size=_SIZE.value, resize="fast")
        best[name][example] = min(best[name][example], time.process_time() - begun)
    seconds = {name: float(found.mean()) for name, found in best.items()}
    print(f"{count} images, {sum(len(dataset[i]) for i in range(count)) / count:,.0f} bytes each on average")
    for name, found in seconds.items():
        print(f"{name:<8} {1e6 * found:8.1f} us of CPU per image")
    print(f"the comparison adds {100 * (seconds['with'] / seconds['without'] - 1):.2f} %")


if __name__ == "__main__":
    command.run(main)
