"""Measures the search for copies: recall per kind of planted copy, other pairs, processor time, memory.

  python scripts/benchmarks/audit.py --images=DIR --out=DIR [--total=70000]

Every image of the folder is used once, and altered copies of them make up the total, the kinds in
turn. Times are of the processor, of all threads: making the copies is not counted, decoding is.
Writes benchmark_audit.json.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from softbio_jax import command
from softbio_jax.errors import UserError

_IMAGES = flags.DEFINE_string("images", None, "A folder of images, with folders in it or not.")
_OUT = flags.DEFINE_string("out", None, "Where to write benchmark_audit.json.")
_COPIES = flags.DEFINE_integer("copies", 4000, "Number of planted copies.")
_TOTAL = flags.DEFINE_integer("total", 0, "Number of images with the copies; overrides --copies.")
_ENDINGS = (".jpg", ".jpeg", ".png")


class Encoded:
    """Encoded images in one file, read as those of a prepared split are."""

    name, split = "benchmark", "train"

    def __init__(self, path: pathlib.Path):
        self._file, self._ends = path.open("w+b"), [0]

    def add(self, data: bytes) -> None:
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        start, end = self._ends[number], self._ends[number + 1]
        return os.pread(self._file.fileno(), end - start, start)

    def flush(self) -> None:
        self._file.flush()


def main(_: Sequence[str]) -> None:
    from probes import copies
    from softbio_jax.console import Console
    from softbio_jax.data import decode
    from softbio_jax.data.audit import duplicates, groups, thumbnails

    if _IMAGES.value is None or _OUT.value is None:
        raise UserError("a flag is missing", where="--images, --out", fix="see --help")
    paths = sorted(p for p in pathlib.Path(_IMAGES.value).rglob("*") if p.suffix.lower() in _ENDINGS)
    if not paths:
        raise UserError(
            "no images", where=_IMAGES.value, expected="JPEG or PNG files", fix="correct --images"
        )
    planted = max(_TOTAL.value - len(paths), 0) if _TOTAL.value else _COPIES.value
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        images = Encoded(pathlib.Path(scratch) / "images")
        for path in paths:
            images.add(path.read_bytes())
        images.flush()
        kinds = [list(copies.KINDS)[n % len(copies.KINDS)] for n in range(planted)]
        order = np.concatenate([rng.permutation(len(paths)) for _ in range(1 + planted // len(paths))])
        for original, kind in zip(order.tolist(), kinds, strict=False):
            images.add(copies.copy(decode.decode_full(images[original]), kind, rng))
        images.flush()

        before, begun = _peak(), time.process_time()
        scanned = thumbnails.scan(images, console=Console())
        read = time.process_time()
        # Digests of their own for all: only what the images show may find the copies.
        digests = rng.integers(0, 256, (len(images), 32), dtype=np.uint8)
        usable = thumbnails.spread(scanned.thumbnails) >= 4
        found = duplicates.find(scanned.thumbnails, digests, usable, console=Console())
        done = time.process_time()
    connected = groups.Groups(len(images))
    for pair in found:
        connected.join(pair.first, pair.second)
    hits = np.array(
        [
            connected.leader(int(original)) == connected.leader(len(paths) + n)
            for n, original in enumerate(order[:planted])
        ]
    )
    group_of = np.concatenate([np.arange(len(paths)), order[:planted]])
    others = {
        tuple(sorted((int(group_of[p.first]), int(group_of[p.second]))))
        for p in found
        if group_of[p.first] != group_of[p.second]
    }
    results = {
        "date": time.strftime("%Y-%m-%d"),
        "images": len(images),
        "planted": planted,
        "recall": {k: float(hits[[kind == k for kind in kinds]].mean()) for k in dict.fromkeys(kinds)},
        "pairs": len(found),
        "pairs_of_different_files": len(others),
        "processor_seconds": {"reading": read - begun, "search": done - read, "all": done - begun},
        "memory_mib": {"before": before, "peak": _peak(), "added": _peak() - before},
    }
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    (out / "benchmark_audit.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    print(f"wrote {out}/benchmark_audit.json")


def _peak() -> float:
    """Returns the largest resident memory of this process until now, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    command.run(main)
