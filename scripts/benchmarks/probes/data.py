"""How fast this machine reads and prepares images."""

from __future__ import annotations

import gc
import io
import pathlib
import resource
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from softbio_jax.data import decode, pipeline, sources
from softbio_jax.data.drawing import synthetic
from softbio_jax.data.prepare import prepare, storage

SOURCE_SIDE = 384
MODEL_SIDE = 336
_BATCH = 64
_QUALITY = 90
_WARM_UP = 4


def jpegs(folder: str | None, *, count: int) -> list[bytes]:
    """Makes `count` JPEGs of 384 x 384 from the images of a folder, or from drawn faces."""
    if folder is None:
        name = next(iter(synthetic.SOURCES))
        images: Iterator[np.ndarray] = (
            synthetic.draw(name, "train", row, size=SOURCE_SIDE, seed=0).image for row in range(count)
        )
    else:
        paths = sorted(pathlib.Path(folder).glob("*.jpg"))[:count]
        images = (decode.decode_full(path.read_bytes()) for path in paths)
    return [storage.encode(decode.squash(image, SOURCE_SIDE), "jpeg", quality=_QUALITY) for image in images]


def reading(encoded: Sequence[bytes], folder: pathlib.Path, *, batches: int) -> dict[str, float]:
    """Measures images per second of processor time, one decoding thread, batches of 64.

    Args:
      encoded: JPEGs of 384 x 384.
      folder: where the records may be written.
      batches: how many batches each rate is measured over.
    """
    raw = folder / "images"
    for number, data in enumerate(encoded):
        path = raw / "train" / "male" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    choices = {
        "source": storage.Storage(),
        "jpeg": storage.Storage(image_size=MODEL_SIDE, encoding="jpeg", quality=_QUALITY),
        "raw": storage.Storage(image_size=MODEL_SIDE, encoding="raw"),
    }
    for name, choice in choices.items():
        prepare.prepare("folder", source=str(raw), out=folder / name, task="gender", storage=choice)
    rates = {
        "384 px JPEG to 336, Grain with Pillow": _rate(_pillow_batches(folder / "source"), batches),
        "384 px JPEG to 336": _rate(_batches(folder / "source"), batches),
        "384 px JPEG to 336, reference-exact": _rate(
            _batches(folder / "source", resize="reference"), batches
        ),
        "pre-resized JPEG records": _rate(_batches(folder / "jpeg"), batches),
        "pre-resized raw records": _rate(_batches(folder / "raw"), batches),
    }
    slow, fast = list(rates.values())[:2]
    return rates | {"times faster than Grain with Pillow": fast / slow}


def memory_growth(directory: pathlib.Path, *, batches: int = 100) -> float:
    """Measures by how many MiB the process grows while a pipeline that runs goes on running."""
    stream = _batches(directory)
    for _ in range(_WARM_UP * 5):
        next(stream)
    gc.collect()
    before = _resident()
    for _ in range(batches):
        next(stream)
    gc.collect()
    return max(_resident() - before, 0) / 2**20


def fairface(source: str, folder: pathlib.Path) -> dict[str, float]:
    """Measures preparing FairFace."""
    start = time.monotonic()
    report = prepare.prepare("fairface", source=source, out=folder / "fairface")
    rows = sum(part["rows_read"] for part in report["splits"].values())
    return {"rows prepared": rows, "seconds to prepare": time.monotonic() - start}


def _batches(directory: pathlib.Path, **options: Any) -> pipeline.TrainBatches:
    dataset = sources.open_prepared(directory, "train")
    return pipeline.train_batches([dataset], image_size=MODEL_SIDE, batch_size=_BATCH, threads=1, **options)


def _pillow_batches(directory: pathlib.Path) -> Iterator[np.ndarray]:
    import grain

    dataset = sources.open_prepared(directory, "train")
    order = grain.MapDataset.range(len(dataset)).shuffle(seed=0).repeat()
    images = order.map(lambda n: _pillow(dataset[int(n)])).batch(_BATCH)
    return iter(images.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def _pillow(data: bytes) -> np.ndarray:
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=["JPEG"]).resize(
        (MODEL_SIDE, MODEL_SIDE), Image.Resampling.BILINEAR
    )
    return np.asarray(image.convert("RGB"))


def _rate(stream: Iterator[Any], batches: int) -> float:
    for _ in range(_WARM_UP):
        next(stream)
    start = time.process_time()
    for _ in range(batches):
        next(stream)
    return batches * _BATCH / (time.process_time() - start)


def _resident() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
