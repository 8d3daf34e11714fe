import numpy as np
import pytest

from softbio_jax.data import decode
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.tasks import EMOTION
from tests.data.trees import by_id, prepared_split, write_table

VOTES = (
    *("Usage", "Image name", "neutral", "happiness", "surprise", "sadness", "anger"),
    *("disgust", "fear", "contempt", "unknown", "NF"),
)
NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def _pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (48, 48), dtype=np.uint8)


def _text(seed):
    return " ".join(str(value) for value in _pixels(seed).reshape(-1))


def _tree(root):
    rows = [(number, _text(number), "Training") for number in range(7)]
    rows += [(0, _text(7), "PublicTest"), (6, _text(8), "PrivateTest")]
    write_table(root / "fer2013.csv", ("emotion", "pixels", "Usage"), rows)
    return root


def test_labels_and_pixels(tmp_path):
    dataset, _ = prepared_split("fer2013", _tree(tmp_path), tmp_path / "out", "train")
    assert by_id(dataset, "emotion") == {
        f"fer{number:07d}.png": (EMOTION.classes.index(name),) for number, name in enumerate(NAMES)
    }
    for number in range(7):
        decoded = decode.decode_full(dataset[number])
        np.testing.assert_array_equal(decoded, np.repeat(_pixels(number)[..., None], 3, axis=2))


def test_splits(tmp_path):
    report = prepare.prepare("fer2013", source=str(_tree(tmp_path)), out=tmp_path / "out")
    assert {s: part["kept"] for s, part in report["splits"].items()} == {"train": 7, "val": 1, "test": 1}


def test_votes_replace_the_labels(tmp_path):
    votes = [
        (4, 0, 0, 1, 3, 2, 0, 0, 0, 0),
        (0, 0, 0, 0, 5, 5, 0, 0, 0, 0),  # no winner
        (0, 1, 0, 0, 0, 0, 0, 9, 0, 0),
        (0, 0, 0, 0, 0, 0, 0, 0, 8, 2),
        (0, 9, 0, 0, 0, 0, 1, 0, 0, 0),
        (0, 0, 0, 0, 0, 0, 6, 0, 0, 4),
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 10),
    ]
    rows = [("Training", f"fer{n:07d}.png", *row) for n, row in enumerate(votes)]
    rows += [("PublicTest", "fer0000007.png", *votes[0]), ("PrivateTest", "x", *votes[4])]
    write_table(tmp_path / "fer2013new.csv", VOTES, rows)
    dataset, report = prepared_split(
        "fer2013", _tree(tmp_path), tmp_path / "out", "train", ferplus=str(tmp_path / "fer2013new.csv")
    )
    assert by_id(dataset, "emotion") == {
        f"fer000000{number}.png": (EMOTION.classes.index(name),)
        for number, name in ((0, "neutral"), (4, "happy"), (5, "fear"))
    }
    assert report["skipped_by_reason"] == {
        "votes without a winner": 1,
        "most votes for contempt": 1,
        "most votes for unknown": 1,
        "most votes for NF": 1,
    }


def test_votes_of_another_table(tmp_path):
    write_table(tmp_path / "fer2013new.csv", VOTES, [("Training", "x", *(1,) * 10)])
    with pytest.raises(UserError, match=r"expected 9 rows.*found 1"):
        prepare.survey("fer2013", source=str(_tree(tmp_path)), ferplus=str(tmp_path / "fer2013new.csv"))


def test_too_few_pixels(tmp_path):
    rows = [(0, _text(0), usage) for usage in ("Training", "PublicTest", "PrivateTest")]
    rows.append((1, "1 2 3", "Training"))
    write_table(tmp_path / "fer2013.csv", ("emotion", "pixels", "Usage"), rows)
    _, report = prepared_split("fer2013", tmp_path, tmp_path / "out", "train", max_rejected=0.5)
    assert report["rejected_by_reason"] == {"3 pixels instead of 2304": 1}
