"""Where files are in Colab, on Kaggle and elsewhere, and archives as the source of images."""

import sys
import tempfile
import types
import zipfile

import pytest

from softbio_jax import console
from softbio_jax.data.prepare import prepare
from softbio_jax.errors import UserError
from softbio_jax.notebook import runtime

DRAWN = {"dataset": "synthetic", "source": "synthetic_raf_db", "size": 48}


@pytest.fixture(autouse=True)
def local(monkeypatch):
    monkeypatch.setattr(console, "started_as", "")
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_WORKING_DIR", "SOFTBIO_DRIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)


@pytest.fixture
def colab(monkeypatch):
    """Colab's module, which notes what it is asked for and uploads `chosen`."""
    module = types.ModuleType("google.colab")
    module.mounted, module.chosen, module.uploads = [], {}, 0

    def upload():
        module.uploads += 1
        return module.chosen

    module.drive = types.SimpleNamespace(mount=module.mounted.append)
    module.files = types.SimpleNamespace(upload=upload)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return module


def test_elsewhere_folders_are_as_given():
    assert runtime.name() == "local"
    assert runtime.folders("runs/mine", "data/mine") == ("runs/mine", "data/mine")
    assert console.as_started("scripts/report.py RUN") == "softbio-jax report RUN"


def test_in_colab_runs_are_on_drive_which_is_mounted_once(colab, tmp_path, monkeypatch):
    kept = "/content/drive/MyDrive/softbio_jax/runs/mine"
    assert runtime.folders("runs/mine", "data/mine") == (kept, "data/mine")
    assert colab.mounted == ["/content/drive"]
    assert runtime.folders(kept, "data/mine") == (kept, "data/mine")  # the cell once more
    monkeypatch.setenv("SOFTBIO_DRIVE", str(tmp_path))
    (tmp_path / "MyDrive").mkdir()
    assert runtime.folders("runs/mine", "data")[0] == f"{tmp_path}/MyDrive/softbio_jax/runs/mine"
    assert str(tmp_path) not in colab.mounted


def test_on_kaggle_runs_are_in_the_output_and_data_are_not(monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    kept, data = "/kaggle/working/softbio_jax/runs/mine", f"{tempfile.gettempdir()}/softbio_jax/data/mine"
    assert runtime.folders("runs/mine", "data/mine") == (kept, data)
    assert runtime.folders(kept, data) == (kept, data)
    monkeypatch.setenv("KAGGLE_WORKING_DIR", str(tmp_path))
    assert runtime.folders("runs/mine", data)[0] == f"{tmp_path}/softbio_jax/runs/mine"


def archive(path, prefix="faces/"):
    """Two classes in two splits, in a folder, as people pack them."""
    from PIL import Image

    with zipfile.ZipFile(path, "w") as packed:
        for number, split in enumerate(("train", "train", "test")):
            for name in ("happy", "sad"):
                with packed.open(f"{prefix}{split}/{name}/{number}.png", "w") as file:
                    Image.new("RGB", (40, 40), (80 * number, len(name), 90)).save(file, "png")
        packed.writestr("__MACOSX/._x", b"")
    return path


def test_without_an_archive_the_source_is_as_given(tmp_path):
    assert runtime.source(DRAWN, archive="", task="age", out=tmp_path / "out") == DRAWN
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prefix", ["", "faces/", "all/faces/"])
def test_an_archive_is_prepared_as_a_folder_per_class(tmp_path, prefix):
    path = archive(tmp_path / "faces.zip", prefix)
    for _ in range(2):  # the cell once more
        source = runtime.source(DRAWN, archive=str(path), task="emotion", out=tmp_path / "out")
    assert (source["dataset"], source["task"]) == ("folder", "emotion") and "size" not in source
    report = prepare.prepare(**source, out=tmp_path / "data")
    assert report["splits"]["train"]["class_counts"]["emotion"]["happy"] == 2
    assert report["splits"]["test"]["class_counts"]["emotion"]["sad"] == 1


def test_the_lone_folder_of_a_split_is_not_entered(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("faces/Train/happy/1.png", b"")
    source = runtime.source(DRAWN, archive=str(tmp_path / "a.zip"), task="emotion", out=tmp_path / "out")
    assert source["source"] == str(tmp_path / "out" / "faces")


def test_another_source_keeps_its_arguments(tmp_path):
    path = archive(tmp_path / "faces.zip")
    given = {"dataset": "csv", "source": "x", "columns": "image=path"}
    assert runtime.source(given, archive=str(path), task="age", out=tmp_path / "out") == given | {
        "source": str(tmp_path / "out" / "faces")
    }


def test_colab_asks_for_a_file_once_per_runtime(colab, tmp_path):
    colab.chosen = {"faces.zip": archive(tmp_path / "faces.zip").read_bytes()}
    for _ in range(2):
        source = runtime.source(DRAWN, archive="upload", task="emotion", out=tmp_path / "out")
    assert colab.uploads == 1 and source["source"] == str(tmp_path / "out" / "faces")


def test_a_refused_upload_is_asked_for_again(colab, tmp_path):
    for chosen, message in (({}, "no file was chosen"), ({"a.zip": b"no zip"}, "no zip archive")):
        colab.chosen = chosen
        with pytest.raises(UserError, match=message):
            runtime.source(DRAWN, archive="upload", task="emotion", out=tmp_path / "out")
    assert colab.uploads == 2 and not (tmp_path / "out").exists()


def test_elsewhere_nothing_can_be_uploaded(tmp_path):
    with pytest.raises(UserError, match=r"expected Colab, found local; fix: name the path of the \.zip"):
        runtime.source(DRAWN, archive="upload", task="emotion", out=tmp_path / "out")
