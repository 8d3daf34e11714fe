"""Predictions from images: merged weights on this process' devices, one compiled program per batch size."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from softbio_jax import coverage
from softbio_jax.data.faces import Face, FaceFinder, Mtcnn
from softbio_jax.errors import UserError
from softbio_jax.evaluation.metrics.classification import expected_age
from softbio_jax.inference import bundle, crops, hub, run_bundle
from softbio_jax.inference import images as images_lib
from softbio_jax.inference.bundle import Bundle
from softbio_jax.inference.images import ImageLike
from softbio_jax.models.forward import per_layer
from softbio_jax.tasks import AGE

MAX_FACES = 256  # per image
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track:
    """A face of a video, followed from `first` to `last`, in seconds, over some frames."""

    number: int
    first: float
    last: float
    frames: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one face.

    Args:
      classes: task -> the class of the highest probability.
      probabilities: task -> class -> probability, calibrated where a temperature was fitted.
      expected_age: in years: sum_y p_y y of a head of years, before any temperature, else sum_c p_c a_c over
        the middles a_c of the age groups; None without that task.
      face: where it was detected; None for an image that was used unchanged.
      untrained: the tasks whose class had no training image, so that its probability means little.
      unsure: the tasks whose class is less probable than the threshold of a risk, see `certainty`.
      track: the face of a video that it belongs to; None without tracking.
    """

    classes: Mapping[str, str]
    probabilities: Mapping[str, Mapping[str, float]]
    expected_age: float | None
    face: Face | None = None
    untrained: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()
    track: Track | None = None


