"""Pretraining of the small encoder on a pretext task that is none of the three tasks.

From an augmented view the encoder predicts the class of an audit column and the leading whitened
components of the unaugmented image's gradient histogram. Both read-outs are dropped.
"""

import hashlib
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from softbio_jax.checkpoints.pretrained import save_pretrained
from softbio_jax.console import QUIET, Console
from softbio_jax.data import decode, sources
from softbio_jax.data.sources import PreparedDataset
from softbio_jax.errors import UserError
from softbio_jax.models.config import vision_config
from softbio_jax.runs.config import DataConfig
from softbio_jax.runs.data import RunData, open_all, open_tests, with_partial_labels
from softbio_jax.thesis.pretraining import pretrain
from softbio_jax.thesis.study.study import Pretrain


def halves(ids: Sequence[str] | np.ndarray, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits N images by the rank of the SHA-256 of seed and id, independent of their order.

    `fraction` is the first part's share.

    Returns:
      (rows of the first part, rows of the second), int64, each ascending.

    Raises:
      UserError: one of the parts would be empty.
    """
    digests = [hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in ids]
    order, first = np.argsort(np.array(digests)), round(fraction * len(digests))
    if not 0 < first < len(order):
        where, found = "config.pretrain.fraction", f"{fraction} of {len(order)}"
        expected, fix = "images in both parts", "set another fraction"
        raise UserError("a part without images", where=where, expected=expected, found=found, fix=fix)
    return np.sort(order[:first]), np.sort(order[first:])


def pretraining_rows(settings: Pretrain, root: str) -> PreparedDataset:
    """Opens the part of the training set that pretrains the encoder."""
    dataset = _open(root, settings.data)
    return dataset.take(_parts(dataset, settings)[0])


def identities(settings: Pretrain, root: str) -> dict[str, Any]:
    """Returns n and the SHA-256 of the sorted ids of both parts."""
    dataset, found = _open(root, settings.data), {}
    for part, rows in zip(("pretraining", "adaptation"), _parts(dataset, settings), strict=True):
        names = "\n".join(sorted(dataset.columns["id"][rows]))
        found[part] = {"n": len(rows), "ids_sha256": hashlib.sha256(names.encode()).hexdigest()}
    return found


def open_run(config: DataConfig, settings: Pretrain | None) -> RunData:
    """Opens a run's data sets as `open_all` does, without the images that pretrained its encoder."""
    if settings is None:
        return open_all(config)
    sets = []
    for entry in config.train:
        dataset = _open(config.root, entry)
        if entry == settings.data:
            dataset = dataset.take(_parts(dataset, settings)[1])
        sets.append(dataset)
    train, val = sources.split_each(sets, seed=config.split_seed, val_fraction=config.val_fraction)
    train = with_partial_labels(train, config.labels)
    return RunData(train=train, val=val, test=open_tests(config.root, config.test))


def _parts(dataset: PreparedDataset, settings: Pretrain) -> tuple[np.ndarray, np.ndarray]:
    return halves(dataset.columns["id"], fraction=settings.fraction, seed=settings.split_seed)


def _open(root: str, entry: str) -> PreparedDataset:
    return open_all(DataConfig(root=root, train=(entry,), val_fraction=0.0)).train[0]


_CELL, _BINS = 8, 9  # pixels; directions between 0 and 180 degrees


def gradient_histograms(images: np.ndarray) -> np.ndarray:
    """Computes each image's histogram of oriented gradients of its luminance.

    Unsigned directions in 9 bins; each gradient's length is divided linearly between the two
    nearest and summed over cells of 8 x 8 pixels; every block of 2 x 2 cells has length 1.

    (N, S, S, 3) uint8, S a multiple of 8, to (N, (S/8 - 1)^2 x 36) float32.

    Source: Dalal and Triggs, CVPR 2005, without the Gaussian window and the spatial interpolation.
    """
    found = [_histogram(part) for part in np.array_split(images, max(len(images) // 256, 1))]
    return np.concatenate(found)


def _histogram(images: np.ndarray) -> np.ndarray:
    grey = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    down, right = np.gradient(grey, axis=(1, 2))
    length, place = np.hypot(down, right), np.arctan2(down, right) % np.pi / np.pi * _BINS - 0.5
    lower = np.floor(place)
    share = place - lower
    n, cells = len(images), images.shape[1] // _CELL
    bins = np.zeros((n, cells, cells, _BINS), np.float32)
    for k in range(_BINS):  # circular
        part = length * np.where(lower % _BINS == k, 1 - share, 0)
        part += length * np.where((lower + 1) % _BINS == k, share, 0)
        bins[..., k] = part.reshape(n, cells, _CELL, cells, _CELL).sum(axis=(2, 4))
    corners = (bins[:, :-1, :-1], bins[:, :-1, 1:], bins[:, 1:, :-1], bins[:, 1:, 1:])
    blocks = np.concatenate(corners, axis=-1)
    blocks /= np.sqrt(np.sum(np.square(blocks), axis=-1, keepdims=True) + 1e-3)
    return blocks.reshape(n, -1)


def whitened_components(features: np.ndarray, count: int) -> np.ndarray:
    """Returns the leading principal components, each of mean 0 and variance 1 over the rows.

    (N, F) to (N, count) float32, with count at most F.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))  # ascending
    leading = axes[:, ::-1][:, :count] / np.sqrt(np.maximum(variances[::-1][:count], 1e-12))
    return (centred @ leading).astype(np.float32)


def examples(
    dataset: PreparedDataset, settings: Pretrain, *, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images (2N, S, S, 3), targets (2N, K) and classes (2N,) of every image and its mirror image.

    Raises:
      UserError: the data set lacks the column.
    """
    if settings.column not in dataset.columns:
        where, found = f"{dataset.name}/{dataset.split}", ", ".join(dataset.columns)
        fix = "prepare the set with it, or set config.pretrain.column"
        raise UserError("no such column", where=where, expected=settings.column, found=found, fix=fix)
    images = np.stack([decode.decode(dataset[i], size=size) for i in range(len(dataset))])
    images = np.concatenate([images, images[:, :, ::-1]])
    targets = whitened_components(gradient_histograms(images), settings.components)
    _, classes = np.unique(dataset.columns[settings.column], return_inverse=True)
    return images, targets, np.tile(classes.astype(np.int32), 2)


def make_encoder(
    settings: Pretrain, root: str, path: pathlib.Path, *, console: Console = QUIET
) -> dict[str, Any]:
    """Pretrains the encoder from scratch and writes it as safetensors.

    Returns:
      JSON values: the last mean loss, steps, images, seconds, and the identity of both parts.
    """
    begun, config = time.perf_counter(), vision_config(settings.variant)
    images, targets, classes = examples(pretraining_rows(settings, root), settings, size=config.image_size)
    params, loss = pretrain(
        config,
        images,
        targets,
        labels=classes,
        augmentation=settings.augment,
        steps=settings.steps,
        batch_size=settings.batch_size,
        rate=settings.rate,
        seed=settings.seed,
        console=console,
    )
    about = f"{settings.column} and {settings.components} gradient components"
    save_pretrained(path, params, variant=config.name, pretext=about, loss=f"{loss:.4f}")
    return {
        "pretext": about,
        "loss": loss,
        "steps": settings.steps,
        "images": len(images) // 2,
        "seconds": time.perf_counter() - begun,
        "parts": identities(settings, root),
    }
