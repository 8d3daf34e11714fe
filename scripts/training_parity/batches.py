"""The stream of batches that both sides see: augmented once, kept as bytes, with labels missing."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from softbio_jax.data.augment import augment
from softbio_jax.errors import UserError
from softbio_jax.tasks import MISSING, TASKS
from training_parity.case import Case

Batch = dict[str, np.ndarray]
_UNLABELLED = 0.4  # share of the labels that are missing
# Tasks without a label in a whole batch, by step modulo 10; of several tasks the first always has some.
_ABSENT = {3: (-1,), 4: (-1,), 6: (-2,), 8: (-1, -2)}
_DISTANCE = 4  # pixels between two values of a drawn image, which are interpolated


def drawn(case: Case, steps: int, *, seed: int = 0) -> list[Batch]:
    """Returns a batch per step: images (B, H, W, 3) uint8, and labels/{task} and mask/{task} (B,).

    Every example's augmentation is drawn as in training; its result is rounded to bytes, which both sides
    normalise.
    """
    rng, config = np.random.default_rng(seed), case.config
    tasks, size = config.tasks, case.run.image_size
    key = jax.random.key(config.seed)
    batches = []
    for step in range(steps):
        rows = config.train.batch_size
        index = np.arange(step * rows, (step + 1) * rows)
        images = _augmented(_images(rng, rows, size), key, index, case)
        batch: Batch = {"image": images, "index": index}
        absent = {tasks[i] for i in _ABSENT.get(step % 10, ()) if len(tasks) >= -i + 1}
        for task in tasks:
            labels = rng.integers(0, TASKS[task].num_classes, rows)
            mask = (rng.random(rows) > _UNLABELLED) & (task not in absent)
            mask[0] |= task not in absent
            batch[f"labels/{task}"] = np.where(mask, labels, MISSING).astype(np.int32)
            batch[f"mask/{task}"] = mask
        batches.append(batch)
    return batches


def _images(rng: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """Returns random images (rows, size, size, 3) uint8 that are smooth over a few pixels."""
    coarse = rng.uniform(0, 255, (rows, -(-size // _DISTANCE) + 1, -(-size // _DISTANCE) + 1, 3))
    places = np.arange(size) / _DISTANCE
    low = places.astype(int)
    part = places - low
    for axis in (1, 2):
        weight = part.reshape([-1 if dim == axis else 1 for dim in range(4)])
        coarse = np.take(coarse, low, axis) * (1 - weight) + np.take(coarse, low + 1, axis) * weight
    return coarse.astype(np.uint8)


def _augmented(images: np.ndarray, key: jax.Array, index: np.ndarray, case: Case) -> np.ndarray:
    mean = case.encoder.mean
    floats = augment(images, key, jax.numpy.asarray(index), config=case.config.augment, mean=mean)
    return np.clip(np.rint((np.asarray(floats) + 1) * 127.5), 0, 255).astype(np.uint8)


def save(path: pathlib.Path, batches: Sequence[Batch]) -> None:
    """Writes batches to an .npz file, {step}/{name} each."""
    np.savez(
        path, **{f"{i}/{name}": array for i, batch in enumerate(batches) for name, array in batch.items()}
    )


def load(path: pathlib.Path, case: Case, steps: int) -> list[Batch]:
    """Reads the batches of `save`.

    Raises:
      UserError: fewer steps, or batches of another size or of other tasks.
    """
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    count = len({name.split("/")[0] for name in arrays})
    side, rows = case.run.image_size, case.config.train.batch_size
    needed = {f"labels/{task}" for task in case.config.tasks}
    found = {name.partition("/")[2] for name in arrays}
    shape = arrays["0/image"].shape if "0/image" in arrays else ()
    if count < steps or shape != (rows, side, side, 3) or needed - found:
        raise UserError(
            "stored batches of another training",
            where=str(path),
            expected=f"{steps} of {(rows, side, side, 3)}, with {', '.join(sorted(needed))}",
            found=f"{count} of {shape}",
            fix="remove the file: it is written again",
        )
    return [
        {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{i}/")}
        for i in range(steps)
    ]
