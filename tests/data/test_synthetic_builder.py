import pytest

from softbio_jax.data import sources
from softbio_jax.data.drawing import synthetic
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError


def test_rows_labels_and_bytes(tmp_path):
    name = next(name for name in synthetic.SOURCES if name in synthetic.TEST_SETS)
    prepare.prepare("synthetic", source=name, out=tmp_path / "out", size=32, seed=3, count=6, test_count=2)
    dataset = sources.open_prepared(tmp_path / "out", "train")
    rows = list(synthetic.rows(name, "train", size=32, seed=3, count=6))
    assert dataset.columns["id"].tolist() == [row_id for row_id, _, _ in rows]
    assert [dataset[i] for i in range(6)] == [image for _, image, _ in rows]
    for task, labels in dataset.labels.items():
        assert labels.tolist() == [row[2].get(task, -1) for row in rows]
    assert len(sources.open_prepared(tmp_path / "out", "test")) == 2


def test_unknown_set(tmp_path):
    with pytest.raises(UserError, match="unknown synthetic set"):
        prepare.survey("synthetic", source="nothing")


def test_a_split_of_no_rows_is_not_drawn(tmp_path):
    report = prepare.prepare(
        "synthetic", source="synthetic_raf_db", out=tmp_path / "out", size=16, count=0, test_count=4
    )
    assert list(report["splits"]) == ["test"]
    with pytest.raises(UserError, match="nothing to draw"):
        prepare.prepare("synthetic", source="synthetic_raf_db", out=tmp_path / "no", count=0, test_count=0)
    assert not (tmp_path / "no").exists()
