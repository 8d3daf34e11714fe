import pytest

from softbio_jax.data import sources
from softbio_jax.data.audit import expected, findings
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.tasks import EMOTION
from tests.data.trees import by_id, prepared_split, write_image

# name -> (emotion 1..7, gender, race, age group)
ROWS = {
    "train_00001": (5, 0, 0, 2),
    "train_00002": (1, 1, 2, 4),
    "train_00003": (7, 2, 1, 0),  # gender unsure
    "test_0001": (4, 1, 0, 3),
    "test_0002": (6, 2, 0, 3),
}


def _tree(root):
    basic = root / "basic"
    (basic / "EmoLabel").mkdir(parents=True)
    (basic / "Annotation" / "manual").mkdir(parents=True)
    lines = []
    for number, (name, (emotion, *attributes)) in enumerate(ROWS.items()):
        lines.append(f"{name}.jpg {emotion}\n")
        write_image(basic / "Image" / "aligned" / f"{name}_aligned.jpg", number)
        landmarks = "".join(f"{x}.5\t{x + 1}.5\n" for x in range(5))
        text = landmarks + "".join(f"{value}\n" for value in attributes)
        (basic / "Annotation" / "manual" / f"{name}_manu_attri.txt").write_text(text)
    (basic / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines))
    return root


def test_thesis_filter_leaves_unsure_gender_out(tmp_path):
    dataset, report = prepared_split("rafdb", _tree(tmp_path), tmp_path / "out", "train")
    assert by_id(dataset, "gender", "emotion") == {
        "train_00001.jpg": (0, EMOTION.classes.index("sad")),
        "train_00002.jpg": (1, EMOTION.classes.index("surprise")),
    }
    assert report["skipped_by_reason"] == {"gender unsure": 1}
    assert report["masked_by_reason"] == {"age: the age groups straddle the classes": 2}
    assert dataset.columns["race"].tolist() == ["Caucasian", "Asian"]
    assert dataset.columns["age_group"].tolist() == ["20-39", "70+"]
    assert "age" not in dataset.labels


def test_official_filter_masks_unsure_gender(tmp_path):
    dataset, report = prepared_split(
        "rafdb", _tree(tmp_path), tmp_path / "out", "test", raf_filter="official"
    )
    assert by_id(dataset, "gender", "emotion") == {
        "test_0001.jpg": (1, EMOTION.classes.index("happy")),
        "test_0002.jpg": (-1, EMOTION.classes.index("angry")),
    }
    assert report["skipped"] == 0
    assert report["masked_by_reason"]["gender: gender unsure"] == 1


@pytest.mark.parametrize("raf_filter", ["sure", "official"])
def test_the_audit_knows_a_complete_copy_by_either_filter(tmp_path, monkeypatch, raf_filter):
    options = {"source": str(_tree(tmp_path)), "raf_filter": raf_filter}
    report = prepare.prepare("rafdb", out=tmp_path / "out", **options)
    copies = {"rafdb": (1, 0), "rafdb official": (2, 1)}  # rows, angry ones
    for name, (rows, angry) in copies.items():
        known = {"rows": (rows,), "emotion": (0, 0, 0, 1, 0, angry, 0)}
        monkeypatch.setitem(expected.CLASS_COUNTS, (name, "test"), known)
    dataset = sources.open_prepared(tmp_path / "out", "test")
    copy_of = expected.set_of(report["dataset"], report["protocol"])
    digests = [findings.digests_of(dataset.directory, "test")]
    found = findings.audit([dataset], sets=[copy_of], digests=digests)["splits"]["out/test"]
    assert found["expected"] == {"complete": True, "difference": {}, "exchanged": {}}
    other = findings.audit([dataset], sets=[(copies.keys() - {copy_of}).pop()], digests=digests)
    assert not other["splits"]["out/test"]["expected"]["complete"]


def test_filter_is_recorded(tmp_path):
    report = prepare.prepare("rafdb", source=str(_tree(tmp_path)), out=tmp_path / "out")
    assert report["protocol"]["raf_filter"] == "sure"


def test_folders_that_are_not_all_of_the_classes(tmp_path):
    write_image(tmp_path / "train" / "1" / "train_00001_aligned.jpg", 0)
    with pytest.raises(UserError, match="not a RAF-DB folder"):
        prepare.survey("rafdb", source=str(tmp_path))


def test_broken_attributes(tmp_path):
    path = _tree(tmp_path) / "basic" / "Annotation" / "manual" / "train_00002_manu_attri.txt"
    path.write_text(path.read_text().replace("\n1\n2\n4\n", "\n3\n2\n4\n"))
    with pytest.raises(UserError, match=r"train_00002_manu_attri.txt line 6.*found 3 2 4"):
        prepare.survey("rafdb", source=str(tmp_path))
