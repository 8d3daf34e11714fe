import numpy as np
import pytest
from PIL import Image

from softbio_jax.data.prepare import prepare
from softbio_jax.data.prepare.survey import plot_classes

COLOURS = {"happy": (250, 20, 20), "sad": (20, 250, 20), "neutral": (20, 20, 250)}


def _prepare(root, task, colours, count, **options):
    for name, colour in colours.items():
        folder = root / "raw" / "train" / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20, 30 + number), colour).save(folder / f"{number}.png")
    return prepare.prepare("folder", source=str(root / "raw"), out=root / "out", task=task, **options)


@pytest.mark.parametrize("count", [1, 40])
def test_images_of_each_class_are_under_its_bar(tmp_path, count):
    report = _prepare(tmp_path, "emotion", COLOURS, count)
    plot_classes(report["splits"], tmp_path / "out" / "classes.png")
    pixels = np.asarray(Image.open(tmp_path / "out" / "classes.png").convert("RGB")).astype(int)
    names = list(report["splits"]["train"]["class_counts"]["emotion"])
    bars = np.flatnonzero((abs(pixels - (31, 119, 180)).sum(-1) < 9).any(0))  # matplotlib's tab:blue
    for name, colour in COLOURS.items():
        near = abs(pixels - colour).sum(-1) < 9
        place = np.flatnonzero(near.any(0))
        assert near.sum() >= 40 * 40 * min(count, 3), name
        # Classes from left to right, in the order of the task: the images end where the next begin.
        assert place.max() - place.min() < pixels.shape[1] / len(names), name
        others = [n for n in COLOURS if names.index(n) > names.index(name)]
        for other in others:
            right = np.flatnonzero((abs(pixels - COLOURS[other]).sum(-1) < 9).any(0))
            assert place.max() < right.min(), (name, other)
        middle = (place.min() + place.max()) // 2
        assert np.abs(bars - middle).min() == 0, name


def test_classes_of_two_show_more_images(tmp_path):
    colours = {"male": (250, 20, 20), "female": (20, 250, 20)}
    report = _prepare(tmp_path, "gender", colours, 12)
    plot_classes(report["splits"], tmp_path / "out" / "classes.png")
    pixels = np.asarray(Image.open(tmp_path / "out" / "classes.png").convert("RGB")).astype(int)
    for colour in colours.values():
        assert (abs(pixels - colour).sum(-1) < 9).sum() >= 12 * 40 * 40
