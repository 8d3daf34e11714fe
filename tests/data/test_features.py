"""Opening prepared data imports nothing that the folder names."""

import json
import shutil
import sys

import pytest

from softbio_jax.data import features, sources
from softbio_jax.errors import UserError

OF_TFDS = "tensorflow_datasets.core.features"


@pytest.fixture
def folder(prepared, tmp_path):
    shutil.copytree(prepared / "faces", tmp_path / "faces")
    return tmp_path / "faces"


def rewrite(folder, change):
    path = folder / features.FILE
    values = json.loads(path.read_text())
    path.write_text(json.dumps(change(values) or values))


def of_the_whole(values):
    values["pythonClassName"] = "evil_features.X"


def of_one_feature(values):
    values["featuresDict"]["features"]["image"]["pythonClassName"] = "evil_features.X"


def under_the_name_of_the_protocol(values):
    values["featuresDict"]["features"]["image"]["python_class_name"] = "evil_features.X"
    del values["featuresDict"]["features"]["image"]["pythonClassName"]


def in_the_older_form(values):
    return {"type": "evil_features.X", "content": values}


def in_a_nested_dict(values):
    inner = {"pythonClassName": "evil_features.X", "text": {}}
    outer = {"pythonClassName": values["pythonClassName"], "featuresDict": {"features": {"x": inner}}}
    values["featuresDict"]["features"]["more"] = outer


def in_a_sequence(values):
    inner = {"pythonClassName": "evil_features.X", "text": {}}
    values["featuresDict"]["features"]["more"] = {
        "pythonClassName": f"{OF_TFDS}.sequence_feature.Sequence",
        "sequence": {"feature": inner},
    }


def with_settings_of_another_kind(values):
    values["featuresDict"]["features"]["id"]["jsonFeature"] = {"json": "{}"}


def with_another_class_of_tfds(values):
    values["featuresDict"]["features"]["image"]["pythonClassName"] = f"{OF_TFDS}.video_feature.Video"


KINDS = (
    of_the_whole,
    of_one_feature,
    under_the_name_of_the_protocol,
    in_the_older_form,
    in_a_nested_dict,
    in_a_sequence,
    with_settings_of_another_kind,
    with_another_class_of_tfds,
)


@pytest.mark.parametrize("change", KINDS, ids=lambda change: change.__name__)
def test_a_class_of_somebody_else_is_refused_and_not_imported(folder, monkeypatch, change):
    (folder / "evil_features.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(folder))
    rewrite(folder, change)
    with pytest.raises(UserError, match=r"features of another program.*features\.json") as caught:
        sources.open_prepared(folder, "train")
    assert "\n" not in str(caught.value)
    assert "evil_features" not in sys.modules


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": ' * 10_000], ids=["empty", "list", "cut", "deep"])
def test_a_damaged_file_is_one_line(folder, text):
    (folder / features.FILE).write_text(text)
    with pytest.raises(UserError, match="features"):
        sources.open_prepared(folder, "train")


def test_what_this_package_writes_is_accepted(folder):
    features.check(folder)
    assert len(sources.open_prepared(folder, "train")[0])
