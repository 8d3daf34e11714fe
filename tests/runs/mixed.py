"""Drawn faces as three sources label them: years, the nine classes, and ranges with an emotion."""

import numpy as np

from softbio_jax.data.drawing import synthetic
from softbio_jax.data.prepare import prepare
from softbio_jax.tasks import AGE_SPANS
from tests.data.trees import FAIRFACE_HEADER, write_table

RAF_ENDS = (3, 19, 39, 69, 120)  # the last year of each of RAF-DB's age groups
_AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
_RAF_EMOTIONS = (1, 2, 3, 4, 5, 6, 7)
_FER_NAMES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
_FER_HEADER = (
    *("Usage", "Image name", "neutral", "happiness", "surprise", "sadness", "anger"),
    *("disgust", "fear", "contempt", "unknown", "NF"),
)


def _faces(count, split="train", *, seed):
    """Yields (image, age class, gender, emotion, years) of drawn faces."""
    rng = np.random.default_rng(seed)
    for _, image, labels in synthetic.rows("synthetic_raf_db", split, size=32, seed=seed, count=count):
        age = int(rng.integers(0, 9))
        years = int(rng.integers(AGE_SPANS[age][0], min(AGE_SPANS[age][1], 90)))
        yield image, age, int(rng.integers(2)), labels["emotion"], years


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def utkface(root, count, *, split="train", seed=1):
    for number, (image, _, gender, _, years) in enumerate(_faces(count, seed=seed)):
        _write(root / split / f"{years}_{gender}_{number % 5}_2017{number:04d}.jpg", image)
    return root


def fairface(root):
    for split, count in (("train", 40), ("val", 40)):
        rows = []
        for number, (image, age, gender, _, _) in enumerate(_faces(count, seed=2 + (split == "val"))):
            _write(root / split / f"{number}.jpg", image)
            row = (f"{split}/{number}.jpg", _AGES[age], ("Male", "Female")[gender], "Indian", "TRUE")
            rows.append(row)
        write_table(root / f"fairface_label_{split}.csv", FAIRFACE_HEADER, rows)
    return root


def rafdb(root):
    basic, lines = root / "basic", []
    for split, count in (("train", 40), ("test", 16)):
        for number, (image, _, gender, emotion, years) in enumerate(
            _faces(count, seed=4 + (split == "test"))
        ):
            name = f"{split}_{number:05d}"
            lines.append(f"{name}.jpg {_RAF_EMOTIONS[emotion]}\n")
            _write(basic / "Image" / "aligned" / f"{name}_aligned.jpg", image)
            group = next(i for i, last in enumerate(RAF_ENDS) if years <= last)
            attributes = f"{gender}\n0\n{group}\n"
            manual = basic / "Annotation" / "manual" / f"{name}_manu_attri.txt"
            _write(manual, ("1.5\t2.5\n" * 5 + attributes).encode())
    _write(basic / "EmoLabel" / "list_patition_label.txt", "".join(lines).encode())
    return root


def ferplus(root):
    rows = []
    for usage, folder, count in (("Training", "FER2013Train", 24), ("PrivateTest", "FER2013Test", 16)):
        rng = np.random.default_rng(count)
        for number, (image, _, _, emotion, _) in enumerate(_faces(count, seed=6 + count)):
            name = f"fer{len(rows):07d}.png"
            _write(root / folder / name, image)
            counts = dict.fromkeys(_FER_HEADER[2:], 0) | {_FER_NAMES[emotion]: 6}
            counts[_FER_NAMES[int(rng.integers(7))]] += 3 * (number % 2)
            rows.append((usage, name, *counts.values()))
    write_table(root / "fer2013new.csv", _FER_HEADER, rows)
    return root


def prepare_mixed(root):
    """Prepares utkface, fairface, rafdb and ferplus below `root`."""
    makers = {"utkface": lambda path: utkface(utkface(path, 40), 40, split="test", seed=9)}
    makers |= {"fairface": fairface, "rafdb": rafdb, "ferplus": ferplus}
    for name, make in makers.items():
        prepare.prepare(name, source=str(make(root / "raw" / name)), out=root / name)
    return root


def config_of(root, **labels):
    """A run on all four, as a nested dict that a test changes."""
    return {
        "seed": 3,
        "tasks": ("age", "gender", "emotion"),
        "model": {"variant": "tiny-test", "head": {"kind": "linear", "batch_norm": True, "dropout": 0.1}},
        "method": {"name": "lp"},
        "data": {
            "root": str(root),
            "train": ("utkface/train", "fairface/train", "rafdb/train", "ferplus/train"),
            "test": ("utkface/test", "fairface/val", "rafdb/test", "ferplus/test"),
            "val_fraction": 0.25,
            "labels": labels,
        },
        "optimizer": {"rates": {"pooling": 1e-3, "heads": 1e-2, "log_var": 1e-2}, "warmup_steps": 2},
        "train": {
            "steps": 6,
            "batch_size": 32,
            "eval_batch_size": 16,
            "log_every": 2,
            "eval_every": 3,
            "checkpoint_every": 3,
            "evaluate": "best",
        },
    }
