"""Every copy in numbered folders, given as every data set: read as its own numbers say, or refused."""

import itertools

import numpy as np
import pytest

from softbio_jax.data.audit import expected
from softbio_jax.data.builders import BUILDERS
from softbio_jax.data.prepare import prepare
from softbio_jax.data.prepare.rows import Row
from softbio_jax.errors import UserError
from softbio_jax.tasks import TASKS
from tests.data.layouts.tree import images

EMOTION = TASKS["emotion"]
FER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
RAF = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
AFFECTNET = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
# name: data set, first number, what the numbers mean, image mode, names of the files
COPIES = {
    "rafdb": ("rafdb", 1, RAF, "RGB", "{}"),
    "rafdb, grey": (
        "rafdb",
        1,
        ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"),
        "L",
        "{}",
    ),
    "fer2013": ("fer2013", 0, FER, "L", "Training_{}"),
    "ferplus": (
        *("ferplus", 0),
        ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt"),
        *("L", "fer{}"),
    ),
    "affectnet": ("affectnet", 0, AFFECTNET, "RGB", "image{}"),
    "affectnet without contempt": ("affectnet", 0, AFFECTNET[:7], "RGB", "image{}"),
    "expw": ("expw", 0, FER, "RGB", "angry_actor_{}"),
}
READERS = ("rafdb", "fer2013", "ferplus", "affectnet", "expw", "mma_fer")
# Its files have plain names and the numbers are those of ExpW: only a complete copy is recognised.
UNKNOWN = {("affectnet without contempt", "expw")}


def _copy(root, name, *, split="train/"):
    _, first, meanings, mode, stem = COPIES[name]
    end = "png" if mode == "L" else "jpg"
    numbers = range(first, first + len(meanings))
    images(root, *(f"{split}{n}/{stem.format(n)}.{end}" for n in numbers), mode=mode)
    return {str(n): meaning for n, meaning in zip(numbers, meanings, strict=True)}


@pytest.mark.parametrize("split", ["train/", ""])
@pytest.mark.parametrize("name", COPIES)
def test_read_by_its_own_numbers_or_refused(tmp_path, name, split):
    means = _copy(tmp_path / "raw", name, split=split)
    for number, reader in enumerate(READERS):
        if (name, reader) in UNKNOWN:
            continue
        try:
            builder = BUILDERS[reader](source=tmp_path / "raw", data_dir=tmp_path / str(number))
            rows = [row for part in builder.splits() for row in builder.rows(part) if isinstance(row, Row)]
        except UserError as error:
            assert reader != COPIES[name][0]
            assert ("\n" not in str(error) and "--dataset=" in str(error).rpartition("fix: ")[2]) or (
                "not a" in str(error)
            )
            continue
        found = {row.id.split("/")[-2]: EMOTION.classes[row.labels["emotion"]] for row in rows}
        assert found == {n: meaning for n, meaning in means.items() if meaning != "contempt"}, reader


@pytest.mark.parametrize(
    ("name", "reader", "right"),
    [
        ("fer2013", "affectnet", "fer2013"),
        ("fer2013", "ferplus", "fer2013"),
        ("ferplus", "affectnet", "ferplus"),
        ("affectnet", "ferplus", "affectnet"),
        ("affectnet", "rafdb", "affectnet"),
        ("affectnet", "fer2013", "affectnet"),
        ("affectnet without contempt", "fer2013", "affectnet"),
        ("expw", "affectnet", "expw"),
    ],
)
def test_the_right_data_set_is_named(tmp_path, name, reader, right):
    _copy(tmp_path, name)
    with pytest.raises(UserError, match=rf"another data set numbers so: .*fix: --dataset={right}\b"):
        prepare.survey(reader, source=str(tmp_path))
    prepare.survey(right, source=str(tmp_path))


@pytest.mark.parametrize("broken", [b"", b"\xff\xd8\xff not an image"])
def test_images_that_do_not_decode_decide_nothing(tmp_path, broken):
    _copy(tmp_path, "affectnet")
    for path in tmp_path.rglob("*.jpg"):
        path.write_bytes(broken)
    builder = BUILDERS["affectnet"](source=tmp_path, data_dir=tmp_path / "out")
    assert builder.splits() == ("train",)


def test_complete_copies_of_plain_names_are_known_by_their_counts():
    """AffectNet's numbers on ExpW's folders and the other way round."""
    for copy, reader in itertools.permutations(("expw", "affectnet")):
        published = expected.CLASS_COUNTS[copy, "train"]
        assert sum(published["emotion"]) == published["rows"][0]
        of = dict(zip(EMOTION.classes, published["emotion"], strict=True))
        meanings = {"expw": FER, "affectnet": AFFECTNET[:7]}
        read = dict(zip(meanings[reader], (of[meaning] for meaning in meanings[copy]), strict=True))
        counts = {"emotion": np.array([read[name] for name in EMOTION.classes])}
        with pytest.raises(UserError, match="emotion classes in another order"):
            expected.check(reader, "train", rows=published["rows"][0], counts=counts)
        expected.check(copy, "train", rows=published["rows"][0], counts={"emotion": published["emotion"]})
