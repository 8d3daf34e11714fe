import importlib.util

import pytest

from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from tests.data.trees import by_id, make_fairface, prepared_split, write_image

META = (
    "Class_ID, Name, Sample_Num, Flag, Gender\n"
    'n000001, "14th_Dalai_Lama",424,0, m,\n'
    'n000009, "Fine, A. Frenzy",315,0, f,\n'
)


def _tree(root):
    (root / "identity_meta.csv").parent.mkdir(parents=True, exist_ok=True)
    (root / "identity_meta.csv").write_text(META)
    for number, name in enumerate(
        ("n000001/0001_01.jpg", "n000001/0002_01.jpg", "n000009/0001_01.jpg", "n000077/1_01.jpg")
    ):
        write_image(root / "test" / name, number)
    return root


def test_gender_of_the_identity_and_ages_of_the_file(tmp_path):
    ages = tmp_path / "ages.csv"
    ages.write_text("n000001/0001_01.jpg,71.6\ntest/n000009/0001_01.jpg,29.5\n")
    dataset, report = prepared_split(
        "vggface2", _tree(tmp_path / "raw"), tmp_path / "out", "test", ages=str(ages)
    )
    assert by_id(dataset, "age", "gender") == {
        "test/n000001/0001_01.jpg": (8, 0),
        "test/n000001/0002_01.jpg": (-1, 0),
        "test/n000009/0001_01.jpg": (4, 1),
        "test/n000077/1_01.jpg": (-1, -1),
    }
    assert report["masked_by_reason"] == {
        "age: not in the file of ages": 2,
        "gender: the identity is not in identity_meta.csv": 1,
    }
    assert dataset.columns["identity"].tolist() == ["n000001", "n000001", "n000009", "n000077"]


def test_without_ages(tmp_path):
    dataset, report = prepared_split("vggface2", _tree(tmp_path / "raw"), tmp_path / "out", "test")
    assert set(dataset.labels["age"].tolist()) == {-1}
    assert report["masked_by_reason"]["age: no file of ages"] == 4


def test_impossible_ages_are_rejected(tmp_path):
    (tmp_path / "ages.csv").write_text("n000001/0001_01.jpg,1985\nn000001/0002_01.jpg,40\n")
    options = {"ages": str(tmp_path / "ages.csv"), "max_rejected": 0.5}
    dataset, report = prepared_split("vggface2", _tree(tmp_path / "raw"), tmp_path / "out", "test", **options)
    assert dataset.labels["age"].tolist() == [5, -1, -1]
    (rejected,) = report["rejected_rows"]
    assert (rejected["path"], rejected["found"]) == ("test/n000001/0001_01.jpg", "1985")
    assert rejected["where"].endswith("ages.csv")


@pytest.mark.parametrize(
    ("line", "says"),
    [("n000001/0001_01.jpg,old\n", "row 1.*'old'"), ("n000001/0001_01.jpg\n", "row 1.*2 values")],
)
def test_broken_ages(tmp_path, line, says):
    (tmp_path / "ages.csv").write_text(line)
    with pytest.raises(UserError, match=says):
        prepare.survey("vggface2", source=str(_tree(tmp_path / "raw")), ages=str(tmp_path / "ages.csv"))


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="apache-beam is not installed")
def test_beam_writes_the_same(tmp_path):
    source = _tree(tmp_path / "raw")
    (source / "test" / "n000009" / "0002_01.jpg").write_bytes(b"")
    one, report = prepared_split("vggface2", source, tmp_path / "one", "test", max_rejected=0.5)
    many, beam_report = prepared_split(
        "vggface2",
        source,
        tmp_path / "many",
        "test",
        max_rejected=0.5,
        beam_options=["--runner=DirectRunner", "--direct_num_workers=2"],
    )
    assert beam_report == report
    assert many.fingerprint == one.fingerprint
    assert [many[i] for i in range(len(many))] == [one[i] for i in range(len(one))]


def test_beam_is_not_for_sets_without_groups(tmp_path):
    make_fairface(tmp_path / "raw", train=2, val=1)
    with pytest.raises(UserError, match=r"--beam: expected --dataset=vggface2"):
        prepare.prepare("fairface", source=str(tmp_path / "raw"), out=tmp_path / "out", beam_options=[])
