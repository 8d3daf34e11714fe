import pytest

from softbio_jax.data import sources
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.tasks import EMOTION
from tests.data.layouts.tree import images
from tests.data.trees import by_id, make_emotions, prepared_split, write_image


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


def test_class_folders_are_divided_by_name(tmp_path):
    images(
        tmp_path / "raw", *(f"{name}/{i}.jpg" for name in ("happy", "sad") for i in range(20)), "notes.txt"
    )

    def parts(out):
        prepare.prepare("folder", source=str(tmp_path / "raw"), out=out, task="emotion", split=0.8)
        return [set(sources.open_prepared(out, part).columns["id"]) for part in ("train", "test")]

    train, test = parts(tmp_path / "first")
    assert (len(train), len(test)) == (32, 8)
    images(tmp_path / "raw", "sad/new.jpg")
    moved = (train ^ parts(tmp_path / "second")[0]) - {"sad/new.jpg"}
    assert len(moved) <= 1


def test_a_subject_in_the_names_is_in_one_part(tmp_path):
    names = [f"{name}/p{i % 6}_{i}.jpg" for name in ("happy", "sad") for i in range(12)]
    images(tmp_path / "raw", *names)
    options = {"task": "emotion", "split": 0.5, "identity": r"(p\d+)_"}
    prepare.prepare("folder", source=str(tmp_path / "raw"), out=tmp_path / "out", **options)
    parts = [sources.open_prepared(tmp_path / "out", part).columns for part in ("train", "test")]
    people = [set(part["identity"]) for part in parts]
    assert [len(part) for part in people] == [3, 3] and not people[0] & people[1]
    assert all(
        f"/{one}_" in name for part in parts for one, name in zip(part["identity"], part["id"], strict=True)
    )


@pytest.mark.parametrize("pattern", ["(q\\d)_", "^$"])
def test_a_name_without_a_subject_is_rejected(tmp_path, pattern):
    images(tmp_path, "train/happy/p1_0.jpg")
    found = prepare.survey("folder", source=str(tmp_path), task="emotion", identity=pattern)["train"]
    assert found.rejected == {"no subject in its path": 1}


def test_a_pattern_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"not a pattern: --identity.*unterminated"):
        prepare.survey("folder", source=str(tmp_path), task="emotion", identity="(p")


def test_splits_are_not_divided_again(tmp_path):
    make_emotions(tmp_path)
    with pytest.raises(UserError, match="--split"):
        prepare.survey("folder", source=str(tmp_path), task="emotion", split=0.8)


def test_a_class_left_out_is_counted_with_its_reason(tmp_path):
    images(tmp_path / "raw", "train/happy/0.jpg", "train/Contempt/0.jpg", "train/Contempt/1.jpg")
    values = {"emotion:contempt": ""}
    _, report = prepared_split(
        "folder", tmp_path / "raw", tmp_path / "out", "train", task="emotion", values=values
    )
    assert report["skipped_by_reason"] == {"emotion 'Contempt' is left out": 2}
    assert report["files_left_out"] == []


def test_years_are_an_audit_column(tmp_path):
    images(tmp_path / "raw", "train/001/0.jpg", "train/71/0.jpg")
    dataset, _ = prepared_split(
        "folder", tmp_path / "raw", tmp_path / "out", "train", task="age", age_values="years"
    )
    assert by_id(dataset, "age") == {"train/001/0.jpg": (0,), "train/71/0.jpg": (8,)}
    assert dataset.columns["years"].tolist() == ["1", "71"]


@pytest.mark.parametrize(
    ("folders", "options", "says"),
    [
        (
            ("train/1", "train/2"),
            {},
            r"unknown emotion class.*--values=emotion:1=CLASS,emotion:2=CLASS.*--dataset",
        ),
        (("1", "2"), {}, r"unknown emotion class.*--values=emotion:1=CLASS,emotion:2=CLASS"),
        (
            ("1", "2"),
            {"values": {"emotion:1": "happy"}},
            r"unknown emotion class.*emotion:2=CLASS, or leave it out",
        ),
        (("001", "026"), {"task": "age"}, r"unknown age class.*pass --age_values=years"),
        (
            ("001", "130"),
            {"task": "age", "age_values": "years"},
            r"an impossible age: .*130: expected 0 to 120 years",
        ),
        (("train/3-12",), {"task": "age"}, r"unknown age class.*--values=age:3-12=CLASS"),
        (("train/(3, 12)",), {"task": "age"}, r"""'--values="age:\(3, 12\)=CLASS"'"""),
        (("happy", "sad"), {}, r"the folder of one split.*--split=0.8"),
        (("happy",), {"values": {"gender:1": "male"}}, r"not a class to map to.*TASK:WORD=CLASS"),
    ],
)
def test_folders_that_are_no_classes(tmp_path, folders, options, says):
    images(tmp_path, *(f"{name}/0.jpg" for name in folders))
    with pytest.raises(UserError, match=says):
        prepare.survey("folder", source=str(tmp_path), **({"task": "emotion"} | options))


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
