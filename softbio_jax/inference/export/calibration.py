"""Images on which an int8 export measures the ranges of activations, and compares itself with float32."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from softbio_jax.data import listing
from softbio_jax.data.decode import decode
from softbio_jax.data.sources import open_prepared
from softbio_jax.errors import UserError
from softbio_jax.inference import images as images_lib
from softbio_jax.inference.reference.write import probability_distance

IMAGES = 256  # by default
TOLERANCE = 0.05  # mean distance of probabilities by default
_HELD_OUT = 4  # of so many images one is compared on
_PREPARED = "dataset_info.json"
Run = Callable[[np.ndarray], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Face crops of the user, chosen evenly over the sources.

    Three of four measure ranges, the others are held out for the comparison with float32.

    Args:
      sources: names of prepared splits and folders, without the paths of this machine.
      images: (N, S, S, 3) uint8, N >= 4, in mixed order.
      tolerance: largest mean distance of probabilities of a task between int8 and float32.
    """

    sources: tuple[str, ...]
    images: np.ndarray
    tolerance: float = TOLERANCE

    @property
    def measured(self) -> np.ndarray:
        """The images of which ranges are measured."""
        return self.images[np.arange(len(self.images)) % _HELD_OUT != 0]

    @property
    def held_out(self) -> np.ndarray:
        """The images of the comparison."""
        return self.images[::_HELD_OUT]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yields the measured images in batches of `size`; the last is filled up with the first images."""
        images = self.measured
        for start in range(0, len(images), size):
            yield images[np.arange(start, start + size) % len(images)]

    def to_json(self) -> dict[str, Any]:
        """Returns the sources, the number of images of either kind and the SHA-256 of their pixels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).tobytes()).hexdigest()
        return {
            "sources": list(self.sources),
            "images": len(self.measured),
            "held_out": len(self.held_out),
            "sha256": digest,
        }


def read(
    sources: Sequence[str], *, size: int, count: int = IMAGES, tolerance: float = TOLERANCE
) -> Calibration:
    """Reads images from prepared data or folders of face crops, about as many from each.

    Args:
      sources: DIR of prepared data for its split `train`, DIR:SPLIT, or a folder of image files.
      size: the side S of the model's images in pixels.
      count: number of images at most.
      tolerance: see `Calibration`.

    Raises:
      UserError: no such source, a file that is not an image, or fewer than four images.
    """
    rng = np.random.default_rng(0)
    names: list[str] = []
    found: list[np.ndarray] = []
    for number, source in enumerate(sources):
        name, read_one, available = _open(source, size)
        share = (count - len(found)) // (len(sources) - number)
        chosen = np.sort(rng.permutation(available)[:share])
        found += [read_one(int(i)) for i in chosen]
        names.append(name)
    if len(found) < _HELD_OUT:
        raise UserError(
            "too few images to calibrate on",
            where=", ".join(sources),
            expected=f"at least {_HELD_OUT}, better {IMAGES}",
            found=str(len(found)),
            fix="name prepared data or a folder with more face crops",
        )
    images = np.stack(found)[rng.permutation(len(found))]
    return Calibration(sources=tuple(names), images=images, tolerance=tolerance)


def quantisation(
    exact: Run, quantised: Run, calibration: Calibration | None, *, static: tuple[int, int], where: str
) -> dict[str, Any]:
    """Returns what config.json says of an int8 file: its numbers, the images, its agreement with float32.

    Args:
      exact: the float32 model, (B, S, S, 3) uint8 to {task: logits (B, C)}.
      quantised: the int8 model.
      calibration: the images; None: activations are quantised by the runtime, in every call.
      static: number of dense layers with static ranges, and of all.
      where: the int8 file, for the error.

    Raises:
      UserError: a task whose probabilities differ by more than the tolerance in the mean.
    """
    found: dict[str, Any] = {"weights": "int8, one scale per channel", "activations": "int8, dynamic"}
    if calibration is not None:
        some, every = static
        if some == every:
            found["activations"] = "int8, static"
        elif some:
            found["activations"] = f"int8, static in {some} of {every} dense layers, dynamic in the others"
        found["calibration"] = calibration.to_json()
        found["agreement"] = _agreement(exact, quantised, calibration, where=where)
    return {"quantisation": found}


def _agreement(exact: Run, quantised: Run, calibration: Calibration, *, where: str) -> dict[str, Any]:
    """Compares an int8 model with its float32 one on the held-out images."""
    found: dict[str, Any] = {}
    rows = [(exact(image[None]), quantised(image[None])) for image in calibration.held_out]
    for task in rows[0][0]:
        p, q = (np.concatenate([np.asarray(row[side][task]) for row in rows]) for side in (0, 1))
        found[task] = {
            "distance": float(f"{probability_distance(p, q).mean():.4g}"),
            "same_class": float(np.mean(p.argmax(axis=1) == q.argmax(axis=1))),
        }
    for task, values in found.items():
        if values["distance"] <= calibration.tolerance:  # not so of NaN
            continue
        raise UserError(
            "int8 answers differ too much from float32",
            where=f"{where} {task}",
            expected=f"a mean distance of probabilities of at most {calibration.tolerance:g}",
            found=f"{values['distance']:g}, the same class for {values['same_class']:.0%}",
            fix="calibrate on images like those of the use, or omit --calibrate, as encoders with "
            "outlying activations need ranges of every call; or accept it with --tolerance",
        )
    return {"tolerance": calibration.tolerance, **found}


def _open(source: str, size: int) -> tuple[str, Callable[[int], np.ndarray], int]:
    """Returns the name of a source, the function that reads an image of it, and their number."""
    folder, _, split = source.partition(":")
    path = pathlib.Path(folder).expanduser()
    if split or (path / _PREPARED).is_file():
        dataset = open_prepared(path, split or "train")
        name = f"{dataset.name}/{dataset.split}"
        return name, lambda i: decode(dataset[i], size=size), len(dataset)
    if not path.is_dir():
        raise UserError(
            "no images to calibrate on",
            where=source,
            expected="prepared data as DIR or DIR:SPLIT, or a folder of face crops",
            found="a file" if path.exists() else "nothing",
            fix="correct the path",
        )
    files = sorted(item.path for item in listing.walk(path) if item.kind == "image")
    return path.name, lambda i: images_lib.square(files[i], size=size, where=files[i]), len(files)
