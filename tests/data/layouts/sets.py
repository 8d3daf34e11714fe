"""Small copies of known data sets, written file by file."""

import numpy as np

from tests.data.layouts.tree import images
from tests.data.trees import write_table

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def grey(seed):
    """48 x 48 pixels as a table has them."""
    return " ".join(map(str, np.random.default_rng(seed).integers(0, 256, 48 * 48)))


def class_folders(root, *names, end=".jpg", mode="RGB"):
    """Writes one image per folder of a class."""
    images(root, *(f"{name}/{number}{end}" for number, name in enumerate(names)), mode=mode)


def counts(task, *names):
    """One row of each of these classes."""
    return {task: dict.fromkeys(names, 1)}


def fer_table(path, rows, header=("emotion", "pixels", "Usage")):
    """Writes (emotion, usage) rows in the order of the header, whose names may have spaces."""
    values = [
        {"emotion": emotion, "pixels": grey(number), "Usage": usage}
        for number, (emotion, usage) in enumerate(rows)
    ]
    write_table(path, header, [[row[name.strip()] for name in header] for row in values])


def celeba_lists(root, around="", end="txt"):
    """Writes CelebA's two lists for three images, as text or as CSV."""
    rows = [("000001.jpg", -1, 1), ("000002.jpg", 1, -1), ("000003.jpg", 1, -1)]
    parts = [(name, number) for number, (name, *_) in enumerate(rows)]
    if end == "csv":
        write_table(root / "list_attr_celeba.csv", ("image_id", "Bald", "Male"), rows)
        write_table(root / "list_eval_partition.csv", ("image_id", "partition"), parts)
        return
    anno, evaluation = (root / "Anno", root / "Eval") if around else (root, root)
    lines = [f"{name}  {bald} {male}" for name, bald, male in rows]
    text(anno / "list_attr_celeba.txt", 3, "Bald Male", *lines)
    text(evaluation / "list_eval_partition.txt", *(f"{name} {part}" for name, part in parts))
