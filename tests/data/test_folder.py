import pytest

from softbio_jax.data import sources
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.tasks import EMOTION
from tests.data.trees import make_emotions, write_image


def test_labels_follow_the_folders(emotions):
    names = [EMOTION.classes[label] for label in emotions.labels["emotion"]]
    assert names == ["angry"] * 3 + ["happy"] * 3
    assert emotions.columns["id"][0] == "train/anger/0.png"


def test_unknown_class_lists_the_known(tmp_path):
    make_emotions(tmp_path)
    write_image(tmp_path / "train" / "contempt" / "0.png", 0, kind="PNG")
    with pytest.raises(UserError) as error:
        prepare.survey("folder", source=str(tmp_path), task="emotion")
    for part in ("contempt", "surprise/surprised", "neutral"):
        assert part in str(error.value)


def test_a_split_folder_is_recognised(tmp_path):
    make_emotions(tmp_path)
    with pytest.raises(UserError, match="the folder of one split was given"):
        prepare.survey("folder", source=str(tmp_path / "train"), task="emotion")


@pytest.mark.parametrize("task", ["mood", "age "])
def test_unknown_task(tmp_path, task):
    with pytest.raises(UserError, match=r"unknown task: --task: expected age, gender, emotion"):
        prepare.survey("folder", source=str(tmp_path), task=task)


def test_empty_source(tmp_path):
    with pytest.raises(UserError, match="no splits"):
        prepare.survey("folder", source=str(tmp_path), task="emotion")


def test_real_fer(real_data, tmp_path):
    report = prepare.prepare("folder", source=str(real_data / "fer"), out=tmp_path / "fer", task="emotion")
    assert {name: split["kept"] for name, split in report["splits"].items()} == {"train": 842, "test": 732}
    counts = report["splits"]["test"]["class_counts"]["emotion"]
    assert round(counts["happy"] / 732, 3) == 0.335
    assert counts["neutral"] == 0
    assert len(sources.open_prepared(tmp_path / "fer", "test")) == 732
