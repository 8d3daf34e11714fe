"""Small images and trees of data sets as distributed, made on the fly."""

import csv
import io
import pathlib

import numpy as np
from PIL import Image

FAIRFACE_HEADER = ("file", "age", "gender", "race", "service_test")


def encode(seed: int, *, size=(20, 24), mode: str = "RGB", kind: str = "JPEG", **kwargs) -> bytes:
    """Encodes a random smooth image of `size` (height, width)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def write_table(path: pathlib.Path, header, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_image(path: pathlib.Path, seed: int, **kwargs) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(seed, **kwargs))


def make_fairface(root: pathlib.Path, *, train: int = 12, val: int = 5) -> pathlib.Path:
    """Makes a tiny FairFace: ages and genders that follow the row number."""
    ages = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
    for split, count in (("train", train), ("val", val)):
        rows = []
        for i in range(count):
            write_image(root / split / f"{i + 1}.jpg", seed=1000 * (split == "val") + i)
            gender = ("Male", "Female")[i % 2]
            rows.append((f"{split}/{i + 1}.jpg", ages[i % 9], gender, "East Asian", "TRUE"))
        write_table(root / f"fairface_label_{split}.csv", FAIRFACE_HEADER, rows)
    return root


def make_emotions(root: pathlib.Path, *, per_class: int = 3) -> pathlib.Path:
    """Makes a tiny folder-per-class set with the classes happy and anger."""
    for number, (split, name) in enumerate(
        (split, name) for split in ("train", "test") for name in ("happy", "anger")
    ):
        for i in range(per_class):
            write_image(root / split / name / f"{i}.png", 5000 + 10 * number + i, kind="PNG")
    return root


def prepared_split(dataset: str, source, out, split: str, **options):
    """Prepares a tree, opens a split of it and returns (data set, report of the split)."""
    from softbio_jax.data import sources
    from softbio_jax.data.prepare import prepare

    report = prepare.prepare(dataset, source=str(source), out=out, **options)
    return sources.open_prepared(out, split), report["splits"][split]


def by_id(dataset, *tasks: str) -> dict[str, tuple[int, ...]]:
    """Lists a data set's labels: id -> the labels of `tasks`."""
    columns = [dataset.labels[task].tolist() for task in tasks]
    return dict(zip(dataset.columns["id"].tolist(), zip(*columns, strict=True), strict=True))