def _former_keyword(method: F) -> F:
    """Accepts `pictures`, the former name of the argument `images`."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "pictures" in kwargs:
            kwargs["images"] = kwargs.pop("pictures")
        return method(*args, **kwargs)

    return cast(F, call)


class Predictor:
    """A bundle on one device or several.

    Up to max_batch images are padded to the next power of two and computed on the first device, so at
    most log2(max_batch) + 1 programs are compiled. More are divided among all devices, which each have
    a copy of the weights from then on. Several threads may use it at once.

    Args:
      device: a device, or a name such as "cpu", "gpu" or "gpu:1"; None: all of this process.
      max_batch: maximum batch size per device, a power of two.
    """

    def __init__(self, bundle: Bundle, *, device: jax.Device | str | None = None, max_batch: int = 64):
        if max_batch < 1 or max_batch & (max_batch - 1):
            raise UserError(
                "not a power of two",
                where="max_batch (--batch)",
                expected="1, 2, 4, ...",
                found=str(max_batch),
                fix="use one of them",
            )
        self.bundle = bundle
        self.devices = _devices(device)
        self.max_batch = max_batch
        computed = bundle.on_device(self.device)
        self._variables = jax.device_put(per_layer(computed.model, bundle.variables), self.devices[0])
        self._mesh = Mesh(np.array(self.devices), ("data",))
        self._first: Sharding = SingleDeviceSharding(self.devices[0])
        self._divided: Sharding = NamedSharding(self._mesh, PartitionSpec("data"))
        self._answers = jax.jit(computed.answers)  # compiles once per bucket
        self._buckets: set[int] = set()
        self._finder: FaceFinder | None = None
        self._lock = threading.Lock()

    @property
    def device(self) -> jax.Device:
        """The first device, which computes small batches."""
        return self.devices[0]

    @functools.cached_property
    def _copies(self) -> Any:
        """The weights on every device."""
        return jax.device_put(self._variables, NamedSharding(self._mesh, PartitionSpec()))

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes compiled so far."""
        return tuple(sorted(self._buckets))

    def save(self, directory: str | os.PathLike[str]) -> pathlib.Path:
        """Writes the model to a new folder that `softbio_jax.load` reads."""
        return bundle.save(self.bundle, pathlib.Path(directory).expanduser())

    @_former_keyword
    def predict(
        self, images: ImageLike | Iterable[ImageLike], *, calibrated: bool = True
    ) -> list[Prediction]:
        """Predicts from face crops, each used unchanged.

        Args:
          images: one or several paths, encoded bytes, open files, (H, W, 3) uint8 RGB arrays or PIL
            images, or a batch (B, H, W, 3).
          calibrated: False gives softmax(logits), as in a run's eval/predictions.

        Returns:
          One prediction per image, in their order.

        Raises:
          UserError: something that is not an image.
        """
        given = images_lib.as_list(images)
        size = self.bundle.image_size

        def read(i: int) -> np.ndarray:
            return images_lib.square(given[i], size=size, where=f"images[{i}]")

        return self.predict_squares(_threaded(read, range(len(given))), calibrated=calibrated)

    @_former_keyword
    def predict_faces(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        finder: FaceFinder | None = None,
        margin: float | None = None,
        calibrated: bool = True,
    ) -> list[list[Prediction]]:
        """Detects the faces of photographs and predicts from the square around each.

        Args:
          images: see `predict`.
          finder: the face detector; None: MTCNN, from the extra `faces`.
          margin: see `images.face_square`; None: that of the model's training crops, 0 where unknown.
          calibrated: see `predict`.

        Returns:
          The predictions per image, largest face first; an empty list for an image without a face.

        Raises:
          UserError: something that is not an image, or no face detector.
        """
        if margin is None:
            margin = crops.margin(self.bundle.crops) or 0.0
        size, found, squares = self.bundle.image_size, [], []
        for i, given in enumerate(images_lib.as_list(images)):  # one in full resolution at a time
            image = images_lib.pixels(given, where=f"images[{i}]")
            found.append(faces := self.find_faces(image, finder))
            squares += [images_lib.face_square(image, face, size=size, margin=margin) for face in faces]
        predictions = iter(self.predict_squares(squares, calibrated=calibrated))
        return [[dataclasses.replace(next(predictions), face=face) for face in faces] for faces in found]

    def find_faces(self, image: np.ndarray, finder: FaceFinder | None = None) -> list[Face]:
        """Returns the faces of an image (H, W, 3) uint8 RGB, largest first, at most 256."""
        if finder is None:
            with self._lock:
                self._finder = finder = self._finder or Mtcnn()
        return finder.find(image)[:MAX_FACES]

    def predict_squares(
        self, squares: list[np.ndarray], *, calibrated: bool = True, whole: bool = False
    ) -> list[Prediction]:
        """Predicts from images (S, S, 3) uint8 of the model's size; `whole` as in `logits`."""
        if not squares:
            return []
        logits, years = self._computed(np.stack(squares), whole=whole)
        return described(self.bundle, self._probabilities(logits, calibrated=calibrated), years=years)

    def probabilities(
        self, images: np.ndarray, *, calibrated: bool = True, whole: bool = False
    ) -> dict[str, np.ndarray]:
        """Maps images (N, S, S, 3) uint8 RGB to {task: (N, C)} float32: softmax(logits / T).

        T = 1 for tasks without a fitted temperature, and for all if not `calibrated`; `whole` as in
        `logits`.
        """
        return self._probabilities(self.logits(images, whole=whole), calibrated=calibrated)

    def _probabilities(self, given: Mapping[str, np.ndarray], *, calibrated: bool) -> dict[str, np.ndarray]:
        found = {}
        for task, logits in given.items():
            scaled = logits / (self.bundle.temperatures.get(task, 1.0) if calibrated else 1.0)
            values = np.exp(scaled - scaled.max(axis=1, keepdims=True))
            found[task] = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
        return found

    def logits(self, images: np.ndarray, *, whole: bool = False) -> dict[str, np.ndarray]:
        """Maps images (N, S, S, 3) uint8 to logits {task: (N, C)} float32.

        Args:
          whole: pad to max_batch per device, so that an image has the same logits to the last bit
            whatever it is computed with, on one device or several.
        """
        return self._computed(images, whole=whole)[0]

    def _computed(
        self, images: np.ndarray, *, whole: bool
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Returns the logits, and the expected age in years (N,) of a head of years."""
        size = self.bundle.image_size
        if images.shape[1:] != (size, size, 3) or images.dtype != np.uint8 or not len(images):
            raise UserError(
                "not a batch of this model",
                where="images",
                expected=f"(N, {size}, {size}, 3) uint8, N > 0",
                found=f"{images.shape} {images.dtype}",
                fix="use predict, which resizes",
            )
        running, rest = [], images
        context: contextlib.AbstractContextManager[Any]
        while len(rest):  # all dispatched before any is awaited
            if len(rest) > self.max_batch and len(self.devices) > 1:
                bucket = self.max_batch * len(self.devices)
                # The attention of TPUs is divided over a mesh that is set.
                variables, place, context = self._copies, self._divided, jax.set_mesh(self._mesh)
            else:
                n = min(len(rest), self.max_batch)
                bucket = self.max_batch if whole else 1 << (n - 1).bit_length()
                variables, place, context = self._variables, self._first, contextlib.nullcontext()
            chunk, rest = rest[:bucket], rest[bucket:]
            padding = np.zeros((bucket - len(chunk), *chunk.shape[1:]), np.uint8)
            batch = jax.device_put(np.concatenate([chunk, padding]), place)
            with context:
                running.append((self._answers(variables, batch), len(chunk)))
            self._buckets.add(bucket)
        done = [(jax.device_get(out), n) for out, n in running]
        names = [task.name for task in self.bundle.tasks]
        logits = {task: np.concatenate([out[task][:n] for (out, _), n in done]) for task in names}
        years = [expected[:n] for (_, expected), n in done if expected is not None]
        return logits, np.concatenate(years) if years else None


def described(
    bundle: Bundle, probabilities: Mapping[str, np.ndarray], *, years: np.ndarray | None = None
) -> list[Prediction]:
    """Returns the predictions of {task: (N, C)}; expected `years` (N,) are by default the groups' own."""
    images, age = bundle.training_images, probabilities.get(AGE.name)
    if years is None and age is not None and age.shape[1] == AGE.num_classes:
        years = expected_age(age)
    predictions = []
    for i in range(len(probabilities[bundle.tasks[0].name])):
        rows = {task: probabilities[task.name][i].tolist() for task in bundle.tasks}
        by_class = {task.name: dict(zip(task.classes, row, strict=True)) for task, row in rows.items()}
        classes = {task: max(p, key=p.__getitem__) for task, p in by_class.items()}
        predictions.append(
            Prediction(
                classes=classes,
                untrained=tuple(t for t, c in classes.items() if c in coverage.untrained(images, t)),
                probabilities=by_class,
                expected_age=None if years is None else float(years[i]),
            )
        )
    return predictions


def _threaded(function: Callable[[int], np.ndarray], items: range) -> list[np.ndarray]:
    if len(items) < 2:
        return list(map(function, items))
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def _devices(wanted: jax.Device | str | None) -> tuple[jax.Device, ...]:
    if wanted is None:
        return tuple(jax.local_devices())
    if isinstance(wanted, jax.Device):
        return (wanted,)
    kind, _, number = wanted.partition(":")
    try:
        return (jax.local_devices(backend=kind)[int(number or 0)],)
    except (RuntimeError, IndexError, ValueError) as error:
        here = ", ".join(sorted({f"{d.platform}:{d.id}" for d in jax.devices()}))
        expected, found = f"one of {here}", repr(wanted)
        raise UserError(
            "no such device", where="device", expected=expected, found=found, fix="name one of them"
        ) from error


def open_bundle(source: str | os.PathLike[str]) -> Bundle:
    """Returns the bundle of a run of scripts/train.py, a saved folder or a hub id; folders come first.

    Raises:
      UserError: none of them, or a damaged one.
    """
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return bundle.from_directory(path) if bundle.is_bundle(path) else run_bundle.from_run(path)
    # Paths such as runs/mine look like hub ids; if the parent folder exists, it is a mistyped path.
    mistyped = path.exists() or (len(path.parts) > 1 and path.parent.is_dir())
    if isinstance(source, str) and hub.is_id(source) and not mistyped:
        return hub.pull(source)
    expected, found = "a run directory, a saved folder or a hub id", "a file" if path.is_file() else "nothing"
    raise UserError(
        "no such model", where=str(source), expected=expected, found=found, fix="correct the path"
    )


def load(
    source: str | os.PathLike[str], *, device: jax.Device | str | None = None, max_batch: int = 64
) -> Predictor:
    """Returns a trained model, ready to predict.

    Args:
      source: a run of scripts/train.py, a folder that `Predictor.save` wrote, or a hub id.
      device: a device, or a name such as "cpu" or "gpu:1"; None: all of this process.
      max_batch: maximum batch size per device, a power of two.

    Raises:
      UserError: no model, or no such device.
    """
    return Predictor(open_bundle(source), device=device, max_batch=max_batch)
