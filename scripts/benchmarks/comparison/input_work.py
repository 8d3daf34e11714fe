"""What the input pipelines are asked to do, and the images that both read."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

_IMAGES = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputWork:
    """JPEG files to batches on the device, float32 in [-1, 1].

    Args:
      folder: of the images; `images_in` writes them if they are missing.
      source_side: their side in pixels.
      image_size: S, that of the batches.
      batch: B.
      batches: how many are timed in a repetition.
      warm: how many before them are not: what was read ahead, and the start of the workers.
      workers: processes or threads that decode.
    """

    folder: str
    source_side: int
    image_size: int
    batch: int = 64
    batches: int = 12
    warm: int = 6
    workers: int = 2

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "InputWork":
        return InputWork(**values)


def images_in(work: InputWork) -> pathlib.Path:
    """Returns the folder of the images, which are drawn faces under a photograph's noise."""
    folder = pathlib.Path(work.folder) / f"images-{work.source_side}"
    if folder.exists():
        return folder
    import cv2
    import numpy as np

    from softbio_jax.data.drawing import synthetic
    from softbio_jax.data.prepare import storage

    unfinished = folder.with_name(folder.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    name, rng = next(iter(synthetic.SOURCES)), np.random.default_rng(0)
    side = work.source_side
    for row in range(_IMAGES):
        face = synthetic.draw(name, "train", row, size=side, seed=0).image
        noise = cv2.GaussianBlur(rng.normal(0, 12, face.shape).astype(np.float32), (0, 0), 1.0)
        face = np.clip(face + 2 * noise, 0, 255).astype(np.uint8)
        path = unfinished / "train" / "male" / f"{row:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.encode(face, "jpeg", quality=90))
    unfinished.rename(folder)
    return folder
